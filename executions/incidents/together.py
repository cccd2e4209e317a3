"""One command on many incidents: each in a transaction of its own, so that one refusal stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from agentflow.errors import AgentflowError, NotFound
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.services.batch import BATCH_MAX, BATCH_S, FilterRequired

from . import handling, reads
from .models import Incident
from .states import IncidentState as S


class Command(StrEnum):
    ASSIGN = "assign"
    COMMENT = "comment"
    SNOOZE = "snooze"
    WAKE = "wake"
    RESOLVE = "resolve"


# The states in which a command does something: others are no part of what a filter matches.
TAKES: Mapping[Command, tuple[str, ...]] = {
    Command.ASSIGN: (S.OPEN, S.SNOOZED),
    Command.COMMENT: tuple(S),
    Command.SNOOZE: (S.OPEN, S.SNOOZED),
    Command.WAKE: (S.SNOOZED,),
    Command.RESOLVE: (S.OPEN, S.SNOOZED),
}
DO: Mapping[Command, Callable[..., None]] = {
    Command.ASSIGN: handling.assign,
    Command.COMMENT: handling.comment,
    Command.SNOOZE: handling.snooze,
    Command.WAKE: handling.wake,
    Command.RESOLVE: handling.resolve,
}


@dataclass(frozen=True, slots=True)
class Together:
    """`ids` are taken as they are, whatever their state; `after` goes on where a call before ended."""

    command: Command
    given: JSONObject  # what the command takes besides: `to`, `text`, `until`, `comment`
    chosen: reads.Filter
    ids: Collection[UUID] | None = None
    everything: bool = False
    preview: bool = False
    limit: int = BATCH_MAX
    after: UUID | None = None


@dataclass(frozen=True, slots=True)
class Result:
    incident_id: UUID
    state: str  # before the command; empty where there is no such incident
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


def carry_out(*, by: User, asked: Together) -> Report:
    """Do the command to each incident that matches, in the order of their ids, or say to which it would.

    Raises:
        FilterRequired: nothing narrows the filter, and `everything` was not asked for.
    """
    if asked.chosen == reads.Filter() and asked.ids is None and not asked.everything:
        raise FilterRequired("The filter would match every incident that you can see.", pointer="/filter")
    rows = reads.matching(by, asked.chosen)
    rows = rows.filter(state__in=TAKES[asked.command]) if asked.ids is None else rows.filter(pk__in=asked.ids)
    if asked.after is not None:
        rows = rows.filter(pk__gt=asked.after)
    report = Report(matched=rows.count())
    until = time.monotonic() + BATCH_S
    for pk, state in list(rows.order_by("pk").values_list("pk", "state")[: asked.limit]):
        if time.monotonic() > until:
            break
        report.results.append(_one(by, asked, pk, state))
    report.left = report.matched - len(report.results)
    if report.left and report.results:
        report.next = report.results[-1].incident_id
    elif asked.ids is not None:
        report.results += _unknown(by, asked.ids)
    return report


def _one(by: User, asked: Together, pk: UUID, state: str) -> Result:
    try:
        if asked.preview:
            with handling.locked(pk, by, closed=S.RESOLVED in TAKES[asked.command]):
                if state not in TAKES[asked.command]:
                    return Result(pk, state, False, "not_applicable", f"It is {state}.")
        else:
            DO[asked.command](incident_id=pk, by=by, **asked.given)
    except AgentflowError as error:
        return Result(pk, state, False, error.code, error.message)
    return Result(pk, state, True)


def _unknown(by: User, ids: Collection[UUID]) -> list[Result]:
    """Ids that name nothing the user can see; a foreign incident is as good as none."""
    seen = set(Incident.objects.visible_to(by).filter(pk__in=ids).values_list("pk", flat=True))
    return [
        Result(pk, "", False, NotFound.code, "There is no such incident.") for pk in sorted(set(ids) - seen)
    ]
