"""Budgets of a day, of an agent and of a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from agentflow.agents import registry
from agentflow.agents.models import Agent
from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.engine import daily
from executions.models import BlockAttempt, BudgetWait, DaySpending, Execution, Timer
from executions.services import reconcile, starting
from tests.factories.agents import AgentFactory
from tests.factories.governance import UserFactory, WorkspaceFactory, client_of
from tests.llm import ScriptedModel, completion, wants
from tests.servers import Exchange, http_server

from .conftest import Start, answer, block, drain, row, template

ASKS = 7  # tokens that one answer of the scripted model takes: 5 and 2


@pytest.fixture
def model(settings: Settings) -> Iterator[ScriptedModel]:
    registry.forget()
    with http_server() as server:
        settings.AGENTFLOW_LLM_BASE_URL = server.url("/v1")
        settings.AGENTFLOW_LLM_MODEL = "small"
        yield ScriptedModel(server, [completion("Dear Ada")])
    registry.forget()


def ask(block_id: str, *dependencies: str, agent_id: Any = "writer", **fields: Any) -> JSONObject:
    given = {"toolType": "LLM", "configuration": {"prompt": "Write."}, **fields}
    return {"blockId": block_id, "dependencies": list(dependencies), "agentId": agent_id, **given}


def writer(workspace: Workspace, agent_id: str = "writer", **fields: Any) -> Agent:
    fields.setdefault("cost", {"perInputToken": 1, "currency": "EUR"})
    return AgentFactory.create(
        workspace=workspace, agent_id=agent_id, tool_type="LLM", configuration={}, **fields
    )


def allow(workspace: Workspace, **budget: Any) -> None:
    workspace.budget = budget
    workspace.save(update_fields=["budget"])
    registry.forget()


def questions(**narrowed: Any) -> list[Approval]:
    return list(Approval.objects.filter(kind="budget", **narrowed).order_by("requested_at"))


def again(execution: Execution) -> Execution:
    assert execution.created_by is not None
    return starting.start(version=execution.template_version, by=execution.created_by, input={})


def spent() -> dict[tuple[str, str], float]:
    rows = DaySpending.objects.values_list("agent_id", "unit", "amount")
    return {(agent_id, unit): float(amount) for agent_id, unit, amount in rows}


def told(execution: Execution) -> bool:
    """Whether the clock was told to look at a run because of a budget; it does."""
    found = Timer.objects.filter(execution=execution, key__endswith=":budget").update(due_at=Now())
    reconcile.look(execution.pk)
    drain(execution)
    return bool(found)


def test_the_budget_of_an_agent_warns_once_a_day_and_then_one_question_holds_all_its_callers(
    start: Start, model: ScriptedModel, author: User
) -> None:
    first = start(template(ask("a"), ask("b", "a"), ask("c", "b"), block("plain", "a")))
    writer(first.workspace, budget={"cost": 10, "currency": "EUR", "softShare": 0.5})
    drain(first)
    assert (row(first, "c").status, row(first, "plain").status) == ("waiting_human", "completed")
    assert spent() == {("writer", "tokens"): 14, ("writer", "EUR"): 10}
    (low,) = Event.objects.filter(type="budget_warning")
    assert low.payload is not None
    assert (low.payload["scope"], low.payload["agentId"]) == ("agent", "writer")
    (asked,) = questions()
    assert asked.request["facts"]["spent"] == {"cost": 10}
    assert [(each["name"], each["calls"], each["cost"]) for each in asked.request["budget"]["rows"]] == [
        ("test: a", 1, 5),
        ("test: b", 1, 5),
    ]
    second = again(first)
    drain(second)
    assert row(second, "a").status == "ready"
    explained = client_of(author).get(f"/api/v1/executions/{second.pk}/explain").json()
    assert explained["reason"]["code"] == "budget_asked"
    assert len(questions()) == 1
    assert len(model.asked) == 2
    answer(first, "c", author, response={"action": "extend", "cost": 100})
    assert first.status == "completed"
    assert told(second)
    assert second.status == "completed"
    assert not BudgetWait.objects.exists()
    assert len(questions()) == len(Event.objects.filter(type="budget_warning")) == 1


def test_the_budget_of_a_workspace_counts_what_all_its_agents_and_plain_models_use(
    start: Start, model: ScriptedModel, author: User
) -> None:
    execution = start(template(ask("a"), ask("b", "a", agent_id=None), ask("c", "b"), ask("d", "b")))
    writer(execution.workspace)
    allow(execution.workspace, tokens=2 * ASKS)
    drain(execution)
    assert spent() == {("writer", "tokens"): ASKS, ("writer", "EUR"): 5, ("", "tokens"): ASKS}
    (asked,) = questions()
    assert asked.request["facts"]["allowed"] == {"tokens": 14}
    other = again(execution)
    drain(other)
    answer(execution, asked.block_id, author, approved=False)
    assert execution.status == "failed"  # both of its blocks that would spend more
    assert {row(execution, each).status for each in ("c", "d")} == {"failed"}
    assert told(other)
    assert questions(execution=other)  # and the other run asks for itself
    assert len(model.asked) == 2


def test_what_a_budget_does_not_ask_about_waits_for_the_next_day_or_a_larger_one(
    start: Start, model: ScriptedModel, author: User
) -> None:
    execution = start(template(ask("a"), ask("b", "a")))
    agent = writer(execution.workspace, budget={"tokens": 1, "whenSpent": "wait"})
    drain(execution)
    assert not questions()
    reason = client_of(author).get(f"/api/v1/executions/{execution.pk}/explain").json()["reason"]
    assert reason["code"] == "budget_of_day"
    agent.budget = {"tokens": 100, "whenSpent": "wait"}
    agent.save()
    assert told(execution)
    assert execution.status == "completed"


def test_what_tools_use_counts_for_their_agents_too_and_their_budgets_hold_the_loop(
    start: Start, model: ScriptedModel, author: User
) -> None:
    """A budget that is made larger closes the question about it."""
    talks = wants(("helper", {})), wants(("helper", {})), completion("Done.")

    def says(exchange: Exchange) -> None:
        asked = json.loads(exchange.body)
        turn = sum(message["role"] == "assistant" for message in asked["messages"])
        exchange.json(talks[turn] if asked.get("tools") else completion("Helped."))

    model.says(says)
    execution = start(template(ask("a", configuration={"prompt": "Write.", "tools": ["helper"]})))
    writer(execution.workspace)
    agent = writer(execution.workspace, "helper", budget={"tokens": ASKS})
    allow(execution.workspace, tokens=1000)
    agent.configuration = {"prompt": "Help."}
    agent.save()
    registry.forget()
    drain(execution)
    assert (row(execution, "a").status, row(execution, "a").reason) == ("waiting_human", "budget")
    (asked,) = questions()
    assert (asked.request["budget"]["agentId"], asked.request["budget"]["agents"]) == ("helper", [])
    assert asked.request["facts"]["spent"] == {"tokens": ASKS}
    assert {name: spent()[name, "tokens"] for name in ("writer", "helper")} == {"writer": 21, "helper": ASKS}
    assert daily.today(execution.workspace_id).of(None)["tokens"] == 21
    agent.budget = {"tokens": ASKS + 1}
    agent.save()
    registry.forget()
    assert told(execution)
    (asked,) = questions()
    assert (asked.status, asked.reason) == ("cancelled", "budget_changed")
    assert execution.status == "completed"
    assert spent()["writer", "tokens"] == 5 * ASKS
    assert len(model.asked) == 5


def test_a_new_day_begins_with_nothing_spent(start: Start, model: ScriptedModel, author: User) -> None:
    execution = start(template(ask("a"), ask("b", "a")))
    writer(execution.workspace, budget={"tokens": 1})
    drain(execution)
    assert row(execution, "b").status == "waiting_human"
    yesterday(execution)
    answer(execution, "b", author)
    assert execution.status == "completed"
    days = DaySpending.objects.filter(unit="tokens").values_list("amount", flat=True)
    assert list(days) == [ASKS, ASKS]


def yesterday(execution: Execution) -> None:
    """Let all that happened with budgets until now have happened a day ago."""
    day = DaySpending.objects.values_list("day", flat=True)[0]
    before = day - timedelta(days=1)
    DaySpending.objects.update(day=before)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE executions_budgetstate SET key = replace(key, %s, %s)", [str(day), str(before)]
        )


def test_steps_of_an_agent_count_as_they_end_and_nothing_counts_twice(
    start: Start, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("builtin_echo", {})), wants(("builtin_echo", {})), completion("Done."))
    tools = {"prompt": "Help.", "tools": [{"agentId": "builtin.echo", "policy": "allow"}]}
    execution = start(template(ask("help", configuration=tools)))
    writer(execution.workspace, budget={"tokens": 10})
    drain(execution)
    assert spent()["writer", "tokens"] == 2 * ASKS  # after two answers, in the middle of the attempt
    answer(execution, "help", author, response={"tokens": 50})
    assert execution.status == "completed"
    used = BlockAttempt.objects.filter(block__execution=execution, usage__isnull=False)
    made: list[JSONObject] = [each.usage or {} for each in used]
    assert sum(each["inputTokens"] + each["outputTokens"] for each in made) == 3 * ASKS
    assert spent()["writer", "tokens"] == 3 * ASKS


def test_without_a_budget_of_a_day_no_statement_is_made_for_one(start: Start, model: ScriptedModel) -> None:
    execution = start(template(ask("a"), ask("b", "a", agent_id=None)))
    writer(execution.workspace)
    with CaptureQueriesContext(connection) as seen:
        drain(execution)
    assert execution.status == "completed"
    said = [each["sql"] for each in seen if "budget" in each["sql"] and "executions_" in each["sql"]]
    assert not [each for each in said if "budgetstate" in each or "budgetwait" in each]
    assert sum('FROM "governance_workspace"' in each["sql"] for each in seen) == 1  # as for egress alone
    assert not DaySpending.objects.exists()


def test_a_chosen_agent_whose_day_is_spent_is_passed_over(start: Start, model: ScriptedModel) -> None:
    wanted: JSONObject = {"agentId": None, "toolType": None, "capabilities": ["write"]}
    execution = start(template(ask("a", **wanted), ask("b", "a", **wanted), ask("c", "b", **wanted)))
    for name in ("one", "two"):
        writer(execution.workspace, name, capabilities=[{"name": "write"}], budget={"tokens": ASKS})
    drain(execution)
    used = BlockAttempt.objects.filter(block__execution=execution).order_by("pk")
    assert {each.agent_id for each in used if each.outcome == "ok"} == {"one", "two"}
    assert row(execution, "c").status == "waiting_human"
    assert len(questions()) == 1


def test_a_cheaper_agent_that_fits_is_offered_and_goes_on(
    start: Start, model: ScriptedModel, author: User
) -> None:
    execution = start(template(ask("a"), ask("b", "a"), ask("c", "b")))
    home = execution.workspace
    writer(home, cost={"perInputToken": 1, "currency": "EUR"}, budget={"cost": 5, "currency": "EUR"})
    writer(home, "frugal", name="Frugal", cost={"perInputToken": 0.1, "currency": "EUR"})
    writer(home, "dear", cost={"perInputToken": 2, "currency": "EUR"})
    writer(home, "dollars", cost={"perInputToken": 0.1, "currency": "USD"})
    writer(home, "away", cost={"perInputToken": 0.1, "currency": "EUR"}, enabled=False)
    drain(execution)
    (asked,) = questions()
    assert [each["action"] for each in asked.request["options"]] == ["extend", "cheaper", "stop"]
    (offer,) = asked.request["budget"]["agents"]
    assert offer == {
        "agentId": "frugal",
        "name": "Frugal",
        "price": 100,
        "insteadOf": 1000,
        "currency": "EUR",
    }
    page = Client()
    page.force_login(author)
    shown = page.get(f"/inbox/{asked.pk}/").content.decode()
    staff = Client()
    staff.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    shown += staff.get(f"/admin/approvals/approval/{asked.pk}/change/").content.decode()
    for words in (
        "What it was spent on",
        "test: a",
        "Go on with Frugal",
        "Stop here",
        "Answer it in the inbox",
    ):
        assert words in shown
    reply = client_of(author).post(
        f"/api/v1/approvals/{asked.pk}/respond",
        {"approved": True, "response": {"action": "cheaper", "agentId": "dear"}},
        format="json",
    )
    assert reply.status_code == 400, reply.content
    answer(execution, "b", author, response={"action": "cheaper", "agentId": "frugal"})
    made = BlockAttempt.objects.filter(block__execution=execution, outcome="ok").order_by("pk")
    assert [each.agent_id for each in made] == ["writer", "frugal"]
    assert row(execution, "c").status == "waiting_human"  # it is asked about step by step
    assert spent()["writer", "EUR"] == 5


def test_a_cheaper_agent_under_the_same_budget_gets_more_of_it(
    start: Start, model: ScriptedModel, author: User
) -> None:
    execution = start(template(ask("a"), ask("b", "a"), budget={"cost": 5, "currency": "EUR"}))
    writer(execution.workspace)
    writer(execution.workspace, "frugal", cost={"perInputToken": 0.1, "currency": "EUR"})
    drain(execution)
    answer(execution, "b", author, response={"action": "cheaper", "agentId": "frugal"})
    assert execution.status == "completed"
    assert BlockAttempt.objects.filter(agent_id="frugal", outcome="ok").count() == 1


def test_budgets_of_a_day_are_set_and_looked_at_over_rest(
    start: Start, model: ScriptedModel, author: User
) -> None:
    execution = start(template(ask("a"), ask("b", "a")))
    home, client = execution.workspace, client_of(author)
    agent = writer(home)
    address = f"/api/v1/workspaces/{home.pk}/budget"
    set_ = client.put(address, {"budget": {"tokens": 100, "softShare": 0.05}}, format="json")
    assert set_.status_code == 200, set_.content
    changed = client.patch(
        f"/api/v1/agents/{agent.pk}", {"budget": {"cost": 20, "currency": "EUR"}}, format="json"
    )
    assert changed.json()["budget"] == {"cost": 20, "currency": "EUR"}
    registry.forget()
    drain(execution)
    shown = client.get(address).json()
    assert shown["budget"] == {"tokens": 100, "softShare": 0.05}
    assert (shown["allowed"], shown["warned"]) == ({"tokens": 100}, True)
    assert shown["byAgent"] == [{"agentId": "writer", "tokens": 2 * ASKS, "cost": {"EUR": 10}}]
    of_agent = client.get(f"/api/v1/agents/{agent.pk}/budget").json()
    assert (of_agent["spent"], of_agent["allowed"]) == ({"tokens": 14, "cost": {"EUR": 10}}, {"cost": 20})
    told_of = AuditEntry.objects.get(action="workspace.budget")
    assert told_of.detail == {"budget": {"tokens": 100, "softShare": 0.05}}
    page = Client()
    page.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    text = page.get(f"/admin/agents/agent/{agent.pk}/change/").content.decode()
    assert "10 of 20 EUR used today." in text


WRONG: tuple[tuple[Any, str], ...] = (
    ({"cost": 0}, "/budget/cost"),
    ({"tokens": "7"}, "/budget/tokens"),
    ({"cost": 1, "currency": "euro"}, "/budget/currency"),
    ({"softShare": 0.5}, "/budget"),
    ({"tokens": 1, "whenSpent": "shout"}, "/budget/whenSpent"),
    ({"tokens": 1, "time": 5}, "/budget/time"),
    ([], "/budget"),
)


def test_a_budget_of_a_day_that_means_nothing_is_refused_with_its_place(author: User) -> None:
    home = WorkspaceFactory.create()
    grant(user=author, role=Role.ADMIN, workspace=home, by=None)
    client = client_of(author)
    agent = writer(home)
    for budget, pointer in WRONG:
        for reply in (
            client.put(f"/api/v1/workspaces/{home.pk}/budget", {"budget": budget}, format="json"),
            client.patch(f"/api/v1/agents/{agent.pk}", {"budget": budget}, format="json"),
        ):
            assert reply.status_code == 400, reply.content
            assert [issue["pointer"] for issue in reply.json()["issues"]] == [pointer]


def test_who_may_not_set_a_workspaces_budget(author: User) -> None:
    home, client = WorkspaceFactory.create(), client_of(author)
    address = f"/api/v1/workspaces/{home.pk}/budget"
    assert client.get(address).status_code == 404
    assert client.put(address, {"budget": {}}, format="json").status_code == 404
    grant(user=author, role=Role.OPERATOR, workspace=home, by=None)
    assert client.get(address).json()["budget"] == {}
    assert client.put(address, {"budget": {}}, format="json").status_code == 403
