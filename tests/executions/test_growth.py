"""What a block costs does not grow with its run: rows touched and functions called, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.backends.signals import connection_created

from agentflow.types import JSONObject
from executions.engine import walker
from executions.engine.frontier import WINDOW
from executions.engine.profile import history
from executions.engine.turns import Wanted, take_turn
from executions.engine.walker import walk
from executions.engine.watch import Flight, watch
from executions.models import BlockExecution, Execution
from executions.processes import look_up_by_key, plan_statements_once
from executions.states import ExecutionStatus
from tests import builtins
from tests.executions.conftest import Start, block, claim, facts, finish, template
from tests.work import calls

SMALL, WIDE = 60, 1200  # a table of fewer than 50 rows is never analyzed by itself
AT_MOST = 1.3  # times as much per block


@pytest.fixture(autouse=True)
def batches_of_one_size(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A busy machine makes them smaller, and a walker's slice shorter.  Plans are made as in a worker."""
    for module in ("profile", "walker"):
        monkeypatch.setattr(f"executions.engine.{module}.BATCH_MS", 60_000.0)
    monkeypatch.setattr("executions.engine.walker.SLICE_S", 600.0)
    history.forget()
    connection.close()
    plan_statements_once()
    look_up_by_key()
    yield
    history.forget()
    connection_created.disconnect(dispatch_uid="plan_statements_once")
    connection_created.disconnect(dispatch_uid="look_up_by_key")
    connection.close()


def fan(width: int) -> JSONObject:
    middle = [f"m{n}" for n in range(width)]
    return template(block("source"), *(block(name, "source") for name in middle), block("sink", *middle))


def rows_touched() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_user_tables"
            " WHERE relname LIKE 'executions_%' OR relname LIKE 'events_%'"
        )
        return int(cursor.fetchone()[0])


def analyze() -> None:
    """Let the planner know how small the tables are: the plans that it makes now are kept."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def items(width: int) -> JSONObject:
    """As many items as the input has, of which four may be worked on at a time."""
    return template(block("each", forEach={"items": "input.items", "maxConcurrency": 4}))


Wide = Callable[[int], JSONObject]


def per_block(start: Start, wide: Wide, width: int) -> tuple[float, float]:
    """Rows and calls, from a run's first turn to its end."""
    execution = start(wide(width), input={"items": [0] * width} if wide is items else {})
    before = rows_touched()
    called = calls(lambda: walk(execution.pk))
    touched = rows_touched() - before
    execution.refresh_from_db()
    assert execution.status == ExecutionStatus.COMPLETED
    return touched / width, called / width


@pytest.mark.parametrize(("wide", "narrow"), [(fan, 300), (items, 300)])
def test_a_block_of_a_wide_run_costs_no_more(start: Start, wide: Wide, narrow: int) -> None:
    per_block(start, wide, SMALL)
    analyze()
    per_block(start, wide, SMALL)  # what is done once in a process
    narrow_rows, narrow_calls = per_block(start, wide, narrow)
    wide_rows, wide_calls = per_block(start, wide, WIDE)
    assert wide_rows <= AT_MOST * narrow_rows
    assert wide_calls <= AT_MOST * narrow_calls


def test_few_are_called_to_help_with_many_blocks_that_are_soon_done(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that is called costs more than it takes to do dozens of them."""
    width = 300
    walk(start(fan(width)).pk)  # how fast they are is known then
    wanted = []
    holding = watch.holding

    def note(flights: list[Flight]) -> AbstractContextManager[None]:
        wanted.append(flights[0].may_fork)
        return holding(flights)

    monkeypatch.setattr(watch, "holding", note)
    monkeypatch.setattr(walker, "BATCH_MS", 50.0)
    for likeness in list(history._ms):
        history._ms[likeness] = 0.1
    monkeypatch.setattr(history, "note", lambda likeness, ms: None)  # a busy machine would teach otherwise
    walk(start(fan(width)).pk)
    assert 0 < max(wanted) <= 1 + width * 0.1 / 50


def test_a_walker_goes_on_where_it_claimed_last(start: Start) -> None:
    execution = start(fan(6))
    finish(execution, claim(execution), {})
    assert claimed(execution, 2, afresh=True) == [1, 2]
    assert left_from(execution) == (3, 0)
    assert claimed(execution, 2) == [3, 4]


def test_what_became_ready_unnoticed_is_claimed_before_a_walker_leaves(start: Start) -> None:
    """As when a backoff ends: nobody opens its block then."""
    execution = start(fan(3))
    finish(execution, claim(execution), {})
    Execution.objects.filter(pk=execution.pk).update(ready_idx=3, ready_iteration=0)
    assert claimed(execution, 1) == [3]
    assert claimed(execution, 1) == [1]
    assert claimed(execution, 1) == [2]
    assert claimed(execution, 1) == []


def test_a_walker_that_leaves_tells_of_what_is_ready_behind_it(start: Start) -> None:
    execution = start(fan(3))
    finish(execution, claim(execution), {})
    Execution.objects.filter(pk=execution.pk).update(ready_idx=4, ready_iteration=0)
    assert take_turn(facts(execution), uuid4(), [], want=0, afresh=False).ready_left == 3


def test_what_another_walker_opened_behind_is_the_next(start: Start) -> None:
    """Plan: one, `back` behind it, then the others: whose priority is lower."""
    execution = start(
        template(
            recorded("one", priority=9),
            recorded("back", "one", priority=8),
            *(recorded(name) for name in ("two", "three", "four")),
        )
    )
    held = claim(execution)
    builtins.on_call["two"] = lambda: finish(execution, held, {})
    walk(execution.pk)
    assert builtins.calls == ["two", "back", "three", "four"]


def test_what_is_left_far_ahead_is_found_when_nothing_is_near(start: Start) -> None:
    """A look goes no further than a window, so long as something is ready there."""
    width = WINDOW + 10
    execution = start(fan(width))
    finish(execution, claim(execution), {})
    BlockExecution.objects.filter(execution=execution, idx__range=(2, width - 1)).update(status="running")
    Execution.objects.filter(pk=execution.pk).update(ready_idx=1, ready_iteration=0)
    assert claimed(execution, 2) == [1]
    assert left_from(execution) == (WINDOW + 1, 0)
    assert claimed(execution, 1) == [width]
    assert left_from(execution) is None


def recorded(name: str, *dependencies: str, **fields: Any) -> JSONObject:
    return block(name, *dependencies, agentId="test.once", configuration={"name": name}, **fields)


def claimed(execution: Execution, count: int, *, afresh: bool = False) -> list[int]:
    wanted = Wanted(count, all_fast=True)
    turn = take_turn(facts(execution), uuid4(), [], want=wanted, afresh=afresh)
    return [claim.idx for claim in turn.claims]


def left_from(execution: Execution) -> tuple[int, int | None] | None:
    execution.refresh_from_db()
    return None if execution.ready_idx is None else (execution.ready_idx, execution.ready_iteration)
