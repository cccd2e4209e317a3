"""REST of who takes a question, and of the rules for it."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.api.serializers import StrictSerializer
from agentflow.governance import access
from agentflow.governance.roles import Permission

from ..models import Absence
from ..services import absences, handing, policies
from ..services.votes import COMMENTS_CHARS
from .serializers import REASON_CHARS, CommentSerializer, Done

NAME_CHARS = 150


class DelegateBody(StrictSerializer):
    to = serializers.CharField(max_length=NAME_CHARS, help_text="The username of who answers instead.")
    reason = serializers.CharField(max_length=REASON_CHARS)


class ReassignBody(StrictSerializer):
    """One of `to`, `toLevel` and `toGroup`."""

    to = serializers.CharField(max_length=NAME_CHARS, required=False, default="")
    to_level = serializers.CharField(max_length=200, required=False, default="")
    to_group = serializers.CharField(max_length=NAME_CHARS, required=False, default="")
    reason = serializers.CharField(max_length=REASON_CHARS)


class CommentBody(StrictSerializer):
    text = serializers.CharField(max_length=COMMENTS_CHARS)


class ClaimView(APIView):
    @extend_schema(operation_id="approvals_claim", request=None, responses={200: Done})
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Take a question for half an hour, so that nobody else answers it meanwhile."""
        handing.claim(approval_id=approval_id, by=access.signed_in(request.user))
        return Response({"success": True})


class ReleaseView(APIView):
    @extend_schema(operation_id="approvals_release", request=None, responses={200: Done})
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Let others have it again; operators release what somebody else holds."""
        handing.release(approval_id=approval_id, by=access.signed_in(request.user))
        return Response({"success": True})


class DelegateView(APIView):
    @extend_schema(operation_id="approvals_delegate", request=DelegateBody, responses={200: Done})
    @idempotent
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Give one's part in a question to somebody else."""
        body = DelegateBody(data=request.data)
        body.is_valid(raise_exception=True)
        handing.delegate(approval_id=approval_id, by=access.signed_in(request.user), **body.validated_data)
        return Response({"success": True})


class ReassignView(APIView):
    @extend_schema(operation_id="approvals_reassign", request=ReassignBody, responses={200: Done})
    @idempotent
    def post(self, request: Request, approval_id: UUID) -> Response:
        """As an operator: let others answer in place of those asked now."""
        body = ReassignBody(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        handing.reassign(
            approval_id=approval_id,
            by=access.signed_in(request.user),
            reason=given["reason"],
            to_user=given["to"],
            to_level=given["to_level"],
            to_group=given["to_group"],
        )
        return Response({"success": True})


class CommentsView(APIView):
    @extend_schema(operation_id="approvals_comment", request=CommentBody, responses={201: CommentSerializer})
    @idempotent
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Say something about a question without deciding it."""
        body = CommentBody(data=request.data)
        body.is_valid(raise_exception=True)
        remark = handing.comment(
            approval_id=approval_id, by=access.signed_in(request.user), **body.validated_data
        )
        return Response(CommentSerializer(remark).data, status=201)


class ApprovalPolicySerializer(StrictSerializer):
    """A workspace's rules for its questions, and when it works."""

    own_requests = serializers.BooleanField(
        required=False, help_text="Who started an execution may approve what it asks."
    )
    own_templates = serializers.BooleanField(
        required=False, help_text="Who wrote a template may pass the only gate that it has."
    )
    zone = serializers.CharField(required=False, max_length=60)
    working_days = serializers.ListField(
        child=serializers.IntegerField(), required=False, max_length=7, help_text="1 is Monday, 7 is Sunday."
    )
    day_begins = serializers.TimeField(required=False)
    day_ends = serializers.TimeField(required=False)
    country = serializers.CharField(
        required=False, allow_blank=True, max_length=6, help_text="Its public holidays are free: DE, US-CA."
    )
    holidays = serializers.ListField(
        child=serializers.DateField(), required=False, max_length=400, help_text="More free days."
    )


WORKSPACE = OpenApiParameter("workspaceId", UUID)


class PolicyView(APIView):
    @extend_schema(
        operation_id="approvals_policy", parameters=[WORKSPACE], responses={200: ApprovalPolicySerializer}
    )
    def get(self, request: Request) -> Response:
        """Who may not decide about their own, and when the workspace works."""
        workspace_id = access.chosen(request.user, Permission.VIEW, paging.uuid(request, "workspaceId"))
        return Response(ApprovalPolicySerializer(policies.policy_of(workspace_id)).data)

    @extend_schema(
        operation_id="approvals_policy_change",
        parameters=[WORKSPACE],
        request=ApprovalPolicySerializer,
        responses={200: ApprovalPolicySerializer},
    )
    def patch(self, request: Request) -> Response:
        """Change what is given; questions that are open keep the rules they were asked with."""
        workspace_id = access.chosen(request.user, Permission.ADMINISTER, paging.uuid(request, "workspaceId"))
        body = ApprovalPolicySerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        if "holidays" in given:
            given["holidays"] = [day.isoformat() for day in given["holidays"]]
        policy = policies.change(workspace_id=workspace_id, by=access.signed_in(request.user), **given)
        return Response(ApprovalPolicySerializer(policy).data)


class AbsenceSerializer(StrictSerializer):
    id = serializers.IntegerField(read_only=True)
    workspace_id = serializers.UUIDField(required=False, allow_null=True, default=None)
    user = serializers.CharField(
        source="user.username", required=False, max_length=NAME_CHARS, help_text="Oneself unless named."
    )
    deputy = serializers.CharField(
        source="deputy.username", required=False, allow_null=True, default=None, max_length=NAME_CHARS
    )
    starts_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField()
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=REASON_CHARS)


class Absences(StrictSerializer):
    absences = AbsenceSerializer(many=True)
    total = serializers.IntegerField()


class AbsencesView(APIView):
    @extend_schema(
        operation_id="approvals_absences",
        parameters=[WORKSPACE, OpenApiParameter("limit", int), OpenApiParameter("offset", int)],
        responses={200: Absences},
    )
    def get(self, request: Request) -> Response:
        """Who is away in one's workspaces, and who stands in for them."""
        rows = Absence.objects.visible_to(request.user).select_related("user", "deputy")
        if (workspace_id := paging.uuid(request, "workspaceId")) is not None:
            rows = rows.filter(workspace=workspace_id)
        found, total = paging.page(request).of(rows)
        return Response({"absences": AbsenceSerializer(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="approvals_absences_add", request=AbsenceSerializer, responses={201: AbsenceSerializer}
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Be away, with a deputy or without; administrators do so for others."""
        body = AbsenceSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        deputy = given.get("deputy") or {}
        made = absences.add(
            workspace_id=access.chosen(request.user, Permission.VIEW, given["workspace_id"]),
            by=access.signed_in(request.user),
            user=given.get("user", {}).get("username", access.signed_in(request.user).get_username()),
            deputy=(deputy if isinstance(deputy, str) else deputy.get("username")) or "",
            starts_at=given["starts_at"],
            ends_at=given["ends_at"],
            reason=given["reason"],
        )
        return Response(AbsenceSerializer(made).data, status=201)


class AbsenceView(APIView):
    @extend_schema(operation_id="approvals_absences_remove", responses={204: None})
    def delete(self, request: Request, absence_id: int) -> Response:
        """Be back, or not go."""
        absences.remove(absence_id=absence_id, by=access.signed_in(request.user))
        return Response(status=204)
