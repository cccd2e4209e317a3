"""Why an attempt went to its agent, on the page of its step."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.utils.html import escape

from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from executions import page_data, snapshot
from executions.models import BlockAttempt, BlockExecution, RoutingReceipt
from executions.narration import choice_words
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import member

pytestmark = pytest.mark.django_db


def receipt(*ranked: tuple[str, float], chosen: str = "one", **more: Any) -> JSONObject:
    others = [name for name, _ in ranked if name != chosen]
    candidates = [{"agentId": name, "score": score} for name, score in ranked]
    return {"candidates": candidates, "chosen": chosen, "runnerUp": next(iter(others), None), **more}


def test_the_attempts_of_a_step_say_why_they_went_to_their_agents() -> None:
    execution = ExecutionFactory.create(graph="a", completed=["a"])
    block = BlockExecution.objects.get(execution=execution)
    for attempt, agent_id in ((1, "one"), (2, "two")):
        BlockAttempt.objects.create(
            block=block, attempt=attempt, outcome="ok", agent_id=agent_id, started_at=Now(), ended_at=Now()
        )
    out = [{"agentId": "<one>", "reason": "failed_before"}, {"agentId": "four", "reason": "circuit_open"}]
    counts = {"failed_before": 1, "circuit_open": 3, "capability": 12}
    first = receipt(("one", 0.874), ("two", 0.8))
    second = receipt(("two", 0.8), chosen="two", filteredOut=out, filteredOutByReason=counts)
    for attempt, found in ((1, first), (2, second)):
        RoutingReceipt.objects.create(block=block, attempt=attempt, agent_id=found["chosen"], receipt=found)
    viewer = Client()
    viewer.force_login(member(execution.workspace, Role.VIEWER))
    page = viewer.get(f"/executions/{execution.pk}/step?block=a&tab=tries").content.decode()
    assert "Chosen with 0.87, before two with 0.80." in page
    assert "Chosen with 0.80: no other was fit." in page
    chosen = {**snapshot.block_detail(execution, block), "agentId": None}
    assert ("Agent", "two") in page_data.step_facts(execution, chosen)
    left_out = "Left out: <one> (had failed at this), four (its calls failed just then) and 2 more."
    assert escape(left_out) in page


def test_one_that_was_better_but_busy_is_named_and_no_choice_is_not_told() -> None:
    assert choice_words(receipt(("one", 0.9), ("two", 0.8), chosen="two")) == [
        "Chosen with 0.80, for one with 0.90 was busy."
    ]
    waited_for = receipt(("two", 0.8), ("one", 0.9), chosen="two")
    waited_for["candidates"][1]["expectedWaitSeconds"] = 2.5
    assert choice_words(waited_for) == ["Chosen with 0.80, before one with 0.90, which was busy."]
    assert choice_words(None) == []
    assert choice_words({"asked": {"agentId": "one"}, "chosen": "one"}) == []
