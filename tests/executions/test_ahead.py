"""Blocks done ahead of their claim: fewer commits, and nothing else that anybody can see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from uuid import uuid4

import pytest
from django.db import connection

from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.engine import inputs, profile, walker
from executions.engine.ahead import AHEAD
from executions.engine.judging import Change
from executions.engine.profile import history
from executions.engine.turns import take_turn
from executions.models import AttemptOutcome, BlockAttempt, BlockExecution, Execution
from executions.services import control, reconcile
from executions.states import BlockStatus
from tests import builtins

from .conftest import Start, block, claim, drain, facts, finish, lose_worker, row, template

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(autouse=True)
def nothing_is_known_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """How fast agents are is learned anew, and a machine that stutters calls none of them slow."""
    for module in (profile, walker):
        monkeypatch.setattr(module, "FAST_MS", 10_000.0)
        monkeypatch.setattr(module, "BATCH_MS", 10_000.0)
    history.forget()
    yield
    history.forget()


def chain(**fields: JSONObject) -> JSONObject:
    """Six blocks in a row that record their names; `c={"effect": "once"}` says more of one."""
    return template(
        *(
            block(name, *before, agentId="test.record", configuration={"name": name}, **fields.get(name, {}))
            for name, before in zip(NAMES, [(), *((name,) for name in NAMES)], strict=False)
        )
    )


@pytest.fixture
def known_fast(run: Start) -> Callable[..., JSONObject]:
    """A chain whose agents this process knows to be fast."""

    def make(**fields: JSONObject) -> JSONObject:
        definition = chain(**fields)
        run(definition)
        builtins.calls.clear()
        return definition

    return make


def commits(execution: Execution) -> int:
    """In how many transactions the attempts of a run were settled."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT a.xmin::text) FROM executions_blockattempt a"
            " JOIN executions_blockexecution b ON b.id = a.block_id WHERE b.execution_id = %s",
            [execution.pk],
        )
        return int(cursor.fetchone()[0])


def outcomes(execution: Execution, block_id: str) -> list[str]:
    attempts = BlockAttempt.objects.filter(block__execution=execution, block__block_id=block_id)
    return list(attempts.order_by("attempt").values_list("outcome", flat=True))


def statuses(execution: Execution) -> str:
    rows = BlockExecution.objects.filter(execution=execution).order_by("idx")
    return " ".join(rows.values_list("status", flat=True))


def test_a_row_of_fast_blocks_is_settled_in_one_commit(
    run: Start, known_fast: Callable[..., JSONObject]
) -> None:
    execution = run(known_fast())

    assert execution.status == "completed"
    assert builtins.calls == list(NAMES)
    assert commits(execution) == 1
    assert all(outcomes(execution, name) == [AttemptOutcome.OK] for name in NAMES)


def test_times_tell_the_order_of_the_work(run: Start, known_fast: Callable[..., JSONObject]) -> None:
    execution = run(known_fast())

    blocks = [row(execution, name) for name in NAMES]
    assert all(one.started_at and one.completed_at and one.started_at <= one.completed_at for one in blocks)
    for before, after in pairwise(blocks):
        assert before.completed_at is not None
        assert after.started_at is not None
        assert before.completed_at <= after.started_at


def test_unknown_agents_are_claimed_one_by_one(run: Start) -> None:
    execution = run(chain())

    assert execution.status == "completed"
    assert commits(execution) > 1


def test_a_join_is_done_ahead_when_all_before_it_is_done(run: Start) -> None:
    diamond = template(block("a"), block("b", "a"), block("c", "a"), block("d", "b", "c"))
    run(diamond)

    execution = run(diamond)

    assert execution.status == "completed"
    assert commits(execution) == 1
    assert row(execution, "d").output == {"b": row(execution, "b").output, "c": row(execution, "c").output}


def test_what_must_not_be_repeated_is_claimed_first(
    run: Start, known_fast: Callable[..., JSONObject]
) -> None:
    definition = known_fast(c={"effect": "once"})
    seen: list[tuple[str, int]] = []
    builtins.on_call["c"] = lambda: seen.append(
        BlockExecution.objects.filter(block_id="c").order_by("-id").values_list("status", "attempt")[0]
    )

    execution = run(definition)

    assert execution.status == "completed"
    assert seen == [("running", 1)]


@pytest.mark.parametrize(("command", "left"), [("pause", "blocked"), ("cancel", "cancelled")])
def test_a_command_in_the_middle_leaves_the_rest_untouched(
    start: Start, author: User, known_fast: Callable[..., JSONObject], command: str, left: str
) -> None:
    execution = start(known_fast())
    builtins.on_call["c"] = lambda: getattr(control, command)(execution_id=execution.pk, by=author)

    drain(execution)

    assert statuses(execution) == " ".join(["completed", *[left] * 5])
    assert outcomes(execution, "b") == []


