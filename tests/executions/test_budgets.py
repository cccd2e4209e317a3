"""Budgets of blocks and runs: a warning, then one question, and nothing spent until it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from agentflow.agents import registry
from agentflow.events.models import Event
from agentflow.governance.models import User
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check
from approvals.models import Approval
from executions.models import BlockAttempt, Execution, Timer
from executions.services import reconcile, restarting
from executions.services.restarting import RestartRequest
from templates_app.models import TemplateVersion
from tests.factories.agents import AgentFactory
from tests.factories.governance import client_of
from tests.history import check as violations
from tests.llm import ScriptedModel, completion, wants
from tests.servers import http_server

from .conftest import Start, answer, block, claim, drain, finish, make_due, row, template

ASKS = 7  # tokens that one answer of the scripted model takes


@pytest.fixture
def model(settings: Settings) -> Iterator[ScriptedModel]:
    registry.forget()
    with http_server() as server:
        settings.AGENTFLOW_LLM_BASE_URL = server.url("/v1")
        settings.AGENTFLOW_LLM_MODEL = "small"
        yield ScriptedModel(server, [completion("Dear Ada")])


def ask(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    return {
        "blockId": block_id,
        "toolType": "LLM",
        "configuration": {"prompt": "Write."},
        "dependencies": list(dependencies),
        **fields,
    }


def calls(block_id: str, version: TemplateVersion) -> JSONObject:
    given = {"templateId": str(version.template_id)}
    return {"blockId": block_id, "toolType": "UseCase", "configuration": given}


def took(execution: Execution, block_id: str, *, seconds: float) -> None:
    """Let the one attempt of a block have taken so long."""
    made = BlockAttempt.objects.filter(block__execution=execution, block__block_id=block_id)
    made.update(started_at=F("ended_at") - timedelta(seconds=seconds))


def status(execution: Execution, *block_ids: str) -> list[str]:
    return [row(execution, block_id).status for block_id in block_ids]


def questions(execution: Execution) -> list[Approval]:
    return list(Approval.objects.filter(execution=execution, kind="budget").order_by("requested_at"))


def warnings(execution: Execution) -> list[JSONObject]:
    found = Event.objects.filter(execution_id=execution.pk, type="budget_warning").order_by("pk")
    return [event.payload or {} for event in found]


def test_a_runs_budget_warns_once_then_asks_once_and_goes_on_when_it_is_extended(
    start: Start, model: ScriptedModel, author: User
) -> None:
    steps = [ask("first"), ask("second", "first"), ask("third", "second"), ask("fourth", "third")]
    execution = start(
        template(*steps, block("plain", "first"), budget={"tokens": 2 * ASKS, "softShare": 0.5})
    )
    drain(execution)
    assert status(execution, "first", "second", "third", "plain") == [
        "completed",
        "completed",
        "waiting_human",
        "completed",
    ]
    assert len(model.asked) == 2
    (low,) = warnings(execution)
    assert (low["scope"], low["spent"]["tokens"]) == ("execution", ASKS)
    (asked,) = questions(execution)
    assert asked.request["facts"] == {
        "allowed": {"tokens": 14},
        "spent": {"tokens": 14},
        "spentOn": {
            "first": "7 tokens (5 in, 2 out)",
            "second": "7 tokens (5 in, 2 out)",
        },
    }
    client = client_of(author)
    reason = client.get(f"/api/v1/executions/{execution.pk}/explain").json()["reason"]
    assert reason["code"] == "waiting_budget"
    answer(execution, "third", author, response={"action": "extend", "tokens": 2 * ASKS})
    assert execution.status == "completed"
    assert len(model.asked) == 4
    assert len(warnings(execution)) == 1
    assert len(questions(execution)) == 1
    tried = BlockAttempt.objects.filter(block__block_id="third").order_by("attempt")
    assert [(each.attempt, each.outcome) for each in tried] == [(1, "waited"), (2, "ok")]
    assert violations() == []


def test_blocks_side_by_side_share_the_question_and_the_answer(
    start: Start, model: ScriptedModel, author: User
) -> None:
    sides = [ask("left", "first"), ask("right", "first")]
    execution = start(template(ask("first"), *sides, budget={"tokens": 1}))
    drain(execution)
    assert sorted(status(execution, "left", "right")) == ["ready", "waiting_human"]
    (asked,) = questions(execution)
    other = {"left": "right", "right": "left"}[asked.block_id]
    told = client_of(author).get(f"/api/v1/executions/{execution.pk}/explain").json()
    assert {each["blockId"]: each["reason"]["code"] for each in told["blocks"]} == {
        asked.block_id: "waiting_budget",
        other: "budget_asked",
    }
    make_due(execution)
    drain(execution)
    assert len(questions(execution)) == 1
    answer(execution, asked.block_id, author, response={"tokens": 100})
    assert execution.status == "completed"
    assert len(questions(execution)) == 1


def test_stop_fails_what_would_spend_more_and_a_restart_asks_again(
    start: Start, model: ScriptedModel, author: User
) -> None:
    sides = [ask("left", "first"), ask("right", "first")]
    execution = start(template(ask("first"), *sides, block("plain", "first"), budget={"tokens": 1}))
    drain(execution)
    (asked,) = questions(execution)
    answer(execution, asked.block_id, author, approved=False)
    assert execution.status == "failed"
    assert status(execution, "left", "right", "plain") == ["failed", "failed", "completed"]
    for each in (row(execution, "left"), row(execution, "right")):
        assert each.error is not None
        assert each.error["code"] == "budget_exceeded"
    assert len(questions(execution)) == 1
    assert len(model.asked) == 1
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest())
    drain(execution)
    (_, again) = questions(execution)
    answer(execution, again.block_id, author, response={"tokens": 100})
    assert execution.status == "completed"


def test_a_block_has_a_budget_of_its_own_over_its_items_and_in_the_money_of_its_agent(
    start: Start, model: ScriptedModel, author: User
) -> None:
    each = {
        "agentId": "writer",
        "configuration": {"prompt": "Write."},
        "forEach": {"items": "[1, 2, 3]", "maxConcurrency": 1},
        "budget": {"cost": 5, "currency": "EUR", "tokens": 1000},
    }
    execution = start(template(block("each", **each)))
    AgentFactory.create(
        workspace=execution.workspace,
        agent_id="writer",
        tool_type="LLM",
        configuration={},
        cost={"perInputToken": 0.5, "currency": "EUR"},
    )
    drain(execution)
    assert len(model.asked) == 2
    (asked,) = questions(execution)
    assert asked.request["facts"]["spent"] == {"tokens": 14, "cost": 5.0}
    answer(execution, "each", author)  # as much once more
    assert execution.status == "completed"
    assert len(model.asked) == 3


def test_an_agent_in_several_steps_stops_between_two_and_goes_on_where_it_was(
    start: Start, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("builtin_echo", {})), wants(("builtin_echo", {})), completion("Done."))
    given = {"prompt": "Help.", "tools": [{"agentId": "builtin.echo", "policy": "allow"}]}
    execution = start(template(ask("help", configuration=given, budget={"tokens": 10})))
    drain(execution)
    assert status(execution, "help") == ["waiting_human"]
    assert len(model.asked) == 2
    assert questions(execution)[0].request["facts"]["spent"] == {"tokens": 2 * ASKS}
    answer(execution, "help", author, response={"tokens": 50})
    assert execution.status == "completed"
    assert len(model.asked) == 3


def test_what_children_spend_counts_above_with_the_step_that_started_them(
    start: Start, version_of: Callable[[JSONObject], TemplateVersion], model: ScriptedModel, author: User
) -> None:
    below = version_of(template(ask("deep")))
    middle = version_of(template(calls("inner", below)))
    execution = start(template(calls("outer", middle), ask("last", "outer"), budget={"tokens": ASKS}))
    drain(execution)
    assert status(execution, "outer", "last") == ["completed", "waiting_human"]
    (asked,) = questions(execution)
    assert asked.request["facts"]["spentOn"] == {"outer": "7 tokens (5 in, 2 out)"}
    answer(execution, "last", author)
    assert execution.status == "completed"
    assert len(model.asked) == 2


@pytest.mark.parametrize("approved", [True, False])
def test_the_budget_above_holds_children_with_one_question(
    start: Start,
    version_of: Callable[[JSONObject], TemplateVersion],
    model: ScriptedModel,
    author: User,
    approved: bool,
) -> None:
    below = version_of(template(ask("one"), ask("two", "one")))
    middle = version_of(template(calls("inner", below)))
    execution = start(
        template(calls("first", middle), calls("second", below), ask("last"), budget={"tokens": ASKS})
    )
    drain(execution)
    asked = Approval.objects.get(kind="budget")
    assert asked.request["budget"]["scope"] == "execution"
    assert "the budget of the execution of “test” above is used up" in asked.request["title"]
    assert asked.request["facts"]["allowed"] == {"tokens": ASKS}
    assert len(model.asked) == 1
    holding = asked.execution
    answer(holding, asked.block_id, author, approved=approved, response={"tokens": 100} if approved else {})
    told = list(Timer.objects.filter(key__endswith=":budget").values_list("execution", flat=True))
    assert told
    assert holding.pk not in told
    for each in told:
        reconcile.look(each)
    for child in Execution.objects.exclude(pk=execution.pk).order_by("-depth"):
        drain(child)
        reconcile.look(child.pk)
    drain(execution)
    drain(execution)
    execution.refresh_from_db()
    assert execution.status == ("completed" if approved else "failed")
    assert len(model.asked) == (5 if approved else 1)
    assert Approval.objects.filter(kind="budget").count() == 1


def test_time_is_a_budget_also_of_what_costs_nothing(start: Start, author: User) -> None:
    steps = [block("first"), block("second", "first"), block("third", "second")]
    execution = start(template(*steps, budget={"time": 5000, "softShare": 0.5}))
    held = claim(execution)
    finish(execution, held, {})
    took(execution, "first", seconds=3)
    held = claim(execution)
    finish(execution, held, {})
    took(execution, "second", seconds=3)
    drain(execution)
    (asked,) = questions(execution)
    assert asked.block_id == "third"
    assert asked.request["facts"]["allowed"] == {"time": 5000}
    assert asked.request["facts"]["spent"]["time"] >= 6000
    assert asked.request["facts"]["spentOn"] == {"first": "3 s", "second": "3 s"}
    answer(execution, "third", author, response={"action": "extend", "time": 60_000})
    assert execution.status == "completed"


def test_what_cannot_cost_takes_no_statement_more(start: Start) -> None:
    def statements(**settings: Any) -> int:
        execution = start(template(block("a"), block("b", "a"), **settings))
        held = claim(execution)
        finish(execution, held, {}, want=0)
        with CaptureQueriesContext(connection) as seen:
            drain(execution)
        assert execution.status == "completed"
        return len(seen)

    statements()
    assert statements(budget={"tokens": 1, "cost": 1}) == statements()


@pytest.mark.parametrize(
    ("budget", "code", "at"),
    [
        ({"softShare": 0.5}, "empty_budget", "budget"),
        ({"cost": 1, "currency": "usd"}, "wrong_format", "budget/currency"),
    ],
)
def test_a_budget_that_means_nothing_is_an_issue_with_its_place(
    budget: JSONObject, code: str, at: str
) -> None:
    definition = parse(template(block("a", budget=budget), budget=budget))
    found = [(issue.code, issue.pointer) for issue in check(definition)]
    assert found == [(code, f"/globalSettings/{at}"), (code, f"/blocks/0/{at}")]
    (unused,) = check(parse(template({"blockId": "nobody", "budget": {"tokens": 1}})))
    assert (unused.severity, unused.code, unused.pointer) == ("warning", "unused_budget", "/blocks/0/budget")
