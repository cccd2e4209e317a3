from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from .. import outbox, selectors, targets, wishes
from ..models import WorkspaceNotifications
from ..states import Channel, DeliveryState
from ..targets import TargetFields
from . import serializers

WORKSPACE = OpenApiParameter("workspaceId", UUID, description=serializers.WORKSPACE_HELP)
PAGE = [
    OpenApiParameter("workspaceId", UUID),
    OpenApiParameter("limit", int),
    OpenApiParameter("offset", int),
]


class _View(APIView):
    def user(self) -> User:
        return access.signed_in(self.request.user)

    def workspace(self, request: Request, permission: Permission) -> UUID:
        return access.chosen(self.user(), permission, paging.uuid(request, "workspaceId"))


class PreferencesView(_View):
    @extend_schema(
        operation_id="notification_preferences_get",
        parameters=[WORKSPACE],
        responses={200: serializers.PreferencesShown},
    )
    def get(self, request: Request) -> Response:
        """What one is told, and how, in one workspace."""
        workspace_id = self.workspace(request, Permission.VIEW)
        return self._shown(workspace_id, wishes.choice_of(self.user(), workspace_id))

    @extend_schema(
        operation_id="notification_preferences_put",
        request=serializers.Preferences,
        responses={200: serializers.PreferencesShown},
    )
    def put(self, request: Request) -> Response:
        """Choose what one is told, and how; quiet hours put mail off and drop browser notices."""
        body = serializers.Preferences(data=request.data)
        body.is_valid(raise_exception=True)
        fields = dict(body.validated_data)
        workspace_id = access.chosen(self.user(), Permission.VIEW, fields.pop("workspace_id"))
        choice = wishes.put(user=self.user(), workspace_id=workspace_id, given=_given(fields))
        return self._shown(workspace_id, choice)

    @extend_schema(
        operation_id="notification_preferences_delete",
        parameters=[WORKSPACE],
        responses={200: serializers.PreferencesShown},
    )
    def delete(self, request: Request) -> Response:
        """Go back to what the workspace says."""
        workspace_id = self.workspace(request, Permission.VIEW)
        return self._shown(workspace_id, wishes.forget(user=self.user(), workspace_id=workspace_id))

    def _shown(self, workspace_id: UUID, choice: wishes.Choice) -> Response:
        quiet = choice.quiet
        shown = {
            "workspace_id": workspace_id,
            "topics": choice.topics,
            "quiet_hours": {"begins": quiet.begins, "ends": quiet.ends} if quiet else None,
            "zone": choice.zone,
            "digest": choice.digest,
            "own": choice.own,
            "quiet_until": quiet.end_for(timezone.now(), choice.zone_info) if quiet else None,
            "address": self.user().email,
        }
        return Response(serializers.PreferencesShown(shown).data)


class DefaultsView(_View):
    @extend_schema(
        operation_id="notification_defaults_get",
        parameters=[WORKSPACE],
        responses={200: serializers.Defaults},
    )
    def get(self, request: Request) -> Response:
        """What holds for members who chose nothing, and the workspace's rules for links in mails."""
        return self._shown(wishes.rules_of(self.workspace(request, Permission.ADMINISTER)))

    @extend_schema(
        operation_id="notification_defaults_put",
        request=serializers.Defaults,
        responses={200: serializers.Defaults},
    )
    def put(self, request: Request) -> Response:
        """Set them."""
        body = serializers.Defaults(data=request.data)
        body.is_valid(raise_exception=True)
        fields = dict(body.validated_data)
        rules = wishes.put_rules(
            by=self.user(),
            workspace_id=access.chosen(self.user(), Permission.ADMINISTER, fields.pop("workspace_id")),
            link_hours=fields.pop("link_hours"),
            login_kinds=fields.pop("login_kinds", []),
            login_levels=fields.pop("login_levels", []),
            stakeholders=fields.pop("stakeholders"),
            given=_given(fields),
        )
        return self._shown(rules)

    def _shown(self, rules: WorkspaceNotifications) -> Response:
        quiet = rules.quiet_from is not None
        shown = {
            "workspace_id": rules.workspace_id,
            "topics": rules.topics,
            "quiet_hours": {"begins": rules.quiet_from, "ends": rules.quiet_to} if quiet else None,
            "zone": rules.zone,
            "digest": rules.digest,
            "link_hours": rules.link_hours,
            "login_kinds": rules.login_kinds,
            "login_levels": rules.login_levels,
            "stakeholders": rules.stakeholders,
        }
        return Response(serializers.Defaults(shown).data)


