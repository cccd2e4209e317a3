from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast
from uuid import UUID

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.dateparse import parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.api.paging import BadParameter
from agentflow.errors import Unavailable
from agentflow.events.models import Event, Level
from agentflow.events.store import Cursor
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow.large import LargeUnavailable

from .. import blobs, explain, narration, planning, selectors, snapshot
from ..models import Execution
from ..services import admission, control
from ..states import BlockStatus, ExecutionStatus
from . import serializers


def _query(name: str, kind: Any, description: str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, description=description, **more)


PAGE = [
    _query("limit", int, "Lines per page, 1 to 500; 50 without."),
    _query("offset", int, "Lines to skip."),
]
LIST_FILTERS = [
    _query(
        "status", str, "Any of these; repeated or with commas.", many=True, enum=list(ExecutionStatus.values)
    ),
    _query("templateId", UUID, "Only this template's."),
    _query("workspaceId", UUID, "Only this workspace's."),
    _query("simulated", bool, "Only simulated ones, or only real ones."),
    _query("createdAfter", OpenApiTypes.DATETIME, "At or after this moment."),
    _query("createdBefore", OpenApiTypes.DATETIME, "Before this moment."),
    _query("businessKey", str, "Only those that were started with this key."),
    _query("stuck", bool, "Stands still for longer than what it waits for should take."),
    _query("search", str, "A part of the template's name, or the beginning of the id."),
    _query(
        "ordering",
        str,
        "Descending with a minus; `-createdAt` without.",
        enum=[sign + name for name in selectors.ORDERINGS for sign in ("", "-")],
    ),
]
FIELDS = _query("fields", str, "Only these fields of the answer, with commas.", enum=None, many=True)
EPOCH = _query("epoch", int, "The blocks as they were in an earlier epoch, from 1; the latest without.")
LEVELS = {level.name.lower(): level for level in Level}


class ValueUnavailable(Unavailable):
    """Blob storage does not give the value just now."""

    code = "value_unavailable"
    remedy = "Try again; if it lasts, `manage.py doctor` says whether the storage answers."


class ExecutionAPIView(APIView):
    def user(self) -> User:
        return cast(User, self.request.user)

    def execution(self, execution_id: UUID, permission: Permission = Permission.VIEW) -> Execution:
        """The execution, if the user may see it and do this with it."""
        execution = selectors.find(self.user(), execution_id)
        if permission is not Permission.VIEW:
            access.require(self.user(), permission, execution.workspace_id)
        return execution


class ExecutionsView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_list",
        parameters=[*LIST_FILTERS, *PAGE],
        responses={200: serializers.ExecutionListSerializer},
    )
    def get(self, request: Request) -> Response:
        """List executions, the latest first."""
        rows = selectors.matching(self.user(), _filter(request))
        found, total = paging.page(request).of(rows)
        return Response({"executions": snapshot.summaries(found), "total": total})

    @extend_schema(
        operation_id="executions_start",
        request=serializers.StartSerializer,
        responses={201: serializers.StartedSerializer},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Start an execution of a template's newest published version, or of `templateVersion`.

        With `simulation` no agent is called, and people are asked only where `answers` is silent.
        """
        body = serializers.StartSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        execution = admission.start(
            by=self.user(),
            request=admission.StartRequest(
                template_id=given["template_id"],
                workspace_id=given["workspace_id"],
                version=given["template_version"],
                input=given.get("input", {}),
                simulation=given["simulation"],
                business_key=given["business_key"],
                durability=given["durability"],
            ),
        )
        return Response(
            {"executionId": execution.pk, "status": execution.status},
            status=201,
            headers={"Location": snapshot.address(execution)},
        )


class ExecutionView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_get",
        parameters=[FIELDS, EPOCH],
        responses={200: serializers.ExecutionSerializer},
    )
    def get(self, request: Request, execution_id: UUID) -> Response:
        """Get an execution with its blocks, computed from the rows of this moment."""
        fields = _fields(request)
        return Response(snapshot.detail(_in_epoch(request, self.execution(execution_id)), fields))


class ExecutionInputView(ExecutionAPIView):
    @extend_schema(operation_id="executions_input", responses={200: OpenApiTypes.ANY})
    def get(self, request: Request, execution_id: UUID) -> Response:
        """Get what an execution was started with, in full."""
        execution = self.execution(execution_id)
        try:
            return Response(blobs.filled(blobs.with_members(execution.input, execution.input_blobs)))
        except LargeUnavailable as error:
            raise ValueUnavailable(str(error)) from error


class BlocksView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_blocks",
        parameters=[
            _query(
                "status",
                str,
                "Any of these; repeated or with commas.",
                many=True,
                enum=BlockStatus.values,
            ),
            EPOCH,
            *PAGE,
        ],
        responses={200: serializers.BlockListSerializer},
    )
    def get(self, request: Request, execution_id: UUID) -> Response:
        """List an execution's blocks, each after all it depends on."""
        statuses = _choices(request, "status", BlockStatus.values)
        page = paging.page(request)
        execution = _in_epoch(request, self.execution(execution_id))
        rows = selectors.block_rows(
            execution, values=True, statuses=statuses, limit=page.limit, offset=page.offset
        )
        return Response(
            {
                "blocks": snapshot.blocks(execution, rows, everything=False),
                "total": selectors.count_blocks(execution, statuses=statuses),
            }
        )


class BlockView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_block",
        parameters=[EPOCH],
        responses={200: serializers.BlockDetailSerializer},
    )
    def get(self, request: Request, execution_id: UUID, block_id: str) -> Response:
        """Get a block with its attempts, by its URL-encoded blockId or by its blockExecutionId."""
        execution = _in_epoch(request, self.execution(execution_id))
        return Response(snapshot.block_detail(execution, selectors.find_block(execution, block_id)))


