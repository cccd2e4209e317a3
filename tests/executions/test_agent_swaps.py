"""An open question is about a call of one agent; of another it is asked again."""

from __future__ import annotations

from typing import Any

from django.db.models.functions import Now

from agentflow.agents.models import Agent
from agentflow.agents.services import policing, registration, scripts
from agentflow.events.models import Event
from agentflow.governance.models import User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.models import Execution, Timer
from executions.services import ticking
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.factories.approvals import let_time_pass
from tests.factories.governance import client_of
from tests.history import check

from .conftest import Start, template

GATE: JSONObject = {"humanInLoop": {"type": "approval"}, "effect": "pure"}


def asked(execution: Execution) -> Approval:
    return Approval.objects.get(execution=execution, status="pending")


def change(agent: Agent, by: User, **changes: Any) -> None:
    registration.change_agent(by=by, pk=agent.pk, workspace_id=agent.workspace_id, changes=changes)


def elsewhere(path: str) -> JSONObject:
    return {"url": f"https://api.example/{path}"}


def test_a_new_version_of_the_agent_is_asked_about_with_that_change_alone(
    run: Start, author: User, version_of: Any
) -> None:
    version = version_of(template({"blockId": "none"}))
    bank = AgentFactory.create(workspace=version.template.workspace, agent_id="bank")
    execution = run(template({"blockId": "pay", "agentId": "bank", **GATE}))
    first = asked(execution)
    assert first.request["calls"] == "bank (version 1)"
    change(bank, author, configuration=elsewhere("v2"))
    url = f"/api/v1/approvals/{first.pk}/respond"
    reply = client_of(author).post(url, {"approved": True}, format="json")
    assert (reply.status_code, reply.json()["code"]) == (409, "approval_stale")
    ticking.tick()
    again = asked(execution)
    assert again.supersedes == first.pk
    assert again.changes == [{"pointer": "/calls", "before": "bank (version 1)", "after": "bank (version 2)"}]
    reply = client_of(author).post(url, {"approved": True}, format="json")
    assert reply.json()["supersededBy"] == str(again.pk)
    url = f"/api/v1/approvals/{again.pk}/respond"
    assert client_of(author).post(url, {"approved": True}, format="json").status_code == 200
    assert check() == []


def test_a_question_that_waits_on_when_its_time_is_over_is_asked_again_all_the_same(
    run: Start, author: User, version_of: Any
) -> None:
    workspace = version_of(template({"blockId": "none"})).template.workspace
    bank = AgentFactory.create(workspace=workspace, agent_id="bank")
    gate = {**GATE, "humanInLoop": {"type": "approval", "onTimeout": "wait"}}
    execution = run(template({"blockId": "pay", "agentId": "bank", **gate}))
    first = asked(execution)
    for _ in range(2):  # the look at a new question, and its end
        let_time_pass(first)
        ticking.tick()
    change(bank, author, description="The same bank in other words")
    ticking.tick()
    assert asked(execution).pk == first.pk
    assert Event.objects.filter(type="approval_overdue").count() == 1
    change(bank, author, configuration=elsewhere("v2"))
    ticking.tick()
    again = asked(execution)
    assert again.supersedes == first.pk
    url = f"/api/v1/approvals/{again.pk}/respond"
    assert client_of(author).post(url, {"approved": True}, format="json").status_code == 200
    assert check() == []


def test_what_changes_no_call_asks_nobody_again(run: Start, author: User, version_of: Any) -> None:
    version = version_of(template({"blockId": "none"}))
    bank, other = (
        AgentFactory.create(workspace=version.template.workspace, agent_id=name) for name in ("bank", "other")
    )
    execution = run(template({"blockId": "pay", "agentId": "bank", **GATE}))
    question = asked(execution)
    Timer.objects.filter(subject=question.pk).update(due_at=Now())  # the look at a new question
    ticking.tick()
    assert Timer.objects.get(subject=question.pk).due_at == question.respond_by
    change(other, author, configuration=elsewhere("v2"))
    assert Timer.objects.get(subject=question.pk).due_at == question.respond_by
    change(bank, author, description="The same bank in other words")
    assert Timer.objects.get(subject=question.pk).due_at < question.respond_by
    ticking.tick()
    assert asked(execution).pk == question.pk
    assert Timer.objects.get(subject=question.pk).due_at == question.respond_by
    assert not Event.objects.filter(type="approval_reminder").exists()


def test_a_new_version_of_the_script_behind_the_agent_asks_again(
    run: Start, author: User, version_of: Any
) -> None:
    workspace = version_of(template({"blockId": "none"})).template.workspace
    script = ScriptFactory.create(workspace=workspace, name="pay-out")
    for name, configuration in (
        ("newest", {"script": "pay-out"}),
        ("fixed", {"script": "pay-out", "version": 1}),
    ):
        AgentFactory.create(
            workspace=workspace, agent_id=name, tool_type="Script", configuration=configuration
        )
    scripts.add_version(
        by=author, pk=script.pk, workspace_id=workspace.pk, fields=scripts.ScriptFields("print(1)")
    )
    newest, fixed = (
        run(template({"blockId": "pay", "agentId": name, **GATE})) for name in ("newest", "fixed")
    )
    first, kept = asked(newest), asked(fixed)
    assert first.calls == "newest (version 1, script pay-out version 2)"
    scripts.add_version(
        by=author, pk=script.pk, workspace_id=workspace.pk, fields=scripts.ScriptFields("print(2)")
    )
    ticking.tick()
    assert asked(newest).changes == [
        {
            "pointer": "/calls",
            "before": "newest (version 1, script pay-out version 2)",
            "after": "newest (version 1, script pay-out version 3)",
        }
    ]
    assert asked(fixed).pk == kept.pk
    assert check() == []


def test_a_pin_or_a_ban_asks_again_where_the_agent_is_chosen(
    run: Start, author: User, version_of: Any
) -> None:
    workspace = version_of(template({"blockId": "none"})).template.workspace
    able: Any = {"workspace": workspace, "capabilities": [{"name": "pay"}]}
    for name in ("bank.a", "bank.b", "bank.c"):
        AgentFactory.create(agent_id=name, **able)
    execution = run(template({"blockId": "pay", "capabilities": ["pay"], **GATE}))
    assert asked(execution).calls == "one of: bank.a (version 1), bank.b (version 1), bank.c (version 1)"
    policing.set_policy(by=author, workspace_id=workspace.pk, agent_id="bank.a", kind="ban")
    ticking.tick()
    assert asked(execution).calls == "one of: bank.b (version 1), bank.c (version 1)"
    pin = policing.set_policy(by=author, workspace_id=workspace.pk, agent_id="bank.c", kind="pin")
    ticking.tick()
    assert asked(execution).calls == "one of: bank.c (version 1)"
    policing.remove_policy(by=author, pk=pin.pk)
    ticking.tick()
    assert asked(execution).calls == "one of: bank.b (version 1), bank.c (version 1)"
    policing.set_policy(by=author, workspace_id=workspace.pk, agent_id="bank.b", kind="prefer")
    ticking.tick()
    last = asked(execution)
    assert last.calls == "one of: bank.b (version 1), preferred, bank.c (version 1)"
    assert [change["pointer"] for change in last.changes] == ["/calls"]
    assert [question.reason for question in Approval.objects.order_by("requested_at")] == ["stale"] * 4 + [""]
    assert check() == []
