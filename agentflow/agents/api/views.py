from __future__ import annotations

from typing import cast
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ...api import paging
from ...api.conditions import HealthShown
from ...api.idempotency import idempotent
from ...governance import access
from ...governance.models import User
from ...governance.roles import Permission
from .. import circuit, condition, performance, selectors
from ..models import Health, ToolType
from ..services import circuits, health, measurements, registration
from ..services.measurements import Measurement
from ..services.registration import AgentFields
from . import serializers

PAGE = [
    OpenApiParameter("workspaceId", UUID, description="Only this workspace's."),
    OpenApiParameter("search", str, description="Words in names and description."),
    OpenApiParameter("limit", int),
    OpenApiParameter("offset", int),
]
_FILTERS = [
    OpenApiParameter("toolType", str, enum=ToolType.values),
    OpenApiParameter("capability", str, description="The name of something it can do."),
    OpenApiParameter("tag", str, description="Of something it can do."),
    OpenApiParameter("health", str, enum=Health.values),
    OpenApiParameter("source", UUID, description="Found by this source."),
    OpenApiParameter("environment", str, description="May be chosen there."),
    OpenApiParameter("enabled", bool),
    OpenApiParameter("drifts", bool, description="Fails more, or is slower, than usual just now."),
]
KEY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)


class UserView(APIView):
    def user(self) -> User:
        return cast(User, self.request.user)


