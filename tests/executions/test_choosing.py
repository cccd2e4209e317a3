"""Blocks that say what an agent must be able to do, and agents that bear only so much."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from agentflow.agents import registry
from agentflow.agents.models import AgentPolicy
from agentflow.types import JSONObject
from executions.engine.choosing import Pick, pick
from executions.engine.judging import Change, Claim
from executions.engine.rates import wait_for
from executions.engine.turns import take_turn
from executions.explain import explain
from executions.models import AgentWindow, AttemptOutcome, Execution, Place, RoutingReceipt, Timer
from executions.services import control, measuring, reconcile, repairing
from executions.states import BlockStatus
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.work import functions

from .conftest import Start, block, claim, drain, facts, finish, lose_worker, make_due, row, template
from .test_concurrency import go_on

CAN: JSONObject = {"capabilities": ["work"]}


@pytest.fixture(autouse=True)
def agents(settings: Any, test_agents: None) -> Any:
    """Two agents that can `work`, `test.one` and `test.two`; a test says what they are."""

    def make(**entries: JSONObject) -> None:
        usual = {"function": "tests.builtins.record", "effect": "pure", **CAN}
        named = {f"test.{name}": {**usual, **entry} for name, entry in entries.items()}
        settings.AGENTFLOW_BUILTIN_AGENTS = {**settings.AGENTFLOW_BUILTIN_AGENTS, **named}
        registry.forget()

    make(one={}, two={})
    return make


def wanting(block_id: str = "a", *dependencies: str, **fields: Any) -> JSONObject:
    return {"blockId": block_id, "capabilities": ["work"], "dependencies": list(dependencies), **fields}


def chosen(execution: Execution, block_id: str = "a") -> list[str]:
    """The agents of its ended attempts."""
    return list(row(execution, block_id).attempts.order_by("attempt").values_list("agent_id", flat=True))


def reason(execution: Execution) -> Any:
    return explain(execution)["blocks"][0]["reason"]


def hold(execution: Execution) -> Claim:
    """A worker that has taken its agent's place and is in the middle of the call."""
    held = claim(execution)
    assert isinstance(pick(facts(execution), facts(execution).plan[held.idx], held), Pick)
    return held


def let_go(execution: Execution, held: Claim) -> None:
    change = Change(pk=held.pk, idx=held.idx, iteration=held.iteration, status=BlockStatus.COMPLETED)
    change = replace(change, attempt=held.attempt, output={}, ended=AttemptOutcome.OK, limited=True)
    take_turn(facts(execution), uuid4(), [change], want=0)


# -- choosing ---------------------------------------------------------------------------


def test_an_agent_that_can_is_chosen_and_the_attempt_says_why(run: Start) -> None:
    execution = run(template(wanting(), block("b", "a")))
    assert execution.status == "completed"
    assert chosen(execution) == ["test.one"]
    receipt = RoutingReceipt.objects.get(block=row(execution, "a"))
    assert (receipt.attempt, receipt.agent_id) == (1, "test.one")
    assert (receipt.receipt["chosen"], receipt.receipt["runnerUp"]) == ("test.one", "test.two")
    parts = receipt.receipt["candidates"][0]["parts"]
    assert {"capability", "success", "latency", "cost", "load"} <= parts.keys()
    assert not Place.objects.exists()


def test_a_block_that_names_its_agent_has_no_receipt(run: Start) -> None:
    run(template(block("a")))
    assert not RoutingReceipt.objects.exists()


def test_the_next_try_goes_to_the_next_best(agents: Any, run: Start) -> None:
    agents(one={"function": "tests.builtins.odd"})
    execution = run(template(wanting(retryPolicy={"initialDelay": 0})), input={"n": 2})
    drain(execution)
    assert chosen(execution) == ["test.one", "test.two"]
    assert execution.status == "completed"
    second = RoutingReceipt.objects.get(block=row(execution, "a"), attempt=2).receipt
    assert {"agentId": "test.one", "reason": "failed_before"} in second["filteredOut"]


