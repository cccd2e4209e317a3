"""I8 and I1: everything that is not over has exactly one way on, and somebody who will take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from agentflow.workflow.compensation import runnable
from executions.models import BlockExecution, TimerKind
from executions.states import SETTLED, TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from .order import DEAD, FAILED, OPEN, edge
from .reading import Story
from .violations import Violation

SOON = timedelta(seconds=75)  # a look may be put off for 60 s, and by a clock that died for 15 more
WAITS = (B.WAITING_HUMAN, B.WAITING_EXTERNAL)


def check(story: Story) -> list[Violation]:
    over = story.execution.status in TERMINAL
    problems = _left_behind(story) if over else _ways_on(story)
    return [Violation("I8", story.execution.pk, what) for what in problems]


def _left_behind(story: Story) -> Iterator[str]:
    for key, timer in story.timers.items():
        if timer.kind == TimerKind.NEWS:
            continue  # of another run that has changed since: the clock looks at it, and finds nothing to do
        if timer.kind == TimerKind.RECOVERY and story.execution.status == E.FAILED:
            continue  # it is about to go back to a recovery point
        yield f"it has ended, and its timer {key} is left"


def _ways_on(story: Story) -> Iterator[str]:
    rows = {(row.idx, row.iteration): row for row in story.current()}
    yield from _clock(story, rows)
    yield from _counters(story, rows)
    status = story.execution.status
    children = any(child.completed_at is None for child in story.children.values())
    stopping = children if story.execution.compensation == "due" else False
    working = [
        row
        for row in rows.values()
        if row.status == B.RUNNING or (compensates(story) and row.status not in SETTLED)
    ]
    if status == E.CANCELLING and not working and not stopping:
        yield "it is being cancelled and nothing runs any more"
    for row in rows.values():
        why = _no_way_on(story, row, rows)
        if why:
            yield f"{row.block_id}[{row.iteration}] is {row.status} and {why}"


def compensates(story: Story) -> bool:
    return story.execution.status == E.CANCELLING and story.execution.compensation == "running"


def _not_undone(story: Story, row: BlockExecution, rows: dict[tuple[int, int], BlockExecution]) -> str:
    """Why an open block of a run that compensates will not go on."""
    if row.status in SETTLED:
        return ""
    if story.plan[row.idx].compensates is None:
        return "the execution undoes what it did"
    unsettled = [
        idx
        for (idx, _), other in rows.items()
        if idx >= len(story.plan.blocks) and other.status not in SETTLED
    ]
    may = row.idx in runnable(story.plan, unsettled)
    if row.status == B.BLOCKED:
        return "nothing that was done later is left to undo" if may else ""
    return "" if may else "what was done later is not undone yet"


def _clock(story: Story, rows: dict[tuple[int, int], BlockExecution]) -> Iterator[str]:
    """The clock looks at the run in time for what the run waits for."""
    timer = story.check_timer()
    if timer is None:
        yield "no timer looks at it"
        return
    deadline = story.execution.deadline_at
    moments: list[tuple[str, datetime]] = [] if deadline is None else [("its deadline", deadline)]
    for row in rows.values():
        if row.status == B.RUNNING and row.lease_expires_at is not None:
            moments.append((f"the lease of {row.block_id}", row.lease_expires_at))
        elif story.execution.status in (E.PENDING, E.RUNNING) or compensates(story):
            if row.status == B.READY:
                moments.append((f"{row.block_id}, which is ready", row.available_at or story.now))
            elif row.status == B.WAITING_EXTERNAL and row.available_at is not None:
                moments.append((f"the wait of {row.block_id}", row.available_at))
    for what, moment in moments:
        if timer.due_at > max(moment, story.now) + SOON:
            yield f"its timer is due at {timer.due_at}, too late for {what}"
            return


def _counters(story: Story, rows: dict[tuple[int, int], BlockExecution]) -> Iterator[str]:
    plan, execution = story.plan, story.execution
    if execution.status == E.CANCELLING:
        return
    sinks = sum(rows[idx, 0].status not in SETTLED for idx in plan.sinks if (idx, 0) in rows)
    if execution.open_sinks != sinks:
        yield f"it counts {execution.open_sinks} open ends and has {sinks}"
    for row in rows.values():
        if row.status == B.BLOCKED and not row.iteration:
            edges: Counter[str] = Counter()
            for source in plan[row.idx].preds:
                before = rows[source, 0]
                edges[edge(plan, source, row.idx, before.status, before.reason, before.choice)] += 1
            counted, there = (row.todo, row.dead, row.failed), (edges[OPEN], edges[DEAD], edges[FAILED])
            if counted != there:
                yield f"{row.block_id} counts {counted} edges open, dead and failed, and has {there}"


def _no_way_on(story: Story, row: BlockExecution, rows: dict[tuple[int, int], BlockExecution]) -> str:
    status = story.execution.status
    if row.status == B.RUNNING:
        return "" if row.lease_owner and row.lease_expires_at else "nobody has its lease"
    if row.status == B.BLOCKED and status == E.RUNNING:
        if row.iteration:
            others = (rows[at].status for at in rows if at[0] == row.idx and at[1])
            open_ = any(other in (B.READY, B.RUNNING, *WAITS) for other in others)
            return "" if open_ else "no other item will make room"
        planned = story.plan[row.idx]
        # Where its counters are right, `todo` tells whether it is decided; of a partial join, so do they.
        if not row.todo:
            return "nothing is left to wait for"
        if planned.needed is not None:
            taken = len(planned.preds) - row.todo - row.dead - row.failed
            return "enough of its edges are taken" if taken >= planned.needed else ""
        return ""
    if row.status == B.WAITING_EXTERNAL:
        return _no_news(story, row, rows)
    if compensates(story):
        return _not_undone(story, row, rows)
    if status == E.CANCELLING and row.status not in SETTLED:
        return "the execution is being cancelled"
    return ""


def _no_news(story: Story, row: BlockExecution, rows: dict[tuple[int, int], BlockExecution]) -> str:
    if story.execution.status == E.CANCELLING and not compensates(story):
        return "the execution is being cancelled"
    match row.reason:
        case "child" | "tool_child":
            return "" if (row.pk, row.attempt) in story.children else "has no child"
        case "timer":
            return "" if row.available_at is not None else "has no moment"
        case "event":
            return "" if row.pk in story.waits else "waits for no event"
        case "items":
            open_ = sum(
                at[0] == row.idx and at[1] > 0 and other.status not in SETTLED for at, other in rows.items()
            )
            return (
                "" if open_ and open_ == row.todo else f"counts {row.todo} items, of which {open_} are open"
            )
    return ""


def check_rest(story: Story) -> list[Violation]:
    """After enough time an execution has ended, is paused, or waits for a named person, moment or child."""
    if any(timer.kind == TimerKind.RECOVERY for timer in story.timers.values()):
        return [Violation("I1", story.execution.pk, "it was to go back to a recovery point, and has not")]
    if story.execution.status in TERMINAL or story.execution.status == E.PAUSED:
        return []
    rows = story.current()
    waits = any(
        row.status in WAITS or (row.available_at is not None and row.available_at > story.now) for row in rows
    )
    busy = [row.block_id for row in rows if row.status in (B.READY, B.RUNNING)]
    late = [b for b in busy if not waits]
    if waits and not late:
        return []
    return [
        Violation("I1", story.execution.pk, f"it is {story.execution.status} still: {late or 'no reason'}")
    ]