class BlockItemsView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_block_items",
        parameters=[
            _query(
                "status",
                str,
                "Any of these; repeated or with commas.",
                many=True,
                enum=BlockStatus.values,
            ),
            EPOCH,
            *PAGE,
        ],
        responses={200: serializers.ItemListSerializer},
    )
    def get(self, request: Request, execution_id: UUID, block_id: str) -> Response:
        """List the items of a `forEach` block in their order; of another block there are none."""
        statuses = _choices(request, "status", BlockStatus.values)
        page = paging.page(request)
        execution = _in_epoch(request, self.execution(execution_id))
        rows = selectors.items(selectors.find_block(execution, block_id), statuses=statuses)
        shown, total = page.of(rows)
        return Response({"items": snapshot.items(list(shown)), "total": total})


class BlockStepsView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_block_steps",
        parameters=[EPOCH, *PAGE],
        responses={200: serializers.AgentStepListSerializer},
    )
    def get(self, request: Request, execution_id: UUID, block_id: str) -> Response:
        """List what a block's agent did step by step: answers of its model, and calls of its tools."""
        page = paging.page(request)
        execution = _in_epoch(request, self.execution(execution_id))
        shown, total = page.of(selectors.steps(selectors.find_block(execution, block_id)))
        return Response({"steps": snapshot.steps(shown), "total": total})


class BlockInputView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_block_input", parameters=[EPOCH], responses={200: OpenApiTypes.ANY}
    )
    def get(self, request: Request, execution_id: UUID, block_id: str) -> HttpResponseBase:
        """Get what a block was given to work on."""
        execution = _in_epoch(request, self.execution(execution_id))
        block = selectors.find_block(execution, block_id)
        return _large(block.input_blob) or Response(snapshot.block_input(execution, block))


class BlockOutputView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_block_output",
        parameters=[_query("original", bool, "What the block gave itself, where somebody edited it."), EPOCH],
        responses={200: OpenApiTypes.ANY},
    )
    def get(self, request: Request, execution_id: UUID, block_id: str) -> HttpResponseBase:
        """Get a block's output in full; null while there is none."""
        execution = _in_epoch(request, self.execution(execution_id))
        block = selectors.find_block(execution, block_id)
        if block.edit is not None and not paging.boolean(request, "original"):
            return Response(block.shown_output)
        return _large(block.output_blob) or Response(block.output)


class LogsView(ExecutionAPIView):
    @extend_schema(
        operation_id="executions_logs",
        parameters=[
            _query("blockId", str, "Only this block's."),
            _query("level", str, "This level and those above it.", enum=list(LEVELS)),
            _query("after", str, "The cursor of the last entry that is known; the next ones follow."),
            *PAGE,
        ],
        responses={200: serializers.LogListSerializer},
    )
    def get(self, request: Request, execution_id: UUID) -> Response:
        """List what happened in an execution, oldest first."""
        level = paging.choice(request, "level", LEVELS)
        after = paging.text(request, "after")
        page = paging.page(request)
        events, total = page.of(
            selectors.logs(
                self.execution(execution_id),
                block_id=paging.text(request, "blockId"),
                level=None if level is None else LEVELS[level],
                after=None if after is None else Cursor.parse(after),
            )
        )
        return Response({"logs": [_entry(event) for event in events], "total": total})


class ExplainView(ExecutionAPIView):
    @extend_schema(operation_id="executions_explain", responses={200: serializers.ExplanationSerializer})
    def get(self, request: Request, execution_id: UUID) -> Response:
        """Say why an execution is where it is, with one reason for each block that is not settled."""
        execution = self.execution(execution_id)
        return Response(explain.explain(execution))