@pytest.mark.parametrize(("effect", "then"), [("pure", "test.two"), ("keyed", "test.one")])
def test_after_an_unknown_outcome_another_agent_is_taken_only_where_nothing_was_done(
    agents: Any, start: Start, effect: str, then: str
) -> None:
    """F25: another agent would not know the key of what the first may have done."""
    agents(one={"function": "tests.builtins.unsure", "effect": effect})
    execution = start(template(wanting(retryPolicy={"initialDelay": 60_000})))
    drain(execution)
    make_due(execution)
    drain(execution)
    assert chosen(execution)[:2] == ["test.one", then]


def test_a_crash_does_not_forget_whom_the_attempt_went_to(agents: Any, start: Start) -> None:
    agents(one={"effect": "keyed"})
    execution = start(template(wanting()))
    hold(execution)
    agents(two={"effect": "keyed"}, one={"effect": "keyed", "capabilities": []})
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    assert chosen(execution) == ["test.one"]
    drain(execution)
    assert statuses(execution) == {"a": "waiting_external"}  # the one that may have done it is gone
    agents(one={"effect": "keyed"})
    reconcile.look(execution.pk)
    drain(execution)
    assert chosen(execution) == ["test.one", "test.one"]


def test_the_effect_is_fixed_at_the_start_and_a_riskier_agent_is_not_taken_later(
    agents: Any, start: Start
) -> None:
    execution = start(template(wanting()))
    assert row(execution, "a").effect == "pure"
    agents(one={"effect": "once"})
    assert row(start(template(wanting())), "a").effect == "once"
    drain(execution)
    assert chosen(execution) == ["test.two"]


def test_without_an_agent_the_block_waits_and_goes_on_when_one_is_there(agents: Any, start: Start) -> None:
    execution = start(template(wanting(), block("b")))
    agents(one={"capabilities": []}, two={"capabilities": []})
    drain(execution)
    assert statuses(execution) == {"a": "waiting_external", "b": "completed"}
    assert reason(execution)["code"] == "waiting_agent"
    assert "work" in reason(execution)["message"]
    reconcile.look(execution.pk)
    assert statuses(execution)["a"] == "waiting_external"
    Timer.objects.update(due_at=Now() + timedelta(minutes=5))
    agents(two={})
    AgentFactory.create(workspace=execution.workspace)  # any change of the workspace's agents
    go_on(execution)
    assert execution.status == "completed"
    assert (row(execution, "a").attempt, chosen(execution)) == (1, ["test.two"])
    assert not Place.objects.exists()


@pytest.mark.parametrize(("kind", "expected"), [("pin", "reg"), ("ban", "test.one"), ("prefer", "reg")])
def test_policies_decide(start: Start, kind: str, expected: str) -> None:
    execution = start(template(wanting()))
    agent = AgentFactory.create(
        workspace=execution.workspace, agent_id="reg", capabilities=[{"name": "work"}], effect="pure"
    )
    AgentPolicy.objects.create(workspace=execution.workspace, agent=agent, kind=kind)
    registry.forget()
    held = claim(execution)
    assert getattr(pick(facts(execution), facts(execution).plan[0], held), "agent_id", None) == expected
    receipt = RoutingReceipt.objects.get().receipt
    words = str(receipt["filteredOut"]) + str(receipt["candidates"])
    assert {"pin": "not_pinned", "ban": "banned", "prefer": "preferred"}[kind] in words
    finish(execution, held, output={})


def test_each_item_is_chosen_for(run: Start) -> None:
    execution = run(template(wanting(forEach={"items": "input.items"})), input={"items": [1, 2, 3]})
    assert execution.status == "completed"
    assert RoutingReceipt.objects.count() == 3


def test_a_simulated_run_chooses_nobody(run: Start) -> None:
    execution = run(template(wanting()), simulation={"scale": 0})
    assert execution.status == "completed"
    assert not RoutingReceipt.objects.exists()


