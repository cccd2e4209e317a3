"""Faults that a workspace has its executions meet: drawn, met, marked, and not after they are over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models import F

from agentflow.agents import performance, registry
from agentflow.agents.calls import Call, CancelToken, Completed, Failed, Outcome, SimulatedBlock
from agentflow.agents.injection import Injection, inject
from agentflow.agents.simulator import simulate
from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User, Workspace
from agentflow.types import JSONObject
from agentflow.workflow.faults import Fault, FaultKind
from executions.faults import service
from executions.faults.models import FaultInjection
from executions.faults.rules import Rule, Target, draw
from executions.incidents import feed
from executions.incidents.models import Incident
from executions.learning.models import StrategyTally
from executions.models import Execution
from executions.narration import sentence
from executions.recovery import timeline
from executions.services import measuring
from tests import builtins
from tests.factories.agents import AgentFactory

from .conftest import Start, answer, block, drain, make_due, row, template

AT_ONCE = {"initialDelay": 0, "jitter": False}
Begin = Callable[..., FaultInjection]


@pytest.fixture
def begin(author: User, version_of: Any) -> Begin:
    """Have executions of the tests' workspace meet faults: `begin({"kind": "agent"})`."""
    workspace = Workspace.objects.get()

    def begun(*rules: JSONObject, **more: Any) -> FaultInjection:
        wanted = service.Wanted(
            rules=[{"share": 1, **rule} for rule in rules], minutes=more.pop("minutes", 10), **more
        )
        return service.begin(by=author, workspace_id=workspace.pk, wanted=wanted)

    return begun


def drained(execution: Execution) -> Execution:
    for _ in range(4):
        make_due(execution)
        drain(execution)
    return execution


# -- drawing -------------------------------------------------------------------

SLOW = Fault(FaultKind.SLOW, ms=1)
TARGET = Target("t", "score", "risk", "API", 1)


@pytest.mark.parametrize(
    ("rule", "hit"),
    [
        ({}, True),
        ({"templates": ["t"], "blocks": ["score"], "agents": ["risk"], "toolTypes": ["API"]}, True),
        ({"templates": ["u"]}, False),
        ({"blocks": ["other"]}, False),
        ({"agents": ["other"]}, False),
        ({"toolTypes": ["LLM", "MCP"]}, False),
        ({"attempts": 1}, True),
        ({"share": 0}, False),
    ],
)
def test_a_rule_hits_what_it_is_about(rule: JSONObject, hit: bool) -> None:
    found = draw([Rule.of({"kind": "agent", "share": 1, **rule})], "seed", TARGET, "x")
    assert (found is not None) is hit


def test_of_the_calls_about_the_share_is_hit_and_the_same_each_time() -> None:
    rules = [Rule(SLOW, share=0.25), Rule(Fault(FaultKind.AGENT), share=1, attempts=0)]
    found = [draw(rules, "seed", TARGET, f"order:{number}:1") for number in range(2000)]
    assert found == [draw(rules, "seed", TARGET, f"order:{number}:1") for number in range(2000)]
    assert found != [draw(rules, "other", TARGET, f"order:{number}:1") for number in range(2000)]
    assert 400 < sum(each is not None for each in found) < 600


# -- at the call ---------------------------------------------------------------


