"""What a block costs does not grow with its run: rows touched and functions called, counted."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.db import connection
from django.db.backends.signals import connection_created

from agentflow.types import JSONObject
from executions.engine.frontier import Frontier
from executions.engine.judging import Change, Claim
from executions.engine.profile import history
from executions.engine.turns import Wanted, take_turn
from executions.engine.walker import walk
from executions.models import AttemptOutcome, Execution
from executions.processes import look_up_by_key, plan_statements_once
from executions.states import BlockStatus, ExecutionStatus
from tests.executions.conftest import Start, block, claim, facts, finish, template
from tests.work import calls

SMALL, NARROW, WIDE = 60, 150, 1200  # a table of fewer than 50 rows is never analyzed by itself
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


def per_block(start: Start, definition: JSONObject, width: int) -> tuple[float, float]:
    """Rows and calls, from a run's first turn to its end."""
    execution = start(definition)
    before = rows_touched()
    called = calls(lambda: walk(execution.pk))
    touched = rows_touched() - before
    execution.refresh_from_db()
    assert execution.status == ExecutionStatus.COMPLETED
    return touched / width, called / width


def test_a_block_of_a_wide_run_costs_no_more(start: Start) -> None:
    per_block(start, fan(SMALL), SMALL)
    analyze()
    per_block(start, fan(SMALL), SMALL)  # what is done once in a process
    narrow_rows, narrow_calls = per_block(start, fan(NARROW), NARROW)
    wide_rows, wide_calls = per_block(start, fan(WIDE), WIDE)
    assert wide_rows <= AT_MOST * narrow_rows
    assert wide_calls <= AT_MOST * narrow_calls


def test_a_walker_goes_on_where_it_claimed_last(start: Start) -> None:
    execution = start(fan(6))
    frontier = Frontier()
    finish(execution, claim(execution), {})
    assert claimed(execution, frontier, 2) == [1, 2]
    assert frontier.start == (3, 0)
    assert claimed(execution, frontier, 2) == [3, 4]


def test_what_others_made_ready_behind_a_walker_is_claimed_before_it_leaves(start: Start) -> None:
    execution = start(fan(3))
    frontier = Frontier()
    finish(execution, claim(execution), {})
    frontier.start = (3, 0)
    assert claimed(execution, frontier, 1) == [3]
    assert claimed(execution, frontier, 1) == [1]
    assert claimed(execution, frontier, 1) == [2]
    assert claimed(execution, frontier, 1) == []


def test_a_walker_that_leaves_tells_of_what_is_ready_behind_it(start: Start) -> None:
    execution = start(fan(3))
    frontier = Frontier()
    finish(execution, claim(execution), {})
    frontier.start = (4, 0)
    assert take_turn(facts(execution), uuid4(), [], want=0, frontier=frontier).ready_left == 3


def test_a_block_that_a_walker_opens_behind_itself_is_the_next(start: Start) -> None:
    """Plan: one, two, three, four, and `back` behind `one`, whose priority puts it before the others."""
    others = [block(name) for name in ("two", "three", "four")]
    execution = start(template(block("one", priority=9), block("back", "one", priority=8), *others))
    frontier = Frontier()
    first = claim(execution)
    assert claimed(execution, frontier, 1) == [facts(execution).plan.index["two"]]
    change = completed(first)
    take_turn(facts(execution), uuid4(), [change], want=0, frontier=frontier)
    assert claimed(execution, frontier, 1) == [facts(execution).plan.index["back"]]


def claimed(execution: Execution, frontier: Frontier, count: int) -> list[int]:
    wanted = Wanted(count, all_fast=True)
    return [c.idx for c in take_turn(facts(execution), uuid4(), [], want=wanted, frontier=frontier).claims]


def completed(held: Claim) -> Change:
    return Change(
        pk=held.pk, idx=held.idx, attempt=held.attempt, status=BlockStatus.COMPLETED, ended=AttemptOutcome.OK
    )