def test_after_a_pause_it_is_done_again(
    start: Start, author: User, known_fast: Callable[..., JSONObject]
) -> None:
    execution = start(known_fast())
    builtins.on_call["c"] = lambda: control.pause(execution_id=execution.pk, by=author)
    drain(execution)
    builtins.on_call.clear()

    control.resume(execution_id=execution.pk, by=author)
    drain(execution)

    assert execution.status == "completed"
    assert builtins.calls.count("b") == 2
    assert all(outcomes(execution, name) == [AttemptOutcome.OK] for name in NAMES)


def test_a_block_that_lost_its_race_in_the_middle_stays_cancelled(run: Start, start: Start) -> None:
    race = template(
        block("rival", priority=1),
        block("a"),
        block("c", "a", agentId="test.record", configuration={"name": "c"}),
        block("first", "rival", "c", join="any"),
        block("needed", "a"),
    )
    run(race)
    execution = start(race)
    held = claim(execution)
    builtins.on_call["c"] = lambda: finish(execution, held, {})

    drain(execution)

    assert execution.status == "completed"
    assert {name: row(execution, name).status for name in ("a", "c", "first", "needed")} == {
        "a": "completed",
        "c": "cancelled",
        "first": "completed",
        "needed": "completed",
    }


def test_a_lost_lease_takes_what_was_done_ahead_with_it(
    start: Start, known_fast: Callable[..., JSONObject]
) -> None:
    execution = start(known_fast())

    def be_given_up() -> None:
        builtins.on_call.clear()
        lose_worker(execution, "a")
        reconcile.look(execution.pk)

    builtins.on_call["c"] = be_given_up

    drain(execution)

    assert execution.status == "completed"
    assert outcomes(execution, "a") == [AttemptOutcome.RESCUED, AttemptOutcome.OK]
    assert all(outcomes(execution, name) == [AttemptOutcome.OK] for name in NAMES[1:])


def test_a_failure_ahead_counts_as_an_attempt_of_its_block(run: Start) -> None:
    policy = {"maxRetries": 0, "onExhausted": "fail"}
    failing = template(
        block("a"),
        block("b", "a", agentId="test.crash", onError="continue", retryPolicy=policy),
        block("c", "a"),
    )
    one_by_one = run(failing)

    execution = run(failing)

    assert statuses(execution) == statuses(one_by_one) == "completed failed completed"
    assert outcomes(execution, "b") == [AttemptOutcome.ERROR]
    assert row(execution, "b").error == row(one_by_one, "b").error


def test_a_choice_is_made_ahead(run: Start) -> None:
    branches = [
        {"condition": "blocks.a.output == input", "nextBlocks": ["yes"]},
        {"condition": "default", "nextBlocks": ["no"]},
    ]
    choosing = template(
        block("a"),
        block("b", "a", conditions={"type": "if", "branches": branches}),
        block("yes", "b"),
        block("no", "b"),
    )
    run(choosing)

    execution = run(choosing)

    assert {one.block_id: one.status for one in BlockExecution.objects.filter(execution=execution)} == {
        "a": "completed",
        "b": "completed",
        "yes": "completed",
        "no": "skipped",
    }


def test_what_was_done_ahead_counts_only_where_nothing_else_is_open(run: Start, start: Start) -> None:
    join = template(
        block("a", priority=1),
        block("b"),
        block("c", "a", "b", agentId="test.record", configuration={"name": "c"}),
    )
    run(join)
    builtins.calls.clear()
    execution = start(join)
    claim(execution)  # `a`, by a worker that says nothing more
    b = claim(execution)
    done = Change(pk=b.pk, idx=b.idx, attempt=b.attempt, status=BlockStatus.COMPLETED, output=1)
    too_early = Change(
        pk=AHEAD, idx=row(execution, "c").idx, attempt=1, status=BlockStatus.COMPLETED, output=2
    )

    turn = take_turn(facts(execution), uuid4(), [done, too_early], want=0)

    assert turn.refused
    assert statuses(execution) == "running completed blocked"
    assert row(execution, "c").todo == 1


def test_what_was_done_in_the_same_turn_is_not_forgotten(run: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walker keeps so many outputs only; those that are in no row yet are the last to go."""
    echoes = template(*(block(name, *before) for name, before in zip("abcdef", [(), *"abcde"], strict=False)))
    one_by_one = run(echoes, input={"n": 1})
    monkeypatch.setattr(inputs, "OUTPUTS_KEPT", 2)

    execution = run(echoes, input={"n": 1})

    assert commits(execution) == 1
    assert row(execution, "f").output == row(one_by_one, "f").output