# -- limits -----------------------------------------------------------------------------

ONE_AT_A_TIME: JSONObject = {"limits": {"concurrency": 1}}


def test_an_agent_that_is_busy_is_waited_for_as_a_row_and_in_order(agents: Any, start: Start) -> None:
    agents(one=ONE_AT_A_TIME)
    first, second, third = (start(template(block("a", agentId="test.one"))) for _ in range(3))
    held = hold(first)
    for execution in (second, third):
        drain(execution)
    assert statuses(second) == {"a": "waiting_external"}
    found = reason(third)
    assert (found["code"], found["key"], found["limit"]) == ("waiting_agent", "test.one", 1)
    assert found["waitsFor"] == ["test.one"]
    assert row(second, "a").attempt == 0
    let_go(first, held)
    due = Timer.objects.filter(due_at__lte=Now()).values_list("execution_id", flat=True)
    assert list(due) == [second.pk]
    go_on(second, third)
    assert (second.status, row(second, "a").attempt) == ("completed", 1)
    go_on(third)
    assert third.status == "completed"
    assert not Place.objects.exists()


def test_a_place_dies_with_the_attempt_of_a_lost_worker(agents: Any, start: Start) -> None:
    agents(one=ONE_AT_A_TIME)
    first, second = (start(template(block("a", agentId="test.one"))) for _ in range(2))
    hold(first)
    drain(second)
    lose_worker(first, "a")
    reconcile.look(first.pk)
    go_on(second)
    assert second.status == "completed"
    drain(first)
    assert first.status == "completed"


def test_a_backoff_gives_the_place_back(agents: Any, start: Start) -> None:
    agents(one={**ONE_AT_A_TIME, "function": "tests.builtins.odd"})
    odd = block("a", agentId="test.one", retryPolicy={"initialDelay": 60_000})
    first = start(template(odd), input={"n": 2})
    second = start(template(odd), input={"n": 1})
    drain(first)
    drain(second)
    assert second.status == "completed"


@pytest.mark.parametrize("how", ["cancel", "skip", "pause"])
def test_who_leaves_the_queue_of_an_agent_lets_the_next_one_in(
    agents: Any, start: Start, author: Any, how: str
) -> None:
    agents(one=ONE_AT_A_TIME)
    first, second, third = (start(template(block("a", agentId="test.one"))) for _ in range(3))
    held = hold(first)
    for execution in (second, third):
        drain(execution)
    let_go(first, held)  # the second is told, but has not come yet
    if how == "skip":
        repairing.skip(execution_id=second.pk, block_pk=row(second, "a").pk, by=author, reason="no")
    else:
        getattr(control, how)(execution_id=second.pk, by=author)
    go_on(third)
    assert third.status == "completed"


def test_the_one_that_is_free_is_chosen_and_else_the_first_that_gets_free(agents: Any, start: Start) -> None:
    agents(one=ONE_AT_A_TIME, two=ONE_AT_A_TIME)
    runs = [start(template(wanting())) for _ in range(4)]
    first, second = hold(runs[0]), hold(runs[1])
    assert set(RoutingReceipt.objects.values_list("agent_id", flat=True)) == {"test.one", "test.two"}
    for execution in runs[2:]:
        drain(execution)
    assert [statuses(e)["a"] for e in runs[2:]] == ["waiting_external", "waiting_external"]
    assert reason(runs[2])["waitsFor"] == ["test.one", "test.two"]
    let_go(runs[1], second)
    go_on(*runs[2:])
    assert [e.status for e in runs[2:]] == ["completed", "running"]
    go_on(runs[3])
    assert runs[3].status == "completed"
    assert chosen(runs[3]) == ["test.two"]
    let_go(runs[0], first)
    assert not Place.objects.exists()