class AgentsView(UserView):
    @extend_schema(
        operation_id="agents_list",
        parameters=[*PAGE, *_FILTERS],
        responses={200: serializers.AgentList},
    )
    def get(self, request: Request) -> Response:
        """List the agents one may see."""
        rows = selectors.agents(
            self.user(),
            workspace_id=paging.uuid(request, "workspaceId"),
            search=paging.text(request, "search") or "",
            tool_type=paging.choice(request, "toolType", ToolType.values),
            capability=paging.text(request, "capability"),
            tag=paging.text(request, "tag"),
            health=paging.choice(request, "health", Health.values),
            source_id=paging.uuid(request, "source"),
            environment=paging.text(request, "environment"),
            enabled=paging.boolean(request, "enabled"),
            drifts=paging.boolean(request, "drifts"),
        )
        found, total = paging.page(request).of(rows)
        return Response({"agents": serializers.AgentShown(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="agents_create",
        parameters=[KEY],
        request=serializers.NewAgent,
        responses={201: serializers.AgentShown},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Register an agent."""
        body = serializers.NewAgent(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        workspace_id = access.chosen(self.user(), Permission.MANAGE_AGENTS, given.pop("workspace_id"))
        agent = registration.register_agent(
            by=self.user(), workspace_id=workspace_id, fields=AgentFields(**given)
        )
        headers = {"Location": f"{request.path}/{agent.pk}"}
        return Response(serializers.AgentShown(agent).data, status=201, headers=headers)


class AgentView(UserView):
    @extend_schema(operation_id="agents_get", responses={200: serializers.AgentWithCircuit})
    def get(self, request: Request, pk: UUID) -> Response:
        """Get an agent, and the state of its circuit."""
        return Response(serializers.AgentWithCircuit(selectors.agent(self.user(), pk)).data)

    @extend_schema(
        operation_id="agents_update",
        request=serializers.ChangedAgent,
        responses={200: serializers.AgentShown},
    )
    def put(self, request: Request, pk: UUID) -> Response:
        """Replace an agent."""
        agent = selectors.agent(self.user(), pk)
        access.require(self.user(), Permission.MANAGE_AGENTS, agent.workspace_id)
        body = serializers.ChangedAgent(data=request.data)
        body.is_valid(raise_exception=True)
        agent = registration.update_agent(
            by=self.user(), pk=pk, workspace_id=agent.workspace_id, fields=AgentFields(**body.validated_data)
        )
        return Response(serializers.AgentShown(agent).data)

    @extend_schema(
        operation_id="agents_patch",
        request=serializers.ChangedAgent(partial=True),
        responses={200: serializers.AgentShown},
    )
    def patch(self, request: Request, pk: UUID) -> Response:
        """Change some fields of an agent."""
        agent = selectors.agent(self.user(), pk)
        access.require(self.user(), Permission.MANAGE_AGENTS, agent.workspace_id)
        given = request.data if isinstance(request.data, dict) else None
        shown = serializers.AgentShown(agent).data
        kept = {name: shown[name] for name in serializers.ChangedAgent().fields}
        body = serializers.ChangedAgent(data=request.data if given is None else {**kept, **given})
        body.is_valid(raise_exception=True)
        sent = {field.source for name, field in body.fields.items() if given and name in given}
        changes = {name: value for name, value in body.validated_data.items() if name in sent}
        agent = registration.change_agent(
            by=self.user(), pk=pk, workspace_id=agent.workspace_id, changes=changes
        )
        return Response(serializers.AgentShown(agent).data)

    @extend_schema(operation_id="agents_delete", responses={200: serializers.Deleted})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Delete an agent; blocks that name it fail from then on."""
        agent = selectors.agent(self.user(), pk)
        registration.delete_agent(by=self.user(), pk=pk, workspace_id=agent.workspace_id)
        return Response({"success": True})


class ResetCircuitView(UserView):
    @extend_schema(
        operation_id="agents_reset_circuit", request=None, responses={200: serializers.CircuitShown}
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Close an agent's circuit, so that it is called again at once; safe to repeat."""
        agent = selectors.agent(self.user(), pk)
        state = circuits.reset_circuit(by=self.user(), pk=pk, workspace_id=agent.workspace_id)
        return Response(serializers.CircuitShown(state).data)


class PerformanceView(UserView):
    @extend_schema(
        operation_id="agents_performance",
        parameters=[
            OpenApiParameter("window", str, enum=list(performance.WINDOWS), description="24h unless said."),
            OpenApiParameter("capability", str, description="Only calls that asked for it."),
        ],
        responses={200: serializers.PerformanceShown},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """How an agent's calls went lately, in total and over time, and its circuit."""
        agent = selectors.agent(self.user(), pk)
        window = paging.choice(request, "window", list(performance.WINDOWS)) or "24h"
        told = performance.report(agent, window, paging.text(request, "capability") or "")
        shown = serializers.CircuitShown(circuit.state_of(agent)).data
        return Response({**told, "circuit": shown})


class MetricsView(UserView):
    @extend_schema(
        operation_id="agents_metrics",
        request=serializers.NewMeasurements,
        responses={200: serializers.MeasurementsTaken},
    )
    def post(self, request: Request, pk: UUID) -> Response:
        """Count calls of an agent that others made and measured; each id once, so safe to repeat."""
        agent = selectors.agent(self.user(), pk)
        access.require(self.user(), Permission.MANAGE_AGENTS, agent.workspace_id)
        body = serializers.NewMeasurements(data=request.data)
        body.is_valid(raise_exception=True)
        now = timezone.now()
        taken = [Measurement(**{"at": now, **each}) for each in body.validated_data["metrics"]]
        counted = measurements.take(
            by=self.user(), pk=pk, workspace_id=agent.workspace_id, measurements=taken
        )
        return Response({"counted": counted})


class AgentVersionsView(UserView):
    @extend_schema(
        operation_id="agents_versions",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("offset", int)],
        responses={200: serializers.AgentVersionList},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """List what calling an agent meant, the newest version first."""
        found, total = paging.page(request).of(selectors.versions(self.user(), pk))
        return Response({"versions": serializers.AgentVersionShown(found, many=True).data, "total": total})


class ConditionView(UserView):
    @extend_schema(operation_id="agents_condition", responses={200: HealthShown})
    def get(self, request: Request, pk: UUID) -> Response:
        """How well an agent is, why, and whether it gets better or worse."""
        return Response(condition.of(selectors.agent(self.user(), pk)).as_json())


class AgentHealthView(UserView):
    @extend_schema(operation_id="agents_health", responses={200: serializers.AgentHealth})
    def get(self, request: Request, pk: UUID) -> Response:
        """The last looks at an agent's health."""
        return self._answer(pk)

    @extend_schema(operation_id="agents_health_check", request=None, responses={200: serializers.AgentHealth})
    def post(self, request: Request, pk: UUID) -> Response:
        """Look at an agent's health now."""
        agent = selectors.agent(self.user(), pk)
        health.check(pk=pk, by=self.user(), workspace_id=agent.workspace_id)
        return self._answer(pk)

    def _answer(self, pk: UUID) -> Response:
        agent = selectors.agent(self.user(), pk)
        shown = {"health": agent.health, "checks": agent.checks.order_by("-pk")}
        return Response(serializers.AgentHealth(shown).data)