def calling(**fields: Any) -> Call:
    return Call(
        **{
            "workspace_id": uuid4(),
            "execution_id": uuid4(),
            "block_id": "a",
            "attempt": 1,
            "agent_id": "x",
            "tool_type": None,
            "configuration": {},
            "input": None,
            "timeout_s": 5.0,
            "idempotency_key": "k",
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("fault", "called", "code", "unknown"),
    [
        ({"kind": "transient", "code": "http_503"}, False, "http_503", False),
        ({"kind": "configuration"}, False, "injected_configuration", False),
        ({"kind": "diesBefore"}, False, "connection_lost", True),
        ({"kind": "diesAfter"}, True, "connection_lost", True),
        ({"kind": "timeout", "ms": 1}, False, "timeout", True),
        ({"kind": "slow", "ms": 6000}, False, "timeout", True),
        ({"kind": "slow", "ms": 1}, True, None, False),
        ({"kind": "wrongOutput", "output": "no"}, True, None, False),
    ],
)
def test_what_a_fault_makes_of_a_call(
    fault: JSONObject, called: bool, code: str | None, unknown: bool
) -> None:
    calls: list[Call] = []

    def run(call: Call) -> Outcome:
        calls.append(call)
        return Completed({"ok": True})

    injection = Injection(Fault.of(fault), {})
    late = 0.01 if fault.get("ms", 0) > 5000 else 5.0
    outcome = inject(calling(timeout_s=late), injection, run)
    assert injection.happened
    assert len(calls) == called
    if code is None:
        assert isinstance(outcome, Completed)
        assert outcome.output == ("no" if fault["kind"] == "wrongOutput" else {"ok": True})
    else:
        assert isinstance(outcome, Failed)
        assert (outcome.failure.code, outcome.failure.outcome_unknown) == (code, unknown)
        assert "injected" in outcome.failure.message


@pytest.mark.parametrize(
    ("reason", "code", "happened"), [("cancelled", "cancelled", False), ("timeout", "timeout", True)]
)
def test_a_call_that_is_stopped_while_a_fault_lets_it_wait(reason: str, code: str, happened: bool) -> None:
    cancel = CancelToken()
    cancel.cancel(reason)  # the watch says `timeout` at the deadline, just as the wait is over
    injection = Injection(Fault(FaultKind.SLOW, ms=60_000), {})
    outcome = inject(calling(timeout_s=50.0, cancel=cancel), injection, lambda _: Completed(1))
    assert isinstance(outcome, Failed)
    assert (outcome.failure.code, injection.happened) == (code, happened)
    slept = simulate(calling(timeout_s=50.0, cancel=cancel), SimulatedBlock(seconds=60.0, output=None))
    assert isinstance(slept, Failed)
    assert slept.failure.code == code


# -- in executions -------------------------------------------------------------


def test_an_injected_failure_is_recovered_from_and_marked_everywhere(run: Start, begin: Begin) -> None:
    begin({"kind": "transient", "code": "http_503", "attempts": 1})
    execution = drained(run(template(block("a", retryPolicy=AT_ONCE), block("b", "a"))))
    assert execution.status == "completed"
    first = row(execution, "a").attempts.get(attempt=1)
    assert first.injected == {"fault": "transient", "rule": 1, "counted": False}
    assert (first.failure or {}).get("evidence") == {"injected": "transient"}
    assert [entry["injected"] for entry in timeline.entries(list(timeline.decided(execution)))] == [
        "transient",
        "transient",
    ]
    changed = Event.objects.filter(execution_id=execution.pk, payload__has_key="injected")
    assert {event.block_id for event in changed} == {"a", "b"}
    told = Event.objects.filter(execution_id=execution.pk, type="block_log").first()
    assert told is not None
    assert told.payload == {"message": "Injected fault: transient."}


def test_faults_of_calls_that_succeed_are_marked_too(run: Start, begin: Begin) -> None:
    begin({"kind": "slow", "ms": 1, "blocks": ["a"]}, {"kind": "wrongOutput", "output": 7, "blocks": ["b"]})
    execution = run(template(block("a"), block("b", "a"), block("c", "b")))
    assert execution.status == "completed"
    assert row(execution, "b").output == 7
    met = {name: (row(execution, name).attempts.get().injected or {}).get("fault") for name in "abc"}
    assert met == {"a": "slow", "b": "wrongOutput", "c": None}
    event = Event.objects.filter(execution_id=execution.pk, block_id="a", payload__status="completed").get()
    assert "an injected fault (slow)" in sentence(event.type, event.block_id, event.payload)


def test_what_died_after_its_effect_is_not_done_twice(run: Start, begin: Begin, author: User) -> None:
    begin({"kind": "diesAfter", "attempts": 1})
    execution = run(template(block("a", agentId="test.record", effect="once")))
    assert (len(builtins.calls), row(execution, "a").reason) == (1, "unknown_outcome")
    answer(execution, "a", author, response={"action": "complete", "output": 1})
    assert (execution.status, len(builtins.calls)) == ("completed", 1)


def test_the_same_business_key_and_seed_meet_the_same(start: Start, begin: Begin) -> None:
    rules = [{"kind": "agent", "share": 0.5}, {"kind": "slow", "ms": 1, "share": 0.5}]
    blocks = [
        block(f"b{number}", onError="continue", retryPolicy={"maxRetries": 0, "onExhausted": "fail"})
        for number in range(12)
    ]
    met = []
    for _ in range(2):
        begin(*rules, seed="same")
        execution = start(template(*blocks), business_key="order-17")
        drain(execution)
        attempts = [row(execution, f"b{number}").attempts.get(attempt=1) for number in range(12)]
        met.append([(each.injected or {}).get("fault") for each in attempts])
        service.stop(by=execution.created_by, workspace_id=execution.workspace_id)  # type: ignore[arg-type]
    assert met[0] == met[1]
    assert {None, "agent", "slow"} == set(met[0])


@pytest.mark.parametrize("how", ["stopped", "over", "production"])
def test_it_is_off_at_once_also_for_what_runs(start: Start, begin: Begin, author: User, how: str) -> None:
    injection = begin({"kind": "agent"})
    execution = start(template(block("a")))
    if how == "stopped":
        service.stop(by=author, workspace_id=injection.workspace_id)
    elif how == "over":
        FaultInjection.objects.update(ends_at=F("started_at") - timedelta(seconds=1))
    else:
        Workspace.objects.update(environment="production")
    drain(execution)
    assert execution.status == "completed"
    service.end_due()
    injection.refresh_from_db()
    assert (injection.ended_because, injection.ended_at is None) == (how, False)
    later = start(template(block("a")))
    assert Execution.objects.get(pk=later.pk).faults_id is None
    actions = list(AuditEntry.objects.filter(action__startswith="faults.").values_list("action", flat=True))
    assert actions == ["faults.stop" if how == "stopped" else "faults.end", "faults.begin"]


def test_what_began_before_meets_none(start: Start, begin: Begin) -> None:
    execution = start(template(block("a")))
    begin({"kind": "agent"})
    drain(execution)
    assert execution.status == "completed"


def test_simulations_meet_them_too(run: Start, begin: Begin) -> None:
    begin({"kind": "wrongOutput", "output": 5})
    execution = run(template(block("a", agentId="nobody")), simulation={})
    assert row(execution, "a").output == 5


def test_they_have_incidents_of_their_own_and_count_against_nobody(run: Start, begin: Begin) -> None:
    definition = template(block("a", agentId="test.crash", retryPolicy={"maxRetries": 0}))
    run(definition)
    begin({"kind": "agent", "code": "agent_crashed", "message": "crashed"})
    run(definition)
    while feed.count():
        pass
    assert Incident.objects.count() == 2


@pytest.mark.parametrize(("counts", "failures"), [(False, 0), (True, 1)])
def test_an_agents_performance_is_its_own(run: Start, begin: Begin, counts: bool, failures: int) -> None:
    performance._cached.clear()
    registry.forget()
    injection = begin({"kind": "transient"}, counts=counts)
    AgentFactory.create(workspace=injection.workspace, agent_id="remote")
    run(template(block("a", agentId="remote", retryPolicy={"maxRetries": 0})))
    measuring.measure()
    measuring.measure()
    assert performance.stats(injection.workspace_id, ["remote"])["remote"].failures == failures
    assert StrategyTally.objects.filter(template=None).count() == failures  # what recovery learns
