"""`agentPatience`: how long an attempt waits for an agent before it has failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models.functions import Now

from agentflow.agents import registry
from agentflow.types import JSONObject
from executions.models import Execution, Place, RoutingReceipt, Timer
from executions.services import reconcile, ticking
from tests.factories.executions import statuses
from tests.waiting import until

from .conftest import Start, block, drain, make_due, row, template
from .test_choosing import ONE_AT_A_TIME, hold, let_go, reason, wanting

HOUR = 3_600_000
FAIL: JSONObject = {"maxRetries": 0, "onExhausted": "fail"}


@pytest.fixture
def agents(settings: Any, test_agents: None) -> Iterator[Any]:
    """Agents that can `work`: nobody, until a test names some."""

    def make(**entries: JSONObject) -> None:
        usual = {"function": "tests.builtins.record", "effect": "pure", "capabilities": ["work"]}
        others = {
            name: entry
            for name, entry in settings.AGENTFLOW_BUILTIN_AGENTS.items()
            if "work" not in entry.get("capabilities", ())
        }
        named = {f"test.{name}": {**usual, **entry} for name, entry in entries.items()}
        settings.AGENTFLOW_BUILTIN_AGENTS = {**others, **named}
        registry.forget()

    yield make
    registry.forget()


def lose_patience(execution: Execution) -> None:
    make_due(execution)
    reconcile.look(execution.pk)
    drain(execution)


def test_the_clock_fails_an_attempt_that_waited_too_long(agents: Any, start: Start) -> None:
    agents(one={})
    after = block("b", "a", runOn="failure")
    execution = start(template(wanting(agentPatience=1, retryPolicy=FAIL), after))
    agents()
    drain(execution)
    assert statuses(execution)["a"] == "waiting_external"

    def failed() -> bool:
        ticking.tick()
        return statuses(execution)["a"] == "failed"

    until(failed)
    drain(execution)
    failure = row(execution, "a").error or {}
    assert (failure["code"], failure["kind"]) == ("no_agent", "agent")
    assert "work" in failure["message"]
    (attempt,) = row(execution, "a").attempts.all()
    assert (attempt.attempt, attempt.outcome, attempt.agent_id) == (1, "error", "")
    assert statuses(execution)["b"] == "completed"  # it caught the failure
    assert execution.status == "completed"
    assert not Place.objects.exists()
    assert not RoutingReceipt.objects.exists()


def test_each_try_waits_by_itself_and_then_a_person_is_asked(agents: Any, start: Start) -> None:
    agents(one={})
    retry = {"maxRetries": 1, "initialDelay": 0}
    execution = start(template(wanting(agentPatience=HOUR, retryPolicy=retry)))
    agents()
    drain(execution)
    assert reason(execution)["until"] == row(execution, "a").agent_until
    lose_patience(execution)
    assert reason(execution)["code"] == "waiting_agent"
    assert row(execution, "a").attempt == 1
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_external"}  # the second has an hour of its own
    lose_patience(execution)
    assert reason(execution)["code"] == "waiting_fix"
    assert [(each.failure or {}).get("code") for each in row(execution, "a").attempts.all()] == [
        "no_agent"
    ] * 2


def test_who_chooses_anew_has_waited_all_the_same(agents: Any, start: Start) -> None:
    agents(one=ONE_AT_A_TIME)
    holder, execution = start(template(wanting())), start(template(wanting(agentPatience=HOUR)))
    held = hold(holder)
    agents()
    drain(execution)
    ends = row(execution, "a").agent_until
    assert ends is not None
    agents(one=ONE_AT_A_TIME)
    reconcile.look(execution.pk)  # somebody is fit now, but busy
    drain(execution)
    assert reason(execution)["waitsFor"] == ["test.one"]
    assert (row(execution, "a").agent_until, row(execution, "a").available_at) == (ends, ends)
    let_go(holder, held)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"


def test_the_settings_of_the_template_hold_for_a_named_agent_too(agents: Any, start: Start) -> None:
    agents(one=ONE_AT_A_TIME)
    named = block("a", agentId="test.one", onError="continue", retryPolicy=FAIL)
    holder, execution = start(template(named)), start(template(named, agentPatience=HOUR))
    hold(holder)
    drain(execution)
    assert reason(execution)["until"] == row(execution, "a").available_at
    lose_patience(execution)
    assert execution.status == "completed"  # as `onError` says
    assert (row(execution, "a").error or {})["code"] == "no_agent"
    assert list(Place.objects.values_list("execution_id", flat=True)) == [holder.pk]


def test_without_patience_it_waits_as_long_as_it_takes(agents: Any, start: Start) -> None:
    agents(one={})
    execution = start(template(wanting()))
    agents()
    drain(execution)
    assert "until" not in reason(execution)
    Timer.objects.update(due_at=Now())
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_external"}
