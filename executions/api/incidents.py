"""Incidents: failures of one kind as one thing that people look after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.api.paging import BadParameter
from agentflow.api.serializers import StrictSerializer
from agentflow.types import JSONObject

from ..incidents import handling, reads, together
from ..incidents.models import IncidentBlock
from ..incidents.states import IncidentState
from . import incident_serializers as serializers
from .serializers import SuccessSerializer
from .views import PAGE, ExecutionAPIView, _query

FILTERS = [
    _query(
        "state", str, "Any of these; repeated or with commas.", many=True, enum=list(IncidentState.values)
    ),
    _query("workspaceId", UUID, "Only this workspace's."),
    _query("templateId", UUID, "Only this template's."),
    _query("executionId", UUID, "Only those that count a failure of this execution."),
    _query("blockId", str, "Only this block's."),
    _query("code", str, "Only failures with this code."),
    _query("assignee", str, "Only those of this user; `-` for those of nobody."),
    _query("simulated", bool, "Only those of simulated executions, or only those of real ones."),
    _query("search", str, "Part of the template's name, the blockId, the code or the message."),
]


class IncidentsView(ExecutionAPIView):
    @extend_schema(
        operation_id="incidents_list",
        parameters=[*FILTERS, *PAGE],
        responses={200: serializers.IncidentListSerializer},
    )
    def get(self, request: Request) -> Response:
        """List incidents, those first that failed last."""
        found, total = paging.page(request).of(reads.matching(self.user(), _filter(request)))
        return Response({"incidents": [reads.as_json(each) for each in found], "total": total})


class IncidentView(ExecutionAPIView):
    @extend_schema(operation_id="incidents_get", responses={200: serializers.IncidentDetailSerializer})
    def get(self, request: Request, incident_id: UUID) -> Response:
        """Get an incident: its first failure, how far it reaches, what people did about it."""
        return Response(reads.detail(reads.find(self.user(), incident_id)))


class IncidentBlocksView(ExecutionAPIView):
    @extend_schema(
        operation_id="incidents_blocks",
        parameters=PAGE,
        responses={200: serializers.IncidentBlockListSerializer},
    )
    def get(self, request: Request, incident_id: UUID) -> Response:
        """List the blocks of executions whose failures an incident counts, the latest failure first."""
        incident = reads.find(self.user(), incident_id)
        found, total = paging.page(request).of(reads.blocks(incident))
        return Response({"blocks": [_block(each) for each in found], "total": total})


class _CommandView(ExecutionAPIView):
    def carry_out(
        self,
        request: Request,
        incident_id: UUID,
        body: type[StrictSerializer],
        do: Callable[..., None],
    ) -> Response:
        reads.find(self.user(), incident_id)
        given = body(data=request.data)
        given.is_valid(raise_exception=True)
        do(incident_id=incident_id, by=self.user(), **given.validated_data)
        return Response({"success": True})


def _command(name: str, body: type[StrictSerializer]) -> Callable[[Any], Any]:
    return extend_schema(operation_id=f"incidents_{name}", request=body, responses={200: SuccessSerializer})


class AssignView(_CommandView):
    @_command("assign", serializers.AssignIncidentSerializer)
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Give an incident to a user who may operate in its workspace, or to nobody."""
        return self.carry_out(request, incident_id, serializers.AssignIncidentSerializer, handling.assign)


class CommentView(_CommandView):
    @_command("comment", serializers.CommentIncidentSerializer)
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Say something about an incident."""
        return self.carry_out(request, incident_id, serializers.CommentIncidentSerializer, handling.comment)


class SnoozeView(_CommandView):
    @_command("snooze", serializers.SnoozeIncidentSerializer)
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Leave an incident alone until a moment; its failures are counted all the same."""
        return self.carry_out(request, incident_id, serializers.SnoozeIncidentSerializer, handling.snooze)


class WakeView(_CommandView):
    @_command("wake", StrictSerializer)
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """End an incident's snooze."""
        return self.carry_out(request, incident_id, StrictSerializer, handling.wake)


class ResolveView(_CommandView):
    @_command("resolve", serializers.ResolveIncidentSerializer)
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Close an incident.  The next failure of its kind opens a new one."""
        return self.carry_out(request, incident_id, serializers.ResolveIncidentSerializer, handling.resolve)


class LinkView(_CommandView):
    @_command("link", serializers.LinkIncidentSerializer)
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Name where else an incident is worked on."""
        return self.carry_out(request, incident_id, serializers.LinkIncidentSerializer, handling.link)


class IncidentsBatchView(ExecutionAPIView):
    # No Idempotency-Key, as with a batch of executions: what is done already does not match again.
    @extend_schema(
        operation_id="incidents_batch",
        request=serializers.IncidentsBatchSerializer,
        responses={200: serializers.IncidentsReportSerializer},
    )
    def post(self, request: Request) -> Response:
        """Assign, comment, snooze, wake or resolve many incidents, each for itself; up to 500 a call."""
        body = serializers.IncidentsBatchSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        chosen = dict(given["filter"])
        ids, states = chosen.pop("ids"), tuple(chosen.pop("state"))
        if chosen["assignee"] == "-":
            chosen["assignee"] = ""
        command = together.Command(given["command"])
        report = together.carry_out(
            by=self.user(),
            asked=together.Together(
                command=command,
                given={name: given[name] for name in ("to", "text", "until", "comment") if name in given},
                chosen=reads.Filter(states=states, **chosen),
                ids=ids,
                everything=given["all"],
                preview=given["preview"],
                limit=given["limit"],
                after=given["after"],
            ),
        )
        told = {"matched": report.matched, "left": report.left, "next": report.next}
        results = [_result(each) for each in report.results]
        return Response({"command": command, "preview": given["preview"], **told, "results": results})


def _result(each: together.Result) -> JSONObject:
    shown: JSONObject = {"incidentId": each.incident_id, "state": each.state or None, "ok": each.ok}
    return shown if each.ok else {**shown, "code": each.code, "message": each.message}


def _block(each: IncidentBlock) -> JSONObject:
    return {
        "executionId": each.execution_id,
        "executionStatus": each.execution.status,
        "blockExecutionId": str(each.block_id),
        "epoch": each.block.epoch,
        "item": each.block.iteration or None,
        "status": each.block.status,
        "reason": each.block.reason,
        "failures": each.failures,
        "firstSeen": each.first_at,
        "lastSeen": each.last_at,
    }


def _filter(request: Request) -> reads.Filter:
    states = paging.texts(request, "state")
    for state in states:
        if state not in IncidentState.values:
            raise BadParameter("state", f"must be one of {', '.join(IncidentState.values)}.")
    assignee = paging.text(request, "assignee")
    return reads.Filter(
        states=states,
        workspace_id=paging.uuid(request, "workspaceId"),
        template_id=paging.uuid(request, "templateId"),
        execution_id=paging.uuid(request, "executionId"),
        block_id=paging.text(request, "blockId"),
        code=paging.text(request, "code"),
        assignee="" if assignee == "-" else assignee,
        simulated=paging.boolean(request, "simulated"),
        search=paging.text(request, "search") or "",
    )