def _given(fields: dict[str, Any]) -> wishes.Given:
    quiet = fields["quiet_hours"] or {}
    return wishes.Given(
        topics=fields["topics"],
        quiet_from=quiet.get("begins"),
        quiet_to=quiet.get("ends"),
        zone=fields["zone"],
        digest=fields["digest"],
    )


class TargetsView(_View):
    @extend_schema(
        operation_id="notification_targets_list",
        parameters=PAGE,
        responses={200: serializers.TargetList},
    )
    def get(self, request: Request) -> Response:
        """List the webhooks and chats that the workspaces one administers are told at."""
        rows = selectors.targets(self.user(), paging.uuid(request, "workspaceId"))
        found, total = paging.page(request).of(rows)
        return Response({"targets": serializers.TargetShown(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="notification_targets_create",
        request=serializers.NewTarget,
        responses={201: serializers.TargetShown},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Have a webhook or a chat told of what happens to questions."""
        body = serializers.NewTarget(data=request.data)
        body.is_valid(raise_exception=True)
        fields = dict(body.validated_data)
        workspace_id = access.chosen(self.user(), Permission.ADMINISTER, fields.pop("workspace_id"))
        target = targets.add(by=self.user(), workspace_id=workspace_id, fields=TargetFields(**fields))
        headers = {"Location": f"{request.path}/{target.pk}"}
        return Response(serializers.TargetShown(target).data, status=201, headers=headers)


class TargetView(_View):
    @extend_schema(operation_id="notification_targets_get", responses={200: serializers.TargetShown})
    def get(self, request: Request, pk: UUID) -> Response:
        """Get a target."""
        return Response(serializers.TargetShown(selectors.target(self.user(), pk)).data)

    @extend_schema(
        operation_id="notification_targets_put",
        request=serializers.NewTarget,
        responses={200: serializers.TargetShown},
    )
    def put(self, request: Request, pk: UUID) -> Response:
        """Change a target; it stays in its workspace."""
        selectors.target(self.user(), pk)
        body = serializers.NewTarget(data=request.data)
        body.is_valid(raise_exception=True)
        fields = dict(body.validated_data)
        fields.pop("workspace_id")
        target = targets.change(by=self.user(), pk=pk, fields=TargetFields(**fields))
        return Response(serializers.TargetShown(target).data)

    @extend_schema(operation_id="notification_targets_delete", responses={200: serializers.TargetRemoved})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Remove a target, with the record of what it was sent."""
        targets.remove(by=self.user(), pk=pk)
        return Response({"success": True})


class DeliveriesView(_View):
    @extend_schema(
        operation_id="deliveries_list",
        parameters=[
            *PAGE,
            OpenApiParameter("state", str, enum=DeliveryState.values),
            OpenApiParameter("channel", str, enum=Channel.values),
            OpenApiParameter("approvalId", UUID),
        ],
        responses={200: serializers.DeliveryList},
    )
    def get(self, request: Request) -> Response:
        """List the messages of the workspaces one administers; `state=dead` are those given up."""
        rows = selectors.deliveries(
            self.user(),
            workspace_id=paging.uuid(request, "workspaceId"),
            state=paging.choice(request, "state", DeliveryState.values),
            channel=paging.choice(request, "channel", Channel.values),
            approval_id=paging.uuid(request, "approvalId"),
        )
        found, total = paging.page(request).of(rows)
        return Response({"deliveries": serializers.DeliveryShown(found, many=True).data, "total": total})


class ResendView(_View):
    @extend_schema(
        operation_id="deliveries_resend",
        request=serializers.Nothing,
        responses={200: serializers.DeliveryShown},
    )
    @idempotent
    def post(self, request: Request, pk: UUID) -> Response:
        """Try a message that was given up once more; it keeps its id."""
        serializers.Nothing(data=request.data).is_valid(raise_exception=True)
        row = outbox.send_again(pk=pk, by=self.user())
        return Response(serializers.DeliveryShown(row).data)