def test_an_agent_is_called_so_often_in_a_minute(agents: Any, start: Start) -> None:
    agents(one={"limits": {"ratePerMinute": 2}})
    runs = [start(template(block("a", agentId="test.one"))) for _ in range(4)]
    for execution in runs:
        drain(execution)
    assert [e.status for e in runs] == ["completed", "completed", "running", "running"]
    assert reason(runs[2])["message"].count("2 a minute") == 1
    window = AgentWindow.objects.get()
    window.calls = [[second - 61, count] for second, count in window.calls]  # a minute later
    window.save()
    Timer.objects.update(due_at=Now())
    go_on(*runs)
    assert [e.status for e in runs] == ["completed"] * 4
    assert sum(count for _, count in AgentWindow.objects.get().calls) == 2


def test_a_place_of_the_agent_and_one_of_the_blocks_key_are_held_together(agents: Any, start: Start) -> None:
    agents(one=ONE_AT_A_TIME)
    key = {"concurrency": {"key": "till", "limit": 1}}
    both, by_key, by_agent = (
        start(template(made))
        for made in (block("a", agentId="test.one", **key), block("a", **key), block("a", agentId="test.one"))
    )
    held = hold(both)
    drain(by_key)
    drain(by_agent)
    assert reason(by_key)["code"] == "waiting_concurrency"
    assert reason(by_agent)["code"] == "waiting_agent"
    late = start(template(block("a", agentId="test.one", **key)))
    drain(late)
    assert reason(late)["code"] == "waiting_concurrency"
    let_go(both, held)
    go_on(by_agent, by_key, late)
    go_on(late)
    assert [e.status for e in (by_key, by_agent, late)] == ["completed"] * 3
    assert not Place.objects.exists()


def test_a_block_that_names_its_agent_does_nothing_for_choosing(agents: Any, start: Start) -> None:
    """No statement, no round trip more, whatever agents and policies there are."""
    agents(one=ONE_AT_A_TIME)
    plain = start(template(block("a"), block("b", "a")))
    other = AgentFactory.create(workspace=plain.workspace, capabilities=[{"name": "work"}])
    AgentPolicy.objects.create(workspace=plain.workspace, agent=other, kind="pin")
    registry.forget()
    done = functions(lambda: drain(plain))
    assert statuses(plain) == {"a": "completed", "b": "completed"}
    assert ("executions.engine.choosing", "pick") in done
    assert {name for module, name in done if module == "executions.engine.choosing"} == {"pick", "__init__"}
    assert not {module for module, _ in done} & {
        "agentflow.agents.selection",
        "agentflow.agents.matching",
        "agentflow.agents.performance",
        "agentflow.agents.policies",
    }


def test_old_receipts_of_ended_runs_keep_only_what_was_chosen(agents: Any, start: Start, run: Start) -> None:
    ended, open_yet = run(template(wanting())), start(template(wanting()))
    hold(open_yet)
    for execution in (ended, open_yet):
        old = RoutingReceipt.objects.filter(block__execution=execution)
        old.update(at=Now() - timedelta(days=31))
    new = run(template(wanting()))
    assert (measuring.cut_receipts(), measuring.cut_receipts()) == (1, 0)
    receipt = RoutingReceipt.objects.get(block__execution=ended)
    assert receipt.agent_id == "test.one"
    assert receipt.receipt["asked"]["capabilities"] == ["work"]
    assert receipt.receipt.keys() == {"asked", "chosen", "cut"}
    for execution in (open_yet, new):
        assert "candidates" in RoutingReceipt.objects.get(block__execution=execution).receipt


def test_a_rate_is_kept_in_every_minute() -> None:
    assert wait_for([], 100.0, 1) == 0
    assert wait_for([[100, 1]], 100.5, 1) == 60.5
    assert wait_for([[100, 1], [110, 1]], 120.0, 2) == 41.0
    assert wait_for([[100, 1], [110, 1]], 120.0, 2, before=1) == 51.0
    assert wait_for([[100, 1]], 120.0, 2) == 0
