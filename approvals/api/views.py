from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.governance import access

from .. import fix, selectors
from ..models import ApprovalKind
from ..selectors import Filter
from ..services import batch, responding, rework
from ..states import ApprovalStatus
from . import serializers

FILTERS: list[Any] = [
    OpenApiParameter("executionId", UUID),
    OpenApiParameter("blockId", str),
    OpenApiParameter("type", str, enum=ApprovalKind.values),
    OpenApiParameter("workspaceId", UUID),
    OpenApiParameter("slaState", str, enum=list(selectors.SLA)),
    OpenApiParameter("limit", int),
    OpenApiParameter("offset", int),
]


def _orders(names: dict[str, str]) -> list[str]:
    return [sign + name for name in names for sign in ("", "-")]


class PendingApprovalsView(APIView):
    @extend_schema(
        operation_id="approvals_pending",
        parameters=[*FILTERS, OpenApiParameter("ordering", str, enum=_orders(selectors.ORDERINGS))],
        responses={200: serializers.PendingApprovals},
    )
    def get(self, request: Request) -> Response:
        """What waits for an answer by oneself, the nearest deadline first."""
        rows = selectors.pending_for(request.user, _filter(request, selectors.ORDERINGS))
        found, total = paging.page(request).of(rows, selectors.shown)
        return Response({"approvals": serializers.PendingApproval(found, many=True).data, "total": total})


class ApprovalsView(APIView):
    @extend_schema(
        operation_id="approvals_list",
        parameters=[
            *FILTERS,
            OpenApiParameter("status", str, many=True, explode=False, enum=ApprovalStatus.values),
            OpenApiParameter("ordering", str, enum=_orders(selectors.HISTORY_ORDERINGS)),
        ],
        responses={200: serializers.ApprovalRecords},
    )
    def get(self, request: Request) -> Response:
        """All questions of one's workspaces, decided or not, the latest first."""
        rows = selectors.history_for(request.user, _filter(request, selectors.HISTORY_ORDERINGS))
        found, total = paging.page(request).of(rows, selectors.shown)
        return Response({"approvals": serializers.ApprovalRecord(found, many=True).data, "total": total})


class ApprovalView(APIView):
    @extend_schema(operation_id="approvals_get", responses={200: serializers.ApprovalDetail})
    def get(self, request: Request, approval_id: UUID) -> Response:
        """One question, also a decided one, with what follows each answer."""
        approval = selectors.find(request.user, approval_id)
        may_decide = (
            approval.status == ApprovalStatus.PENDING
            and selectors.decidable_by(request.user).filter(pk=approval.pk).exists()
        )
        follows = serializers.FollowsSerializer(selectors.what_follows(approval)).data
        shown = serializers.ApprovalRecord(approval).data
        people = {
            "votes": serializers.VoteSerializer(selectors.votes_of(approval), many=True).data,
            "levels": serializers.LevelSerializer(selectors.levels_of(approval), many=True).data,
            "assignees": serializers.AssigneeSerializer(selectors.assignees_of(approval), many=True).data,
            "remarks": serializers.CommentSerializer(selectors.remarks_of(approval), many=True).data,
        }
        offer = rework.offer(approval)
        back = serializers.OfferSerializer(offer).data if offer is not None else None
        about = fix.shown(approval, access.signed_in(request.user))
        stuck = serializers.StuckStepSerializer(about).data if about is not None else None
        more = {"mayDecide": may_decide, "follows": follows, "rework": back, "fix": stuck}
        return Response({**shown, **people, **more})


class RespondView(APIView):
    @extend_schema(
        operation_id="approvals_respond", request=serializers.Answer, responses={200: serializers.Done}
    )
    @idempotent
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Answer a question.  The same answer again changes nothing; a different one is a conflict."""
        body = serializers.Answer(data=request.data)
        body.is_valid(raise_exception=True)
        by = access.signed_in(request.user)
        responding.respond(approval_id=approval_id, by=by, channel=_channel(request), **body.validated_data)
        return Response({"success": True})


class ReworkView(APIView):
    @extend_schema(
        operation_id="approvals_rework", request=serializers.SendBack, responses={200: serializers.Done}
    )
    @idempotent
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Send the execution back: blocks before the one that asks run again, and what depends on them."""
        body = serializers.SendBack(data=request.data)
        body.is_valid(raise_exception=True)
        by = access.signed_in(request.user)
        rework.send_back(approval_id=approval_id, by=by, channel=_channel(request), **body.validated_data)
        return Response({"success": True})


class RespondManyView(APIView):
    @extend_schema(
        operation_id="approvals_respond_many",
        request=serializers.Answers,
        responses={200: serializers.ItemResults},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Answer many questions about one block, of a list's items say; each is taken by itself."""
        body = serializers.Answers(data=request.data)
        body.is_valid(raise_exception=True)
        answers = [batch.Answer(**given) for given in body.validated_data["answers"]]
        by = access.signed_in(request.user)
        results = batch.respond_many(by=by, answers=answers, channel=_channel(request))
        return Response({"results": serializers.ItemResult(results, many=True).data})


class WithdrawManyView(APIView):
    @extend_schema(
        operation_id="approvals_withdraw_many",
        request=serializers.Withdrawal,
        responses={200: serializers.ItemResults},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """As an operator: take questions back.  Their steps fail, each by itself."""
        body = serializers.Withdrawal(data=request.data)
        body.is_valid(raise_exception=True)
        results = batch.withdraw_many(by=access.signed_in(request.user), **body.validated_data)
        return Response({"results": serializers.ItemResult(results, many=True).data})


def _channel(request: Request) -> str:
    """Pages come with a session, programs with a token; without a name it is the address's channel."""
    return "page" if isinstance(request.successful_authenticator, SessionAuthentication) else ""


def _filter(request: Request, orderings: dict[str, str]) -> Filter:
    statuses = paging.texts(request, "status")
    for status in statuses:
        if status not in ApprovalStatus.values:
            raise paging.BadParameter("status", f"must be among {', '.join(ApprovalStatus.values)}.")
    return Filter(
        workspace_id=paging.uuid(request, "workspaceId"),
        execution_id=paging.uuid(request, "executionId"),
        block_id=paging.text(request, "blockId"),
        kind=paging.choice(request, "type", ApprovalKind.values),
        statuses=statuses,
        sla=paging.choice(request, "slaState", list(selectors.SLA)),
        ordering=paging.choice(request, "ordering", _orders(orderings)) or "",
    )
