"""Repairing all blocks that an incident holds at once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.conf import LIMITS
from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from ..incidents import reads, repairs
from ..incidents.fixes import Fix
from ..incidents.models import Incident
from ..incidents.repair_models import RepairRun
from . import repair_serializers as serializers
from .serializers import SuccessSerializer
from .views import PAGE, ExecutionAPIView


class _RepairView(ExecutionAPIView):
    max_body_bytes = LIMITS.template_body_bytes  # an output is as large as of a block completed by hand

    def incident(self, incident_id: UUID) -> Incident:
        """One that the user may repair."""
        incident = reads.find(self.user(), incident_id)
        access.require(self.user(), Permission.OPERATE, incident.workspace_id)
        return incident

    def repair(self, incident_id: UUID, repair_id: UUID) -> RepairRun:
        repair = repairs.find(self.user(), repair_id)
        if repair.incident_id != incident_id:
            raise NotFound("There is no such repair.", repair_id=str(repair_id))
        return repair


class RepairPlanView(_RepairView):
    @extend_schema(
        operation_id="incidents_repair_plan",
        request=serializers.RepairPlanRequestSerializer,
        parameters=PAGE,
        responses={200: serializers.RepairPlanSerializer},
    )
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Say what a fix would do to each block that an incident holds.  Changes nothing."""
        incident = self.incident(incident_id)
        body = serializers.RepairPlanRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        page = paging.page(request)
        fix = _fix(body.validated_data["fix"])
        found = repairs.foresee(incident=incident, fix=fix)
        shown = found[page.offset : page.offset + page.limit]
        told = {**repairs.summary(found), "difference": repairs.difference(incident, fix)}
        return Response({**told, "blocks": [_foreseen(each) for each in shown]})


class RepairsView(_RepairView):
    @extend_schema(
        operation_id="incidents_repairs",
        parameters=PAGE,
        responses={200: serializers.RepairListSerializer},
    )
    def get(self, request: Request, incident_id: UUID) -> Response:
        """List an incident's repairs, the latest first."""
        incident = reads.find(self.user(), incident_id)
        rows = repairs.repairs(self.user()).filter(incident=incident)
        found, total = paging.page(request).of(rows)
        return Response({"repairs": [repairs.as_json(each) for each in found], "total": total})

    @extend_schema(
        operation_id="incidents_repair",
        request=serializers.RepairRequestSerializer,
        responses={201: serializers.RepairRunSerializer},
    )
    @idempotent
    def post(self, request: Request, incident_id: UUID) -> Response:
        """Apply a fix to every block that an incident holds: to one first, to the rest once it is mended."""
        incident = self.incident(incident_id)
        body = serializers.RepairRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        repair = repairs.begin(
            incident_id=incident.pk,
            by=self.user(),
            fix=_fix(given["fix"]),
            reason=given["reason"],
            canary=given["canary"],
        )
        return Response(repairs.as_json(repairs.find(self.user(), repair.pk)), status=201)


class RepairView(_RepairView):
    @extend_schema(operation_id="incidents_repair_get", responses={200: serializers.RepairRunSerializer})
    def get(self, request: Request, incident_id: UUID, repair_id: UUID) -> Response:
        """Get a repair with its progress."""
        return Response(repairs.as_json(self.repair(incident_id, repair_id)))


class RepairItemsView(_RepairView):
    @extend_schema(
        operation_id="incidents_repair_items",
        parameters=PAGE,
        responses={200: serializers.RepairItemListSerializer},
    )
    def get(self, request: Request, incident_id: UUID, repair_id: UUID) -> Response:
        """List the blocks of a repair: what was done, and what was refused and why."""
        repair = self.repair(incident_id, repair_id)
        found, total = paging.page(request).of(repairs.items(repair))
        shown = [
            {
                "executionId": each.execution_id,
                "executionStatus": each.execution.status,
                "blockExecutionId": str(each.block_id),
                "state": each.state,
                "first": each.pk == repair.canary,
                "code": each.code,
                "message": each.message,
                "movedTo": each.moved_to_id,
                "at": each.at,
            }
            for each in found
        ]
        return Response({"items": shown, "total": total})


class StopRepairView(_RepairView):
    @extend_schema(operation_id="incidents_repair_stop", request=None, responses={200: SuccessSerializer})
    @idempotent
    def post(self, request: Request, incident_id: UUID, repair_id: UUID) -> Response:
        """Stop a repair: what it has not reached stays as it is."""
        repairs.stop(repair_id=self.repair(incident_id, repair_id).pk, by=self.user())
        return Response({"success": True})


def _fix(given: dict[str, Any]) -> Fix:
    patch = {wire: given[name] for name, wire in serializers.WIRE.items() if name in given}
    return Fix(given["action"], patch, given.get("output"), given.get("template_version"))


def _foreseen(each: repairs.Foreseen) -> JSONObject:
    return {
        "executionId": each.execution_id,
        "blockExecutionId": str(each.block_pk),
        "status": each.status,
        "does": each.outlook.does,
        "code": each.outlook.code,
        "message": each.outlook.message,
        "onceEffectRepeated": each.once,
        "move": each.fit.as_json() if each.fit is not None and not each.fit.code else None,
    }
