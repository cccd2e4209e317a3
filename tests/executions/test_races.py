"""Threads on one run, each with a connection of its own: whoever comes first, the rows stay right."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.governance.models import User
from agentflow.lifecycle import IllegalTransition
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.engine.turns import take_turn
from executions.engine.walker import SLICE_S, walk
from executions.models import Execution, Timer
from executions.services import control, reconcile, ticking
from templates_app.models import TemplateVersion
from tests.factories.executions import statuses
from tests.graphs import Sample, samples
from tests.history import check
from tests.reference import fails, interpret
from tests.waiting import PATIENCE_S

from .conftest import Start, block, claim, drain, facts, finish, lose_worker, row, template
from .test_against_reference import check_history

WALKERS = 8
TIMES = 20  # each race is run so often: who wins is chance

_COUNT = """
CREATE TABLE race_walkers (execution_id uuid, walkers int);
CREATE FUNCTION race_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO race_walkers
  SELECT execution_id, count(DISTINCT lease_owner) FROM executions_blockexecution
  WHERE status = 'running' AND execution_id IN (SELECT execution_id FROM changed) GROUP BY 1;
  RETURN NULL;
END $$;
CREATE TRIGGER race_count AFTER UPDATE ON executions_blockexecution
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION race_count();
"""
_STOP_COUNTING = """
DROP TRIGGER race_count ON executions_blockexecution; DROP FUNCTION race_count; DROP TABLE race_walkers;
"""


@pytest.fixture
def most_walkers(transactional_db: None) -> Iterator[Callable[[Execution], int]]:
    """How many walkers held blocks of a run at one time: counted in the database after every change."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT)

    def most(execution: Execution) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT max(walkers) FROM race_walkers WHERE execution_id = %s", [execution.pk])
            return int(cursor.fetchone()[0] or 0)

    yield most
    with connection.cursor() as cursor:
        cursor.execute(_STOP_COUNTING)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each gave, or the refusal it met; all begin together."""
    barrier = threading.Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        try:
            barrier.wait(PATIENCE_S)
            return work()
        except IllegalTransition as refused:
            return refused
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as crowd:
        return list(crowd.map(one, works))


def outcomes(execution: Execution, block_id: str) -> list[tuple[int, str]]:
    attempts = row(execution, block_id).attempts.order_by("attempt")
    return list(attempts.values_list("attempt", "outcome"))


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sample=samples(), millis=st.lists(st.integers(0, 8), min_size=24, max_size=24))
def test_walkers_of_one_run_share_its_blocks_and_strand_none(
    start: Start, most_walkers: Callable[[Execution], int], sample: Sample, millis: list[int]
) -> None:
    definition = {**sample.definition, "blocks": [dict(block) for block in sample.definition["blocks"]]}
    for one, ms in zip(definition["blocks"], millis, strict=False):
        one["configuration"] = {"simulate": {"runtimeSeconds": ms}}
    execution = start(definition, input=sample.input, simulation={**sample.simulation(), "scale": 0.001})
    began = time.monotonic()
    at_once(*[partial(walk, execution.pk)] * WALKERS)
    # Nobody is called again: what a walker leaves behind, another must take.  One whose slice is over
    # asks for another by a message, which nobody reads here.
    if time.monotonic() - began >= SLICE_S:
        drain(execution)
    expected = interpret(definition, run_input=sample.input, failing=sample.failing, answers=sample.answers)
    assert statuses(execution) == {name: expected[name] for name in statuses(execution)}
    execution.refresh_from_db()
    assert execution.status == ("failed" if fails(definition, expected) else "completed")
    check_history(execution)
    assert most_walkers(execution) <= definition["globalSettings"]["maxParallelBlocks"]


def test_a_result_and_a_rescue_at_once_leave_one_accepted_attempt(start: Start) -> None:
    for _ in range(TIMES):
        execution = start(template(block("a"), block("b", "a")))
        held = claim(execution)
        lose_worker(execution, "a")
        at_once(partial(finish, execution, held, output=1), partial(reconcile.look, execution.pk))
        drain(execution)
        assert execution.status == "completed"
        late = row(execution, "a").late_results.count()
        assert (outcomes(execution, "a"), late) in [
            ([(1, "ok")], 0),  # the result came first
            ([(1, "rescued"), (2, "ok")], 1),
        ]
        assert outcomes(execution, "b") == [(1, "ok")]


def test_a_result_and_a_cancel_at_once_end_the_run_once(start: Start, author: User) -> None:
    for _ in range(TIMES):
        execution = start(template(block("a"), block("b", "a")))
        held = claim(execution)
        at_once(
            partial(finish, execution, held, output=1),
            partial(control.cancel, execution_id=execution.pk, by=author),
        )
        execution.refresh_from_db()
        assert execution.status == "cancelled"
        assert statuses(execution) == {"a": "completed", "b": "cancelled"}
        assert outcomes(execution, "a") == [(1, "ok")]
        assert _changes(execution).count({"status": "cancelled"}) == 1


def test_the_last_result_and_a_cancel_at_once_agree_on_the_end(start: Start, author: User) -> None:
    for _ in range(TIMES):
        execution = start(template(block("a")))
        held = claim(execution)
        _, refused = at_once(
            partial(finish, execution, held, output=1),
            partial(control.cancel, execution_id=execution.pk, by=author),
        )
        execution.refresh_from_db()
        assert execution.status == ("completed" if refused else "cancelled")
        assert statuses(execution) == {"a": "completed"}


def test_nothing_starts_after_a_pause_has_been_accepted(start: Start, author: User) -> None:
    chain = [block("b0"), *(block(f"b{n}", f"b{n - 1}") for n in range(1, 12))]
    for _ in range(TIMES):
        execution = start(template(*chain))
        at_once(
            partial(walk, execution.pk),
            partial(walk, execution.pk),
            partial(control.pause, execution_id=execution.pk, by=author),
        )
        execution.refresh_from_db()
        if execution.status != "completed":  # the pause came in time
            assert _after_the_pause(execution) == 0
            assert "running" not in statuses(execution).values()
            control.resume(execution_id=execution.pk, by=author)
            drain(execution)
        assert execution.status == "completed"
        check_history(execution)


def test_two_looks_at_once_rescue_a_block_once(start: Start) -> None:
    for _ in range(TIMES):
        execution = start(template(block("a")))
        claim(execution)
        lose_worker(execution, "a")
        at_once(*[partial(reconcile.look, execution.pk)] * 3)
        assert row(execution, "a").crashes == 1
        assert outcomes(execution, "a") == [(1, "rescued")]
        drain(execution)
        assert execution.status == "completed"


def test_two_claims_at_once_give_a_block_to_one(start: Start) -> None:
    for _ in range(TIMES):
        execution = start(template(block("a")))
        takes = [partial(take_turn, facts(execution), uuid4(), [], want=1) for _ in range(4)]
        assert sorted(len(turn.claims) for turn in at_once(*takes)) == [0, 0, 0, 1]
        assert row(execution, "a").attempt == 1


def test_resume_and_cancel_at_once_end_cancelled(start: Start, author: User) -> None:
    for _ in range(TIMES):
        execution = start(template(block("a"), block("b", "a")))
        control.pause(execution_id=execution.pk, by=author)
        at_once(
            partial(control.resume, execution_id=execution.pk, by=author),
            partial(control.cancel, execution_id=execution.pk, by=author),
            partial(walk, execution.pk),
        )
        execution.refresh_from_db()
        assert execution.status in {"cancelled", "completed"}
        assert set(statuses(execution).values()) <= {"cancelled", "completed"}


def test_the_end_of_a_child_and_a_cancel_of_its_parent_at_once_leave_one_end(
    start: Start, author: User, version_of: Callable[[JSONObject], TemplateVersion]
) -> None:
    child = version_of(template(block("x")))
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": str(child.template_id)}}
    for _ in range(TIMES // 2):
        execution = start(template(sub, block("last", "sub")))
        walk(execution.pk)
        started = Execution.objects.get(parent_block__execution=execution)
        at_once(
            partial(walk, started.pk),
            partial(control.cancel, execution_id=execution.pk, by=author),
            partial(reconcile.look, execution.pk),
        )
        reconcile.look(started.pk)
        execution.refresh_from_db()
        started.refresh_from_db()
        assert execution.status == "cancelled"
        assert started.status in {"completed", "cancelled"}
        assert check([execution.pk, started.pk], at_rest=True) == []


def test_two_clocks_at_once_end_a_question_once(start: Start) -> None:
    asking = block("a", humanInLoop={"type": "approval", "timeout": 1000})
    for _ in range(TIMES):
        execution = start(template(asking, block("b", "a")))
        drain(execution)
        Approval.objects.filter(execution=execution).update(respond_by=Now())
        Timer.objects.filter(execution=execution, kind="approval_timeout").update(due_at=Now())
        at_once(*[ticking.tick] * 3)
        drain(execution)
        assert execution.status == "failed"
        assert check([execution.pk], at_rest=True) == []


def test_a_walker_whose_block_was_given_away_takes_no_place_beyond_the_limit(start: Start) -> None:
    """It comes back from a long sleep while others hold all the places there are."""
    execution = start(template(block("a"), block("b"), block("c"), maxParallelBlocks=1))
    held = claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    other = claim(execution)
    turn = finish(execution, held, output=1, want=1)
    assert turn.claims == []
    assert list(statuses(execution).values()).count("running") == 1
    assert other.attempt == 2
    assert row(execution, "a").late_results.count() == 1


def _changes(execution: Execution) -> list[JSONObject]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT payload->>'status' FROM events_event WHERE execution_id = %s"
            " AND type = 'execution_changed' ORDER BY id",
            [execution.pk],
        )
        return [{"status": status} for (status,) in cursor.fetchall()]


def _after_the_pause(execution: Execution) -> int:
    """Blocks that started after the pause; the run's lock orders the events of a run by id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM events_event started JOIN events_event paused"
            " ON paused.execution_id = started.execution_id AND paused.id < started.id"
            " WHERE started.execution_id = %s AND started.type = 'block_changed'"
            " AND started.payload->>'status' = 'running'"
            " AND paused.type = 'execution_changed' AND paused.payload->>'status' = 'paused'",
            [execution.pk],
        )
        return int(cursor.fetchone()[0])
