"""A terminal execution goes on in its next epoch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings

from agentflow.errors import AgentflowError, InvalidInput
from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions import page_data, snapshot
from executions.engine.walker import Walker
from executions.models import BlockAttempt, BlockExecution, Execution
from executions.services import control, reconcile, restarting
from executions.services.restarting import (
    ChildExecution,
    NothingToRestart,
    NotTerminal,
    PlanStale,
    RestartRequest,
)
from tests.factories.executions import statuses
from tests.graphs import Sample, samples
from tests.reference import fails, interpret

from .conftest import Start, answer, block, claim, drain, facts, finish, template


def restart(execution: Execution, by: User, **asked: Any) -> int:
    """Restart, and let the run go on as far as it goes."""
    epoch = restarting.restart(execution_id=execution.pk, by=by, request=RestartRequest(**asked))
    drain(execution)
    return epoch


def rows(execution: Execution, epoch: int | None = None) -> dict[str, BlockExecution]:
    found = BlockExecution.objects.filter(execution=execution, epoch=epoch or execution.epoch, iteration=0)
    return {row.block_id: row for row in found}


def failed_at(block_id: str) -> JSONObject:
    return {"failures": {block_id: [{"kind": "critical", "times": 1}]}}


def test_without_a_block_what_failed_runs_again_and_the_rest_is_carried(run: Start, author: User) -> None:
    execution = run(
        template(block("a"), block("b", "a"), block("c", "b"), block("d", "a")), simulation=failed_at("b")
    )
    assert statuses(execution) == {"a": "completed", "b": "failed", "c": "skipped", "d": "completed"}
    before = rows(execution)
    assert restart(execution, author, reason="Mended.") == 2
    assert (execution.epoch, execution.status) == (2, "failed")  # the simulation fails b again
    after = rows(execution)
    for name in ("a", "d"):
        assert after[name].carried_from == before[name].pk
        assert after[name].completed_at == before[name].completed_at
        assert after[name].output == before[name].output
        assert not after[name].attempts.exists()
    assert after["b"].carried_from is None
    assert after["b"].attempts.count() == 1
    assert rows(execution, 1)["b"].completed_at == before["b"].completed_at


def test_a_restart_gives_the_run_its_time_and_its_end_anew(run: Start, author: User) -> None:
    execution = run(template(block("a"), timeout=60_000), simulation=failed_at("a"))
    deadline, started = execution.deadline_at, execution.started_at
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest())
    execution.refresh_from_db()
    assert (execution.status, execution.completed_at, execution.error) == ("running", None, None)
    assert execution.open_sinks == 1
    assert execution.failed_blocks == 0
    assert execution.started_at == started
    assert execution.deadline_at is not None
    assert deadline is not None
    assert execution.deadline_at > deadline
    assert execution.timers.filter(kind="check").exists()
    drain(execution)
    assert execution.status == "failed"
    assert not execution.timers.exists()


def test_a_restart_from_a_block_runs_it_and_all_behind_it(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a"), block("c", "b"), block("side", "a")))
    restart(execution, author, from_block="b")
    assert execution.status == "completed"
    assert {name for name, row in rows(execution).items() if row.carried_from is None} == {"b", "c"}


def test_a_restart_from_a_skipped_block_skips_it_again(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a", when="false"), block("c", "b")))
    restart(execution, author, from_block="b")
    assert execution.status == "completed"
    assert statuses(execution) == {"a": "completed", "b": "skipped", "c": "skipped"}


def test_outputs_of_carried_blocks_reach_what_runs_again(run: Start, author: User) -> None:
    execution = run(
        template(
            block("a", input={"n": "${input.n}"}),
            block("b", "a", input={"got": "${blocks.a.output}"}),
        ),
        input={"n": 7},
    )
    restart(execution, author, from_block="b")
    assert rows(execution)["b"].output == rows(execution, 1)["b"].output
    restart(execution, author, from_block="b")
    assert execution.epoch == 3
    assert rows(execution)["a"].carried_from == rows(execution, 1)["a"].pk


def test_branches_taken_before_stay_taken(run: Start, author: User) -> None:
    choosing = block(
        "choose",
        conditions={
            "type": "if",
            "branches": [
                {"condition": "input.n > 1", "nextBlocks": ["many"]},
                {"condition": "default", "nextBlocks": ["few"]},
            ],
        },
    )
    execution = run(
        template(choosing, block("many"), block("few"), block("end", "many", "few")), input={"n": 2}
    )
    restart(execution, author, from_block="many")
    assert statuses(execution) == {
        "choose": "completed",
        "many": "completed",
        "few": "skipped",
        "end": "completed",
    }
    assert rows(execution)["few"].carried_from is not None


def test_the_key_of_an_effect_changes_only_where_it_happened(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a")))
    restart(execution, author, from_block="b")
    assert [rows(execution)[name].effect_seq for name in ("a", "b")] == [0, 1]
    restart(execution, author, reset_state=True)
    assert [rows(execution)[name].effect_seq for name in ("a", "b")] == [1, 2]


def test_a_block_whose_outcome_is_unknown_keeps_its_key(start: Start, author: User) -> None:
    execution = start(template(block("a")))
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    BlockExecution.objects.filter(pk=held.pk).update(lease_expires_at="2000-01-01T00:00Z")
    reconcile.look(execution.pk)
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    restart(execution, author)
    assert execution.status == "completed"
    assert rows(execution)["a"].effect_seq == 0
    assert rows(execution)["a"].carried_from is None


def test_a_worker_of_the_epoch_before_changes_nothing(start: Start, author: User) -> None:
    execution = start(template(block("a"), block("b", "a")))
    held = claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    BlockExecution.objects.filter(pk=held.pk).update(lease_expires_at="2000-01-01T00:00Z")
    reconcile.look(execution.pk)
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest())
    finish(execution, held, output="from before")
    assert statuses(Execution.objects.get(pk=execution.pk)) == {"a": "ready", "b": "blocked"}
    late = rows(Execution.objects.get(pk=execution.pk), 1)["a"].late_results.get()
    assert late.output == "from before"


def test_a_walker_forgets_what_it_read_in_the_epoch_before(run: Start, author: User) -> None:
    execution = run(
        template(block("a"), block("b", "a", input={"got": "${blocks.a.output}"})), input={"n": 1}
    )
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="b"))
    walker = Walker(facts(execution))
    walker.inputs.keep(0, "from before")
    walker.run()
    execution.refresh_from_db()
    assert rows(execution)["b"].output == rows(execution, 1)["b"].output


def test_the_timeline_keeps_the_failed_attempts_of_carried_blocks(run: Start, author: User) -> None:
    patient = block("a", retryPolicy={"maxRetries": 2, "initialDelay": 1, "jitter": False})
    execution = run(
        template(patient, block("b", "a")),
        simulation={"failures": {"a": [{"kind": "transient", "times": 1}]}},
    )
    while execution.completed_at is None:
        drain(execution)
    restart(execution, author, from_block="b")
    assert [words for *_, words in page_data.state(execution)["tries"]["a"]] == [
        "A simulated transient failure."
    ]


def test_a_decision_stays_with_a_block_that_is_carried(run: Start, author: User) -> None:
    asking = {"type": "approval"}
    execution = run(
        template(block("a", humanInLoop=asking), block("b", "a", humanInLoop=asking), block("c", "b"))
    )
    answer(execution, "a", author)
    answer(execution, "b", author, approved=False)
    assert execution.status == "failed"
    found = restarting.preview(execution_id=execution.pk, request=RestartRequest(from_block="b"))
    assert found["approvals"] == {"survive": ["a"], "askedAgain": ["b"]}
    restart(execution, author, from_block="b")
    assert statuses(execution) == {"a": "completed", "b": "waiting_human", "c": "blocked"}
    shown = {one["blockId"]: one for one in snapshot.detail(execution)["blockExecutions"]}
    assert [said["status"] for said in shown["a"]["humanInteractions"]] == ["approved"]
    assert [said["status"] for said in shown["b"]["humanInteractions"]] == ["pending"]
    assert Approval.objects.filter(execution=execution, block_id="b").count() == 2
    answer(execution, "b", author)
    assert execution.status == "completed"
    restart(execution, author, from_block="c")
    again = restarting.preview(execution_id=execution.pk, request=RestartRequest(from_block="c"))
    assert again["approvals"]["survive"] == ["a", "b"]


def test_the_plan_says_what_runs_again_and_binds_the_restart(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a"), block("c", "a")))
    for block_id, cost in (("a", {"EUR": 100}), ("b", {"EUR": 2.5, "USD": 0.1})):
        BlockAttempt.objects.filter(block__execution=execution, block__block_id=block_id).update(
            usage={"inputTokens": 1, "cost": cost}
        )
    found = restarting.preview(execution_id=execution.pk, request=RestartRequest(from_block="b"))
    assert found["estimatedCost"] == {"EUR": 2.5, "USD": 0.1}
    assert (found["epoch"], found["reruns"], found["carried"]) == (2, ["b"], ["a", "c"])
    assert found["estimatedMs"] is not None
    assert found["onceEffectsRepeated"] == []
    other = RestartRequest(from_block="c", plan_id=found["planId"])
    with pytest.raises(PlanStale):
        restarting.restart(execution_id=execution.pk, by=author, request=other)
    assert restart(execution, author, from_block="b", plan_id=found["planId"]) == 2
    with pytest.raises(PlanStale):
        restart(execution, author, from_block="b", plan_id=found["planId"])


def test_the_plan_names_effects_that_would_happen_twice(run: Start, author: User) -> None:
    execution = run(template(block("a", effect="once"), block("b", "a")))
    found = restarting.preview(execution_id=execution.pk, request=RestartRequest(from_block="a"))
    assert found["onceEffectsRepeated"] == [{"blockId": "a", "outcome": "happened"}]


@pytest.mark.parametrize(("unknown", "repeated"), [(True, ["a"]), (False, [])])
def test_an_effect_is_only_repeated_where_it_may_have_happened(
    run: Start, author: User, unknown: bool, repeated: list[str]
) -> None:
    execution = run(template(block("a", effect="once")))
    error = {"kind": "critical", "code": "x", "message": "x", "outcomeUnknown": unknown}
    BlockExecution.objects.filter(execution=execution).update(status="failed", error=error)
    Execution.objects.filter(pk=execution.pk).update(status="failed")
    found = restarting.preview(execution_id=execution.pk, request=RestartRequest())
    assert [one["blockId"] for one in found["onceEffectsRepeated"]] == repeated


@pytest.mark.parametrize(
    ("prepare", "asked", "refused"),
    [
        (lambda run: run(template(block("a"))), {}, NothingToRestart),
        (lambda run: run(template(block("a"))), {"from_block": "x"}, InvalidInput),
        (lambda run: run(template(block("a", humanInLoop={"type": "approval"}))), {}, NotTerminal),
        (lambda run: run(template(block("a"))), {"from_block": "a", "plan_id": "old"}, PlanStale),
    ],
)
def test_what_cannot_be_restarted_is_left_as_it_is(
    run: Start,
    author: User,
    prepare: Callable[[Start], Execution],
    asked: dict[str, Any],
    refused: type[AgentflowError],
) -> None:
    execution = prepare(run)
    before = statuses(execution)
    with pytest.raises(refused):
        restart(execution, author, **asked)
    execution.refresh_from_db()
    assert (execution.epoch, statuses(execution)) == (1, before)
    assert not AuditEntry.objects.filter(action="execution.restart").exists()


def test_a_child_is_restarted_with_the_execution_that_started_it(
    run: Start, author: User, version_of: Callable[[JSONObject], Any]
) -> None:
    inner = version_of(template(block("x")))
    outer = block("sub", toolType="UseCase", configuration={"templateId": str(inner.template_id)})
    del outer["agentId"]
    execution = run(template(outer))
    assert execution.status == "completed"
    child = Execution.objects.get(parent_block__execution=execution)
    with pytest.raises(ChildExecution):
        restart(child, author, from_block="x")
    restart(execution, author, from_block="sub")
    assert execution.status == "completed"
    assert Execution.objects.filter(parent_block__execution=execution).count() == 2


def test_of_two_restarts_at_once_one_is_refused(run: Start, author: User) -> None:
    execution = run(template(block("a")))
    barrier = threading.Barrier(2)
    said: list[object] = []

    def attempt() -> None:
        try:
            barrier.wait()
            request = RestartRequest(from_block="a")
            said.append(restarting.restart(execution_id=execution.pk, by=author, request=request))
        except NotTerminal as error:
            said.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, said)) == ["2", "not_terminal"]
    assert AuditEntry.objects.filter(action="execution.restart").count() == 1


def test_a_restart_is_one_audit_entry_and_shows_in_the_log(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a")))
    restart(execution, author, from_block="b", reason="The price was wrong.")
    entry = AuditEntry.objects.get(action="execution.restart")
    assert entry.detail == {"epoch": 2, "reruns": 1, "fromBlock": "b", "reason": "The price was wrong."}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sample=samples(max_blocks=14))
def test_a_restarted_run_ends_as_the_interpreter_says(run: Start, author: User, sample: Sample) -> None:
    execution = run(sample.definition, input=sample.input, simulation=sample.simulation())
    expected = interpret(
        sample.definition, run_input=sample.input, failing=sample.failing, answers=sample.answers
    )
    names = list(expected)
    for asked in ({"from_block": names[len(names) // 2]}, {"reset_state": True}):
        restart(execution, author, **asked)
        assert statuses(execution) == {name: expected[name] for name in statuses(execution)}
        assert execution.status == ("failed" if fails(sample.definition, expected) else "completed")


def test_a_for_each_runs_again_whole_and_items_that_happened_get_new_keys(run: Start, author: User) -> None:
    each = block(
        "each",
        agentId="test.odd",
        forEach={"items": "input.numbers"},
        input={"n": "${item}"},
        retryPolicy={"maxRetries": 0, "onExhausted": "fail"},
    )
    execution = run(template(block("a"), each, block("b", "each")), input={"numbers": [1, 2, 3]})
    assert statuses_of_items(execution) == ["completed", "failed", "completed"]
    restart(execution, author)
    assert statuses_of_items(execution) == ["completed", "failed", "completed"]
    assert keys_of_items(execution) == [1, 0, 1]
    restart(execution, author, from_block="a")
    assert keys_of_items(execution) == [1, 0, 1]  # carried with their block, which does not follow a
    restart(execution, author, from_block="each")
    assert keys_of_items(execution) == [2, 0, 2]
    restart(execution, author, reset_state=True)
    assert keys_of_items(execution) == [3, 3, 3]


def statuses_of_items(execution: Execution) -> list[str]:
    return [row.status for row in _items(execution)]


def keys_of_items(execution: Execution) -> list[int]:
    return [row.effect_seq for row in _items(execution)]


def _items(execution: Execution) -> list[BlockExecution]:
    items = BlockExecution.objects.filter(execution=execution, epoch=execution.epoch, iteration__gt=0)
    return list(items.order_by("iteration"))
