"""Commands that repair: restart an execution, mend one block, steer many executions at once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api.idempotency import idempotent
from agentflow.conf import LIMITS
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from .. import selectors
from ..models import BlockExecution
from ..services import batch, repairing, restarting
from ..services.restarting import RestartRequest
from . import command_serializers as serializers
from .serializers import SuccessSerializer
from .views import ExecutionAPIView


class RestartView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_restart",
        request=serializers.RestartSerializer,
        responses={200: serializers.RestartedSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Restart an execution that has ended, in its next epoch.

        Without `fromBlock` every block that failed or was cancelled runs again, and all behind those.
        """
        execution = self.execution(execution_id, Permission.OPERATE)
        body = serializers.RestartSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        epoch = restarting.restart(
            execution_id=execution.pk, by=self.user(), request=_asked(body.validated_data)
        )
        return Response({"success": True, "epoch": epoch})


class RestartPlanView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_restart_plan",
        request=serializers.RestartPlanRequestSerializer,
        responses={200: serializers.RestartPlanSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Say what a restart would run again, carry over, ask and repeat.  Changes nothing."""
        execution = self.execution(execution_id, Permission.OPERATE)
        body = serializers.RestartPlanRequestSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        return Response(restarting.preview(execution_id=execution.pk, request=_asked(body.validated_data)))


def _asked(given: dict[str, Any]) -> RestartRequest:
    return RestartRequest(
        from_block=given["from_block"],
        reset_state=given["reset_state"],
        reason=given["reason"],
        plan_id=given.get("plan_id") or "",
        point_id=given["recovery_point_id"],
    )


class _RepairView(ExecutionAPIView):
    def block(self, execution_id: UUID, block_id: str) -> BlockExecution:
        return selectors.find_block(self.execution(execution_id, Permission.OPERATE), block_id)


class SkipBlockView(_RepairView):
    @extend_schema(
        operation_id="executions_block_skip",
        request=serializers.RepairSerializer,
        responses={200: SuccessSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID, block_id: str) -> Response:
        """Skip a block that is ready or waits; what it waited for is withdrawn."""
        block = self.block(execution_id, block_id)
        body = serializers.RepairSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        repairing.skip(
            execution_id=execution_id,
            block_pk=block.pk,
            by=self.user(),
            reason=body.validated_data["reason"],
        )
        return Response({"success": True})


class CompleteBlockView(_RepairView):
    max_body_bytes = LIMITS.template_body_bytes  # an output may have half of it, and is counted by itself

    @extend_schema(
        operation_id="executions_block_complete",
        request=serializers.CompleteSerializer,
        responses={200: SuccessSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID, block_id: str) -> Response:
        """Complete a block that is ready or waits, with an output given by hand."""
        block = self.block(execution_id, block_id)
        body = serializers.CompleteSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        repairing.complete(
            execution_id=execution_id,
            block_pk=block.pk,
            output=body.validated_data["output"],
            by=self.user(),
            reason=body.validated_data["reason"],
        )
        return Response({"success": True})


class RetryBlockView(_RepairView):
    @extend_schema(
        operation_id="executions_block_retry",
        request=serializers.RepairSerializer,
        responses={200: SuccessSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID, block_id: str) -> Response:
        """Try a block again now: from its backoff, instead of a decision, or after it failed.

        A failed block only while nothing behind it has moved; else restart the execution from it.
        """
        block = self.block(execution_id, block_id)
        body = serializers.RepairSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        repairing.retry(
            execution_id=execution_id,
            block_pk=block.pk,
            by=self.user(),
            reason=body.validated_data["reason"],
        )
        return Response({"success": True})


class BatchView(ExecutionAPIView):
    # No Idempotency-Key: its answer would have to commit together with every command.  A repeat finds
    # what is done already: paused, resumed, cancelled or restarted executions no longer match.
    @extend_schema(
        operation_id="executions_batch",
        request=serializers.BatchSerializer,
        responses={200: serializers.BatchReportSerializer},
    )
    def post(self, request: Request) -> Response:
        """Pause, resume, cancel or restart many executions, each for itself; up to 500 a call."""
        body = serializers.BatchSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        chosen = given["filter"]
        report = batch.carry_out(
            by=self.user(),
            request=batch.BatchRequest(
                command=batch.Command(given["command"]),
                chosen=selectors.Filter(
                    statuses=tuple(chosen["status"]),
                    template_id=chosen["template_id"],
                    workspace_id=chosen["workspace_id"],
                    created_after=chosen["created_after"],
                    created_before=chosen["created_before"],
                    business_key=chosen["business_key"],
                ),
                ids=chosen["ids"],
                everything=given["all"],
                preview=given["preview"],
                limit=given["limit"],
                after=given["after"],
                reason=given["reason"],
                compensate=given["compensate"],
            ),
        )
        return Response(
            {
                "command": given["command"],
                "preview": given["preview"],
                "matched": report.matched,
                "left": report.left,
                "next": report.next,
                "results": [_result(result) for result in report.results],
            }
        )


def _result(result: batch.Result) -> JSONObject:
    shown: JSONObject = {
        "executionId": result.execution_id,
        "status": result.status or None,
        "ok": result.ok,
    }
    return shown if result.ok else shown | {"code": result.code, "message": result.message}
