"""Failures that a simulation's script asks for go the way of real ones."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.governance.models import User
from executions.incidents import feed
from executions.incidents.models import Incident
from executions.models import Execution
from executions.recovery import timeline
from tests.factories.executions import statuses

from .conftest import Start, answer, block, drain, make_due, row, template

AT_ONCE = {"initialDelay": 0, "jitter": False}


def script(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"failures": {"a": list(entries)}}


def strategies(execution: Execution) -> list[str]:
    return [entry["strategy"]["name"] for entry in timeline.entries(list(timeline.decided(execution)))]


def drained(execution: Execution) -> Execution:
    for _ in range(3):
        make_due(execution)
        drain(execution)
    return execution


def test_a_failure_that_does_not_say_how_often_comes_once(run: Start) -> None:
    execution = drained(
        run(template(block("a", retryPolicy=AT_ONCE)), simulation=script({"kind": "transient"}))
    )
    assert (execution.status, row(execution, "a").attempt) == ("completed", 2)


def test_a_scripted_code_is_what_retry_conditions_and_the_timeline_see(run: Start) -> None:
    policy = {**AT_ONCE, "retryConditions": ["http_409"]}
    execution = drained(
        run(
            template(block("a", retryPolicy=policy)),
            simulation=script({"kind": "configuration", "code": "http_409", "message": "taken"}),
        )
    )
    assert execution.status == "completed"
    (entry,) = timeline.entries(list(timeline.decided(execution)))
    assert entry["error"]["code"] == "http_409"
    assert entry["error"]["message"] == "A simulated configuration failure: taken"
    assert entry["result"]["status"] == "recovered"


def test_another_agent_takes_over_though_none_is_registered(run: Start) -> None:
    policy = {"agent": ["reassign", "ask"], "alternatives": ["spare"]}
    execution = run(
        template(block("a", agentId="own", recovery=policy)), simulation=script({"kind": "agent"})
    )
    assert execution.status == "completed"
    assert strategies(execution) == ["reassign"]
    assert list(row(execution, "a").attempts.order_by("attempt").values_list("agent_id", flat=True)) == [
        "own",
        "spare",
    ]


@pytest.mark.parametrize("kind", ["timeout", "diesBefore", "diesAfter"])
def test_an_outcome_that_nobody_knows_is_asked_about(run: Start, author: User, kind: str) -> None:
    execution = run(template(block("a")), simulation=script({"kind": kind}))
    assert (row(execution, "a").effect, row(execution, "a").reason) == ("once", "unknown_outcome")
    answer(execution, "a", author, response={"action": "retry"})
    assert execution.status == "completed"


def test_it_is_tried_again_where_a_repeat_does_no_harm(run: Start) -> None:
    execution = run(
        template(block("a", effect="keyed", retryPolicy=AT_ONCE)), simulation=script({"kind": "diesAfter"})
    )
    assert drained(execution).status == "completed"


def test_wrong_output_flows_on_to_what_cannot_use_it(run: Start) -> None:
    following = block("b", "a", input={"got": "${blocks.a.output.x}"})
    execution = run(
        template(block("a"), following), simulation=script({"kind": "wrongOutput", "output": "oops"})
    )
    assert row(execution, "a").output == "oops"
    assert statuses(execution) == {"a": "completed", "b": "waiting_human"}


def test_a_slow_answer_runs_into_the_deadline(run: Start) -> None:
    execution = run(
        template(block("a", timeout=20, retryPolicy={**AT_ONCE, "maxRetries": 1})),
        simulation=script({"kind": "slow", "ms": 60_000, "attempt": 1}),
    )
    assert drained(execution).status == "completed"
    first = row(execution, "a").attempts.get(attempt=1)
    assert first.failure is not None
    assert first.failure["code"] == "timeout"


def test_its_incident_is_one_of_simulations(run: Start) -> None:
    simulation = script({"kind": "configuration"})
    drained(run(template(block("a")), simulation=simulation))
    while feed.count():
        pass
    assert list(Incident.objects.values_list("simulated", "code")) == [(True, "simulated_configuration")]
