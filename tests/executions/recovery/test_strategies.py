"""What the engine does about failures where a template writes down how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.agents import registry
from agentflow.events.models import Event
from agentflow.governance.models import User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.models import BlockExecution, Execution, RoutingReceipt
from executions.services import reconcile, restarting, ticking
from templates_app.models import TemplateVersion
from tests import builtins
from tests.executions.conftest import (
    Start,
    answer,
    block,
    claim,
    drain,
    lose_worker,
    make_due,
    row,
    template,
)
from tests.executions.test_concurrency import go_on
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.factories.governance import client_of
from tests.work import functions

SOON: JSONObject = {"initialDelay": 0, "maxRetries": 1}


def went(execution: Execution, block_id: str = "a") -> list[tuple[str, str | None]]:
    """The agent of each attempt, and what was done about its failure."""
    attempts = row(execution, block_id).attempts.order_by("attempt")
    return [
        (each.agent_id, ((each.failure or {}).get("recovery") or {}).get("strategy")) for each in attempts
    ]


def until_it_waits(execution: Execution) -> None:
    for _ in range(5):
        drain(execution)
        make_due(execution)


def test_a_failing_agent_is_tried_again_then_replaced_by_the_next_that_the_block_names(run: Start) -> None:
    recovery = {"agent": ["retry", "reassign", "ask"], "alternatives": ["test.big", "test.give"]}
    execution = run(template(block("a", agentId="test.crash", retryPolicy=SOON, recovery=recovery)))
    until_it_waits(execution)
    assert went(execution) == [("test.crash", "retry"), ("test.crash", "reassign"), ("test.big", None)]
    assert execution.status == "completed"
    receipt = RoutingReceipt.objects.get(block=row(execution, "a"), attempt=3)
    assert (receipt.agent_id, receipt.receipt["asked"]) == ("test.big", {"agentId": "test.crash"})


def test_agents_that_may_take_over_are_looked_up_when_it_is_started(
    author: User, version_of: Callable[[JSONObject], TemplateVersion]
) -> None:
    recovery = {"agent": ["reassign", "ask"], "alternatives": ["second"]}
    version = version_of(template(block("a", agentId="first", recovery=recovery)))
    body = {"templateId": str(version.template_id), "workspaceId": str(version.template.workspace_id)}
    client = client_of(author)
    AgentFactory.create(workspace=version.template.workspace, agent_id="first")
    refused = client.post("/api/v1/executions", body).json()
    assert [issue["pointer"] for issue in refused["issues"]] == ["/blocks/0/recovery/alternatives/0"]
    AgentFactory.create(workspace=version.template.workspace, agent_id="second")
    assert client.post("/api/v1/executions", body).status_code == 201


def test_when_nobody_is_left_a_person_is_asked_and_told_what_was_tried(run: Start, author: User) -> None:
    recovery = {"agent": ["reassign"], "alternatives": ["test.lost"]}
    execution = run(template(block("a", agentId="test.crash", recovery=recovery)))
    assert statuses(execution) == {"a": "waiting_human"}
    asked = Approval.objects.get(execution=execution).request["error"]["recovery"]
    assert asked == {
        "strategy": "ask",
        "cause": "agent",
        "passed": [{"strategy": "reassign", "why": "no other agent is available"}],
    }
    answer(execution, "a", author, response={"action": "skip"})
    assert execution.status == "completed"


def test_another_agent_is_not_given_what_the_first_may_have_done(run: Start) -> None:
    """F25, for agents that the block names."""
    recovery = {"transient": ["reassign", "retry"], "alternatives": ["test.record"]}
    execution = run(template(block("a", agentId="test.unsure", retryPolicy=SOON, recovery=recovery)))
    until_it_waits(execution)
    assert went(execution) == [("test.unsure", "retry"), ("test.unsure", "ask")]
    assert set(builtins.calls) == {"unsure"}


def test_a_lost_worker_keeps_its_block_with_the_agent_that_may_have_done_it(start: Start) -> None:
    recovery = {"agent": ["reassign"], "alternatives": ["test.record"]}
    execution = start(template(block("a", agentId="test.unsure", recovery=recovery)))
    claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    until_it_waits(execution)
    assert {agent for agent, _ in went(execution)} <= {"test.unsure", ""}
    assert set(builtins.calls) == {"unsure"}


def test_an_agent_with_a_riskier_effect_does_not_take_over(run: Start) -> None:
    recovery = {"agent": ["reassign", "fail"], "alternatives": ["test.once"]}
    execution = run(template(block("a", agentId="test.crash", recovery=recovery)))
    assert went(execution) == [("test.crash", "fail")]
    assert execution.status == "failed"


def test_a_block_whose_agent_is_not_there_waits_for_it_and_uses_up_no_try(
    start: Start, settings: Any
) -> None:
    recovery = {"configuration": ["queue"]}
    execution = start(template(block("a", agentId="test.later", recovery=recovery)))
    drain(execution)
    assert statuses(execution) == {"a": "waiting_external"}
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_external"}
    assert row(execution, "a").available_at is not None  # not for ever
    settings.AGENTFLOW_BUILTIN_AGENTS = {
        **settings.AGENTFLOW_BUILTIN_AGENTS,
        "test.later": {"function": "tests.builtins.record", "effect": "once"},
    }
    registry.forget()
    AgentFactory.create(workspace=execution.workspace)  # any change of the workspace's agents
    go_on(execution)
    assert (execution.status, row(execution, "a").attempt) == ("completed", 1)


def test_who_waits_for_an_agent_in_vain_comes_to_the_next_rung(start: Start) -> None:
    execution = start(
        template(block("a", agentId="test.later", recovery={"configuration": ["queue"], "agent": ["queue"]}))
    )
    drain(execution)
    make_due(execution)
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_human"}
    error = row(execution, "a").error or {}
    assert error["code"] == "no_agent"
    assert error["recovery"]["passed"][0]["strategy"] == "queue"


def test_a_failure_may_undo_what_was_done_and_end_the_run(run: Start) -> None:
    execution = run(
        template(
            block("a", compensation={"agentId": "test.record", "configuration": {"name": "undo"}}),
            block("b", "a", agentId="test.crash", recovery={"agent": ["compensate"]}),
            block("c", "b", runOn="always"),
        )
    )
    go_on(execution)
    drain(execution)
    assert execution.status == "failed"
    assert builtins.calls == ["undo"]
    assert execution.error is not None
    assert (execution.error["code"], execution.error["blocks"]) == ("agent_crashed", ["b"])
    assert statuses(execution)["c"] == "cancelled"


@pytest.mark.parametrize("where", ["block", "template"])
def test_what_the_block_says_lies_over_what_the_template_says(run: Start, where: str) -> None:
    own = {"recovery": {"critical": ["fail"]}} if where == "block" else {}
    execution = run(
        template(block("a", **own), recovery={"critical": ["ask"]}),
        simulation={"failures": {"a": [{"kind": "critical", "times": 1}]}},
    )
    assert statuses(execution) == {"a": "failed" if where == "block" else "waiting_human"}


def test_a_failure_without_a_written_ladder_reads_nothing_of_the_past(run: Start) -> None:
    def done(**fields: Any) -> set[str]:
        found = functions(lambda: run(template(block("a", agentId="test.crash", **fields))))
        return {name for module, name in found if module.startswith("executions.recovery")}

    assert "past_of" not in done()
    assert "past_of" in done(recovery={"agent": ["retry", "ask"]})


def test_a_run_without_failures_does_nothing_for_recovery(run: Start) -> None:
    found = functions(lambda: run(template(block("a"), block("b", "a", retryPolicy=SOON))))
    assert not {name for module, name in found if module == "executions.recovery.settings"}


def going_back(**fields: Any) -> JSONObject:
    """A failing block behind one with a recovery point and one that a restart runs again."""
    recovery = {"agent": ["restart", "fail"]}
    return template(
        block("a", agentId="test.record", checkpoint=True),
        block("b", "a", agentId="test.record", configuration={"name": "b"}, **fields),
        block("c", "b", agentId="test.crash", recovery=recovery),
    )


def test_an_execution_goes_back_to_its_last_recovery_point_by_itself_and_only_so_often(start: Start) -> None:
    execution = start(going_back(), input={"n": 1})
    drain(execution)
    assert execution.status == "failed"
    assert execution.timers.filter(kind="recovery").count() == 1
    ticking.tick()
    drain(execution)
    assert (execution.status, execution.epoch) == ("failed", 2)
    assert builtins.calls == [None, "b", "b"]  # what had settled at the point is carried over
    ticking.tick()
    execution.refresh_from_db()
    assert (execution.status, execution.epoch) == ("failed", 2)
    error = BlockExecution.objects.get(execution=execution, block_id="c", epoch=2).error or {}
    assert error["recovery"]["passed"] == [{"strategy": "restart", "why": "restarted once"}]
    assert [event.type for event in told(execution, "recovery_restarted")] == ["recovery_restarted"]


def test_going_back_repeats_no_effect_that_must_happen_once(run: Start) -> None:
    execution = run(going_back(effect="once"))
    assert execution.status == "failed"
    assert not execution.timers.filter(kind="recovery").exists()
    (passed,) = (row(execution, "c").error or {})["recovery"]["passed"]
    assert "must happen once" in passed["why"]


def test_who_restarted_it_by_hand_was_quicker(run: Start, author: User) -> None:
    execution = run(going_back())
    restarting.restart_failed(execution_id=execution.pk, by=author)
    ticking.tick()
    execution.refresh_from_db()
    assert execution.epoch == 2
    assert not execution.timers.filter(kind="recovery").exists()


def told(execution: Execution, type: str) -> list[Event]:
    return list(Event.objects.filter(execution_id=execution.pk, type=type))