class PlanView(ExecutionAPIView):
    @extend_schema(operation_id="executions_plan", responses={200: serializers.ExecutionPlanSerializer})
    def get(self, request: Request, execution_id: UUID) -> Response:
        """Get the plan of what is left: what is ready, what comes next, what can go side by side."""
        return Response(planning.execution_plan(self.execution(execution_id)))


# -- steering ------------------------------------------------------------------


class Command(Protocol):
    """`executions.services.control`'s pause and resume."""

    def __call__(self, *, execution_id: UUID, by: User, reason: str = "") -> object: ...


class _SteerView(ExecutionAPIView):
    def steer(self, request: Request, execution_id: UUID, command: Command) -> Response:
        """Carry out a command; one that changes nothing, because it was given before, is a success."""
        body = serializers.SteerSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        execution = self.execution(execution_id, Permission.OPERATE)
        command(execution_id=execution.pk, by=self.user(), reason=body.validated_data["reason"])
        return Response({"success": True})


def _documented(operation_id: str) -> Callable[..., Any]:
    return extend_schema(
        operation_id=operation_id,
        request=serializers.SteerSerializer,
        responses={200: serializers.SuccessSerializer},
    )


class PauseView(_SteerView):
    @_documented("executions_pause")
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Pause: what runs may finish, nothing new starts."""
        return self.steer(request, execution_id, control.pause)


class ResumeView(_SteerView):
    @_documented("executions_resume")
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Go on with a paused execution."""
        return self.steer(request, execution_id, control.resume)


class CancelView(_SteerView):
    @extend_schema(
        operation_id="executions_cancel",
        request=serializers.CancelSerializer,
        responses={200: serializers.SuccessSerializer},
    )
    @idempotent
    def post(self, request: Request, execution_id: UUID) -> Response:
        """Cancel: what runs is stopped, what waits will not happen.

        With `compensate` completed blocks are compensated before it ends; without, a compensation that
        is under way is stopped.
        """
        body = serializers.CancelSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        execution = self.execution(execution_id, Permission.OPERATE)
        control.cancel(execution_id=execution.pk, by=self.user(), **body.validated_data)
        return Response({"success": True})


# -- reading requests ----------------------------------------------------------


def _filter(request: Request) -> selectors.Filter:
    return selectors.Filter(
        statuses=_choices(request, "status", ExecutionStatus.values),
        template_id=paging.uuid(request, "templateId"),
        workspace_id=paging.uuid(request, "workspaceId"),
        simulated=paging.boolean(request, "simulated"),
        created_after=_moment(request, "createdAfter"),
        created_before=_moment(request, "createdBefore"),
        business_key=paging.text(request, "businessKey"),
        stuck=paging.boolean(request, "stuck"),
        search=paging.text(request, "search") or "",
        ordering=paging.choice(request, "ordering", _orderings()) or "-createdAt",
    )


def _orderings() -> list[str]:
    return [sign + name for name in selectors.ORDERINGS for sign in ("", "-")]


def _choices(request: Request, name: str, allowed: list[str]) -> list[str]:
    given = paging.texts(request, name)
    unknown = [value for value in given if value not in allowed]
    if unknown:
        raise BadParameter(name, f"must be among {', '.join(allowed)}, not {unknown[0][:50]!r}.")
    return given


def _moment(request: Request, name: str) -> Any:
    given = paging.text(request, name)
    if given is None:
        return None
    try:
        # A plus that was not encoded arrives as a space.
        moment = parse_datetime(given.replace(" ", "+") if "T" in given else given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadParameter(name, "must be a moment with its zone, such as 2026-11-20T14:00:00Z.")
    return moment


def _in_epoch(request: Request, execution: Execution) -> Execution:
    """The execution with the blocks of `?epoch=`, if that names one it has had."""
    given = paging.text(request, "epoch")
    if given is not None:
        if not (
            given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= execution.epoch
        ):
            raise BadParameter("epoch", f"must be a number from 1 to {execution.epoch}.")
        execution.past = int(given) < execution.epoch
        execution.epoch = int(given)
    return execution


def _fields(request: Request) -> tuple[str, ...]:
    chosen = _choices(request, "fields", list(snapshot.DETAIL_FIELDS))
    return tuple(chosen) or snapshot.DETAIL_FIELDS


def _large(blob: UUID | None) -> HttpResponseBase | None:
    """A value from blob storage as it is kept, without being read as JSON; None: there is no such value."""
    if blob is None:
        return None
    try:
        return HttpResponse(blobs.read(blob), content_type="application/json")
    except LargeUnavailable as error:
        raise ValueUnavailable(str(error)) from error


def _entry(event: Event) -> JSONObject:
    return {
        "timestamp": event.at,
        "level": Level(event.level).name.lower(),
        "blockId": event.block_id,
        "type": event.type,
        "message": narration.sentence(event.type, event.block_id, event.payload),
        "payload": event.payload,
        "cursor": str(Cursor.of(event)),
    }
