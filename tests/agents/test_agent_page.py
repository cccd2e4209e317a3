"""What operators see of an agent on its page, and do there."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agentflow.agents import charts, circuit, performance
from agentflow.agents.models import Agent
from agentflow.agents.performance import Bucket
from agentflow.agents.services import registration
from agentflow.governance.models import AuditEntry, Workspace
from agentflow.governance.roles import Role
from executions.models import BlockAttempt, BlockExecution, Place
from tests.factories.agents import AgentFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import UserFactory, WorkspaceFactory, member

pytestmark = pytest.mark.django_db
LIST = "/admin/agents/agent/"


@pytest.fixture
def home() -> Workspace:
    return WorkspaceFactory.create()


def staff(workspace: Workspace, role: Role = Role.OPERATOR) -> Client:
    client = Client()
    client.force_login(member(workspace, role, is_staff=True))
    return client


def seen(client: Client, agent: Agent, query: str = "") -> str:
    reply = client.get(f"{LIST}{agent.pk}/change/{query}")
    assert reply.status_code == 200
    return reply.content.decode()


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def bucket(*latencies: float, failures: int = 0, cost: float = 0.0, tokens: int = 0) -> Bucket:
    made = Bucket(len(latencies) - failures, failures, sum(latencies), cost, tokens, tokens)
    for ms in latencies:
        made.histogram[performance.slot(ms)] += 1
    if failures:
        made.kinds["http_503"] = failures
    return made


def measured(agent: Agent, *found: Bucket, capability: str = "") -> None:
    """One bucket for each of the last five minutes, the first the oldest."""
    now = performance.beginning(timezone.now(), 300)
    for back, each in enumerate(reversed(found)):
        performance.merge({(agent.pk, capability, now - back * timedelta(minutes=5)): each})


def at_work(workspace: Workspace, agent_id: str, status: str = "running") -> BlockExecution:
    run = ExecutionFactory.create(workspace=workspace, graph="call", **{status: ["call"]})
    row = BlockExecution.objects.get(execution=run)
    held = status == "running"
    if not held:
        BlockExecution.objects.filter(pk=row.pk).update(reason="agent")
    Place.objects.create(
        workspace_id=workspace.pk, kind="agent", key=agent_id, places=2, execution=run, block=row,
        held=held, attempt=row.attempt if held else None,
    )  # fmt: skip
    return row


def test_the_page_tells_what_decides_whether_the_agent_is_called(home: Workspace) -> None:
    agent = AgentFactory.create(
        workspace=home, agent_id="orders", limits={"concurrency": 2}, health="healthy"
    )
    at_work(home, "orders")
    at_work(home, "orders", "waiting_external")
    page = words(seen(staff(home), agent))
    assert "1 of 2 places taken. 1 block waits for it." in page
    assert "Entered by hand." in page
    assert "Calls go through. None was made within its window." in page
    assert "Healthy" in page
    assert "call Running" in page
    assert "call Waits for it" in page
    assert "No call ended within this time." in page


def test_the_charts_show_the_window_and_the_capability_that_were_chosen(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home)
    measured(agent, bucket(100, 120, 3000, failures=1, cost=0.25), bucket(100))
    measured(agent, bucket(100), capability="orders.read")
    client = staff(home, Role.VIEWER)
    page = seen(client, agent, "?window=1h")
    assert page.count("<figure>") == 4  # calls, success, time and cost, but no tokens
    assert "75.0 %" in page
    assert "http_503" in page
    assert '<rect class="bad"' in page
    narrowed = seen(client, agent, "?window=6h&capability=orders.read")
    assert "100 %" in narrowed
    assert "http_503" not in narrowed
    for query in ("?window=nothing&capability=nothing", "?window=30d", "?version_page=x"):
        seen(client, agent, query)


def test_who_may_only_look_gets_no_buttons_and_others_act_with_a_reason(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home)
    do = f"{LIST}{agent.pk}/do/"
    assert f"{do}off" not in seen(staff(home, Role.VIEWER), agent)
    assert staff(home, Role.VIEWER).post(f"{do}off").status_code == 403
    assert staff(WorkspaceFactory.create(), Role.ADMIN).post(f"{do}off").status_code == 302
    assert Agent.objects.get().enabled
    client = staff(home)
    assert f"{do}off" in seen(client, agent)
    assert client.get(f"{do}off").status_code == 405
    assert client.post(f"{do}nothing").status_code == 302
    client.post(f"{do}off", {"reason": "The vendor moves house."})
    assert not Agent.objects.get().enabled
    entry = AuditEntry.objects.get(action="agent.switch")
    assert entry.detail["reason"] == "The vendor moves house."
    client.post(LIST, {"action": "switch_on", "_selected_action": [str(agent.pk)], "reason": "Back again."})
    assert AuditEntry.objects.filter(action="agent.switch", detail__reason="Back again.").count() == 1
    assert "Switch off" in words(seen(client, agent))


def test_an_open_circuit_is_shown_and_closed(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home, measures={"circuit": {"unreachableCalls": 2}})
    for _ in range(2):
        circuit.record(home.pk, agent.agent_id, ok=False, ms=1, unreachable=True)
    assert circuit.flush()
    client = staff(home)
    page = words(seen(client, agent))
    assert "Its last calls reached nobody." in page
    assert agent.agent_id in client.get(f"{LIST}?circuit=open").content.decode()
    client.post(f"{LIST}{agent.pk}/do/reset", {"reason": "It is back."})
    assert circuit.state_of(agent).closed
    assert AuditEntry.objects.get(action="agent.reset_circuit").detail["reason"] == "It is back."


def test_a_version_says_what_changed_and_no_secret(home: Workspace) -> None:
    by = member(home, Role.OPERATOR)

    def change(pk: UUID, **configuration: Any) -> None:
        changes = {"configuration": {"url": "https://a.example/", **configuration}}
        registration.change_agent(by=by, pk=pk, workspace_id=home.pk, changes=changes)

    fields = registration.AgentFields("crm", "CRM", "API", configuration={"url": "https://old.example/"})
    agent = registration.register_agent(by=by, workspace_id=home.pk, fields=fields)
    change(agent.pk, headers={"X-Partner": "Bearer canary-1"})
    change(agent.pk, headers={"X-Partner": "Bearer canary-2"})
    page = seen(staff(home), agent)
    assert "configuration.url" in page
    assert "https://old.example/" in page
    assert "A value that is not shown" in page
    assert "canary" not in page


def test_last_calls_and_templates_lead_to_their_pages(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home, agent_id="crm", capabilities=[{"name": "crm.read"}])
    run = ExecutionFactory.create(workspace=home, graph="a", completed=["a"])
    version = run.template_version
    definition = {
        "name": "x",
        "blocks": [
            {"blockId": "a", "capabilities": ["crm.read"]},
            {"blockId": "b", "capabilities": ["crm.read", "more"]},
        ],
    }
    from templates_app.models import Template
    from tests.factories.templates import TemplateVersionFactory

    TemplateVersionFactory.create(template=version.template, number=version.number + 1, definition=definition)
    row, now = BlockExecution.objects.get(execution=run), timezone.now()
    started = now - timedelta(milliseconds=1500)
    failure = {"code": "http_503", "message": "It said 503 <b>."}
    ended = {"block": row, "agent_id": "crm", "started_at": started, "ended_at": now}
    BlockAttempt.objects.create(attempt=1, outcome="error", failure=failure, **ended)
    BlockAttempt.objects.create(attempt=2, outcome="ok", **ended)
    client = staff(home, Role.VIEWER)
    page = seen(client, agent)
    assert f"/executions/{run.pk}/" in page
    assert "It said 503 &lt;b&gt;." in page
    assert "Succeeded, try 2 1.5 s" in words(page)
    assert "May choose it, for crm.read" in page
    Template.objects.update(archived_at=now)
    assert "No template in use names it" in seen(client, agent)


def test_a_page_costs_as_many_statements_however_much_there_is_to_show(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home, agent_id="crm")
    client = Client()
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))

    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            seen(client, agent)
        return len(queries)

    at_work(home, "crm")
    measured(agent, bucket(1))
    count()
    before = count()
    for _ in range(5):
        at_work(home, "crm")
        measured(agent, *[bucket(1)] * 5)
    assert count() == before


def test_a_chart_is_true_to_its_numbers(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home)
    measured(agent, bucket(100, 100, failures=1), bucket(), bucket(100, 100, 100, 100, cost=2, tokens=7))
    window = performance.window(agent, "1h", at_most=60)
    calls, success, latency, cost, tokens = charts.charts(window)
    tall = {bar.look: bar.height for bar in calls.bars if "2 calls" in bar.said}
    assert tall == {"ok": 25.0, "bad": 25.0}  # of the most, which are four
    assert max(bar.height for bar in calls.bars) == charts.HEIGHT
    assert success.lines[0].path.count("M") == 2  # broken where there was no call
    assert (calls.figure, success.figure, cost.figure, tokens.figure) == ("6", "83.3 %", "2.00", "14")
    assert latency.figure == "99 ms, 99 ms"  # as exact as a histogram is
    assert [row[1] for row in charts.rows(window) if row[1] != "0"] == ["4", "2"]
    month = performance.window(agent, "30d", at_most=60)
    assert month.total.calls == 6
    assert (month.last - month.since) // timedelta(seconds=month.seconds) < 60
