"""One command on many executions: each in a transaction of its own, so that one refusal stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from django.db.models import QuerySet

from agentflow.errors import AgentflowError, InvalidInput, NotFound
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from executions import selectors
from executions.models import Execution
from executions.states import ExecutionStatus as E

from . import control, restarting

BATCH_MAX = 500
BATCH_S = 20.0  # then what is left waits for the next call


class Command(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RESTART = "restart"


# The statuses in which a command does something: others are no part of what a filter matches.
TAKES: Mapping[Command, frozenset[E]] = {
    Command.PAUSE: frozenset({E.PENDING, E.RUNNING}),
    Command.RESUME: frozenset({E.PAUSED}),
    Command.CANCEL: frozenset({E.PENDING, E.RUNNING, E.PAUSED}),
    Command.RESTART: frozenset({E.FAILED, E.CANCELLED}),
}
_DO: Mapping[Command, Callable[..., object]] = {
    Command.PAUSE: control.pause,
    Command.RESUME: control.resume,
    Command.CANCEL: control.cancel,
    Command.RESTART: restarting.restart_failed,
}


class FilterRequired(InvalidInput):
    """The filter would match every execution that you can see."""

    code = "filter_required"
    remedy = "Narrow the filter, or send `all: true`."


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """`ids` are taken as they are, whatever their status; `after` goes on where a call before ended."""

    command: Command
    chosen: selectors.Filter
    ids: Collection[UUID] | None = None
    everything: bool = False
    preview: bool = False
    limit: int = BATCH_MAX
    after: UUID | None = None
    reason: str = ""
    compensate: bool = False  # of a cancel


@dataclass(frozen=True, slots=True)
class Result:
    execution_id: UUID
    status: str  # before the command; empty where there is no such execution
    ok: bool
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class Report:
    """`matched` counts from `after` on; `left` of those were not reached, and `next` is where to go on."""

    matched: int = 0
    left: int = 0
    next: UUID | None = None
    results: list[Result] = field(default_factory=list)


def carry_out(*, by: User, request: BatchRequest) -> Report:
    """Do the command to each execution that matches, in the order of their ids, or say to which it would.

    Raises:
        FilterRequired: nothing narrows the filter, and `everything` was not asked for.
    """
    narrowed = request.chosen != selectors.Filter() or request.ids is not None
    if not narrowed and not request.everything:
        raise FilterRequired(pointer="/filter")
    rows = _matching(by, request)
    report = Report(matched=rows.count())
    found = list(rows.values_list("pk", "status", "workspace_id")[: request.limit])
    allowed = {
        workspace_id: access.can(by, Permission.OPERATE, workspace_id)
        for workspace_id in {workspace_id for *_, workspace_id in found}
    }
    until = time.monotonic() + BATCH_S
    for pk, status, workspace_id in found:
        if time.monotonic() > until:
            break
        report.results.append(_one(by, request, pk, status, permitted=allowed[workspace_id]))
    report.left = report.matched - len(report.results)
    if report.left and report.results:
        report.next = report.results[-1].execution_id
    elif request.ids is not None:
        report.results += _unknown(by, request)
    return report


def _matching(by: User, request: BatchRequest) -> QuerySet[Execution]:
    rows = selectors.matching(by, request.chosen)
    if request.ids is not None:
        rows = rows.filter(pk__in=request.ids)
    else:
        rows = rows.filter(status__in=TAKES[request.command])
        if request.command is Command.RESTART:  # a child is restarted with the execution that started it
            rows = rows.filter(parent_block__isnull=True)
    if request.after is not None:
        rows = rows.filter(pk__gt=request.after)
    return rows.order_by("pk")


def _one(by: User, request: BatchRequest, pk: UUID, status: str, *, permitted: bool) -> Result:
    if not permitted:
        return Result(pk, status, False, "not_permitted", "You may not steer executions of its workspace.")
    if request.preview:
        if E(status) in TAKES[request.command]:
            return Result(pk, status, True)
        return Result(pk, status, False, "not_applicable", f"Nothing to {request.command}: it is {status}.")
    try:
        options = {"compensate": True} if request.compensate else {}
        _DO[request.command](execution_id=pk, by=by, reason=request.reason, **options)
    except AgentflowError as error:
        return Result(pk, status, False, error.code, error.message)
    return Result(pk, status, True)


def _unknown(by: User, request: BatchRequest) -> list[Result]:
    """Ids that name nothing the user can see; a foreign execution is as good as none."""
    ids = set(request.ids or ())
    seen = set(selectors.executions(by).filter(pk__in=ids).values_list("pk", flat=True))
    return [Result(pk, "", False, NotFound.code, "There is no such execution.") for pk in sorted(ids - seen)]
