"""How well an execution is: a pure function of facts, which are what `explain` reads and three queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Q
from django.urls import reverse

from agentflow.workflow import health
from agentflow.workflow.health import ENOUGH, Figure, Health, Status

from . import explain, facts, history, selectors
from .engine.facts import version_facts
from .explain import Reason
from .models import AttemptOutcome, BlockAttempt, BlockExecution, Execution, Timer
from .states import BlockStatus
from .states import ExecutionStatus as E

NAMED = 3  # blocks in a sentence
SLOW = 2.0  # times what it usually takes

# What blocks wait for that somebody should look at, by `explain`'s codes.
TROUBLE = {
    "waiting_fix": (Status.DEGRADED, "Decide in the inbox how it goes on."),
    "waiting_budget": (Status.DEGRADED, "Answer in the inbox whether it may use up more."),
    "worker_silent": (
        Status.DEGRADED,
        "It is given to another worker after its lease; see the worker's log.",
    ),
    "circuit_open": (Status.DEGRADED, "See the agent's page; it goes on once the circuit closes."),
    "waiting_agent": (Status.DEGRADED, "See whether the agent is switched on, healthy and free."),
    "backoff": (Status.DEGRADED, "Nothing: it is tried again by itself. The panel Recovery has the error."),
}


@dataclass(frozen=True, slots=True)
class ExecutionFacts:
    status: str
    now: datetime
    href: str = ""
    waits: Sequence[tuple[str, Reason]] = ()  # of the unsettled blocks
    stuck_since: datetime | None = None
    failed_blocks: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    well_before: int = 0  # of its version's executions lately: so many attempts went well,
    attempts_before: int = 0  # of so many
    took_ms: float | None = None  # so far, and what is left by experience
    expected_ms: float | None = None
    error: str = ""


def of_facts(facts: ExecutionFacts) -> Health:
    reasons = [
        *_ended(facts),
        *_stuck(facts),
        *_waiting(facts),
        *_late(facts),
        *_failing(facts),
        *_slow(facts),
    ]
    seen = facts.status != E.PENDING
    return health.health(reasons, _figures(facts), seen=seen)


def _figures(facts: ExecutionFacts) -> Iterable[Figure]:
    """Against what executions of its version usually are."""
    well = facts.attempts - facts.failed_attempts
    usual = (facts.well_before, facts.attempts_before)
    yield health.share("attemptSuccessRate", health.RUN, (well, facts.attempts), usual)
    yield health.duration("tookMs", health.RUN, (facts.took_ms, ENOUGH), (facts.expected_ms, ENOUGH))


def _ended(facts: ExecutionFacts) -> Iterable[health.Reason]:
    if facts.status == E.FAILED:
        said = f"It failed: {facts.error}" if facts.error else "It failed."
        remedy = "See what failed in the panel Recovery, then restart it."
        yield health.Reason("failed", said, remedy, facts.href, Status.UNHEALTHY)


def _stuck(facts: ExecutionFacts) -> Iterable[health.Reason]:
    if facts.stuck_since is not None:
        message = "Nothing has moved for longer than what it waits for should take."
        remedy = "See what its steps wait for; complete, skip or retry one by hand, or cancel it."
        yield health.Reason("stuck", message, remedy, facts.href, Status.UNHEALTHY)


def _waiting(facts: ExecutionFacts) -> Iterable[health.Reason]:
    for code, (status, remedy) in TROUBLE.items():
        alike = [(block_id, reason) for block_id, reason in facts.waits if reason.code == code]
        if alike:
            first = alike[0][1].message
            message = f"{_named([block_id for block_id, _ in alike])}: {first}"
            yield health.Reason(code, message, remedy, facts.href, status)


def _late(facts: ExecutionFacts) -> Iterable[health.Reason]:
    late = [
        block_id
        for block_id, reason in facts.waits
        if reason.code.startswith("waiting_") and reason.since and reason.until and reason.until < facts.now
        if reason.code
        in {"waiting_approval", "waiting_input", "waiting_review", "waiting_edit", "waiting_tool"}
    ]
    if late:
        message = f"{_named(late)}: the time to answer is over."
        remedy = "Remind who was asked, or give the question to somebody else."
        yield health.Reason("question_overdue", message, remedy, facts.href)


def _failing(facts: ExecutionFacts) -> Iterable[health.Reason]:
    if facts.failed_blocks and facts.status not in (E.COMPLETED, E.FAILED, E.CANCELLED):
        count = facts.failed_blocks
        message = f"{count} {'step has' if count == 1 else 'steps have'} failed; the rest goes on."
        yield health.Reason("block_failed", message, "Retry or complete what failed by hand.", facts.href)


def _slow(facts: ExecutionFacts) -> Iterable[health.Reason]:
    took, expected = facts.took_ms, facts.expected_ms
    open_ = facts.status not in (E.COMPLETED, E.FAILED, E.CANCELLED)
    if open_ and took is not None and expected and took > SLOW * expected and took - expected > 60_000:
        message = f"It takes {took / expected:.1f} times as long as usual, people's time not counted."
        yield health.Reason("slow", message, "See what its steps wait for.", facts.href)


def _named(block_ids: Sequence[str]) -> str:
    more = len(block_ids) - NAMED
    shown = ", ".join(f"“{block_id}”" for block_id in block_ids[:NAMED])
    return shown if more <= 0 else f"{shown} and {more} more"


# -- from the rows ---------------------------------------------------------------


def of(execution: Execution) -> Health:
    return of_facts(read(execution))


def read(execution: Execution) -> ExecutionFacts:
    rows = selectors.block_rows(execution)
    now = selectors.database_now()
    scene = explain.read_scene(execution, rows, now)
    open_rows = [row for row in rows if not row.settled]
    attempts, failed = _attempts(execution)
    usual = history.tries(execution.template_version_id, simulated=execution.simulated)
    error = execution.error if isinstance(execution.error, dict) else {}
    return ExecutionFacts(
        status=execution.status,
        now=now,
        href=reverse("execution-page", args=[execution.pk]),
        waits=[(row.block_id, explain.reason_of(row, scene)) for row in open_rows],
        stuck_since=stuck_since(execution.pk),
        failed_blocks=sum(row.status == BlockStatus.FAILED for row in rows),
        attempts=attempts,
        failed_attempts=failed,
        well_before=usual[0],
        attempts_before=usual[1],
        **_times(execution, [row.block_id for row in open_rows], now),
        error=str(error.get("message") or ""),
    )


def stuck_since(execution_id: UUID) -> datetime | None:
    rows = Timer.objects.filter(key=f"check:{execution_id}")
    return rows.values_list("stuck_at", flat=True).first()


def _attempts(execution: Execution) -> tuple[int, int]:
    of_epoch = BlockExecution.objects.filter(execution=execution, epoch=execution.epoch)
    found = BlockAttempt.objects.filter(block__in=of_epoch).aggregate(
        all=Count("pk"),
        failed=Count("pk", filter=Q(outcome__in=[AttemptOutcome.ERROR, AttemptOutcome.RESCUED])),
    )
    return found["all"], found["failed"]


def _times(execution: Execution, left: Sequence[str], now: datetime) -> dict[str, float | None]:
    """How long it takes, with what is left, and how long it usually does; not where people are asked."""
    if execution.started_at is None:
        return {}
    plan = version_facts(execution.template_version_id).plan
    expected = history.expected_ms(execution.template_version_id, simulated=execution.simulated)
    whole = history.estimate_ms(plan, range(len(plan.blocks)), expected)
    rest = history.estimate_ms(plan, [plan.index[each] for each in left], expected) if left else 0
    so_far = ((execution.completed_at or now) - execution.started_at).total_seconds() * 1000
    waited = any(known.human_kind for known in facts.of_version(execution.template_version_id).values())
    if whole is None or waited:  # how long people take is no measure of it
        return {"took_ms": None, "expected_ms": whole}
    return {"took_ms": so_far + (rest or 0), "expected_ms": whole}
