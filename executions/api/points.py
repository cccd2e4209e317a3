"""Recovery points of an execution: to list, to make, to go back to; and forks."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.governance.roles import Permission

from .. import selectors, snapshot
from ..services import editing, forking, marking, restarting
from ..services.forking import ForkRequest
from ..services.restarting import RestartRequest
from . import command_serializers as serializers
from .serializers import RecoveryPointSerializer, StartedSerializer, SuccessSerializer
from .views import PAGE, ExecutionAPIView


class RecoveryPointsView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_recovery_points",
        parameters=PAGE,
        responses={200: serializers.RecoveryPointListSerializer},
    )
    def get(self, request: Request, execution_id: UUID) -> Response:
        """List the moments to which an execution can go back, the newest first."""
        found, total = paging.page(request).of(selectors.points(self.execution(execution_id)))
        return Response({"recoveryPoints": [snapshot.point(each) for each in found], "total": total})

    @extend_schema(
        operation_id="executions_mark",
        request=serializers.MarkSerializer,
        responses={201: RecoveryPointSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Take a recovery point of the execution as it is now."""
        execution = self.execution(execution_id, Permission.OPERATE)
        body = serializers.MarkSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        made = marking.mark(execution_id=execution.pk, by=self.user(), name=body.validated_data["name"])
        return Response(snapshot.point(made), status=201)


class RecoveryPointView(ExecutionAPIView):
    @extend_schema(operation_id="executions_unmark", responses={204: None})
    def delete(self, request: Request, execution_id: UUID, point_id: int) -> Response:
        """Delete a recovery point; the execution and its blocks stay as they are."""
        execution = self.execution(execution_id, Permission.OPERATE)
        marking.unmark(execution_id=execution.pk, point_id=point_id, by=self.user())
        return Response(status=204)


class RestoreView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_restore",
        request=serializers.RestoreSerializer,
        responses={200: serializers.RestartedSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID, point_id: int) -> Response:
        """Restart an execution that has ended from a recovery point, in its next epoch."""
        execution = self.execution(execution_id, Permission.OPERATE)
        body = serializers.RestoreSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        asked = RestartRequest(
            point_id=point_id,
            reason=body.validated_data["reason"],
            plan_id=body.validated_data["plan_id"] or "",
        )
        epoch = restarting.restart(execution_id=execution.pk, by=self.user(), request=asked)
        return Response({"success": True, "epoch": epoch})


class ForkView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_fork",
        request=serializers.ForkSerializer,
        responses={201: StartedSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Start a new execution that goes on from a moment of this one, with other input or outputs."""
        execution = self.execution(execution_id)
        body = serializers.ForkSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        forked = forking.fork(
            source=execution,
            by=self.user(),
            request=ForkRequest(
                point_id=given["recovery_point_id"],
                from_block=given["from_block"],
                input=given.get("input"),
                outputs=given.get("outputs", {}),
                simulation=given["simulation"],
                business_key=given["business_key"],
                reason=given["reason"],
            ),
        )
        return Response(
            {"executionId": forked.pk, "status": forked.status},
            status=201,
            headers={"Location": snapshot.address(forked)},
        )


class ContextView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_edit_context",
        request=serializers.EditContextSerializer,
        responses={200: SuccessSerializer},
    )
    def patch(self, request: Request, execution_id: UUID) -> Response:
        """Edit what later blocks of a paused execution see; what the blocks gave is kept beside it."""
        execution = self.execution(execution_id, Permission.OPERATE)
        body = serializers.EditContextSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        editing.edit(execution_id=execution.pk, by=self.user(), **body.validated_data)
        return Response({"success": True})
