from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from agentflow.agents import performance, registry
from agentflow.agents.models import Agent, AgentPolicy, AgentSource, Script
from agentflow.governance.models import AuditEntry, Secret, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services import secrets
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.factories.governance import WorkspaceFactory, member
from tests.factories.templates import TemplateVersionFactory

pytestmark = pytest.mark.django_db
AGENTS, SCRIPTS = "/admin/agents/agent/", "/admin/agents/script/"
SECRET = {"url": "https://api.example/", "headers": {"X-Partner": "Bearer canary"}}


@pytest.fixture
def home() -> Workspace:
    return WorkspaceFactory.create()


def staff(workspace: Workspace, role: Role) -> Client:
    client = Client()
    client.force_login(member(workspace, role, is_staff=True))
    return client


def form(workspace: Workspace, **fields: Any) -> dict[str, Any]:
    return {
        "workspace": str(workspace.pk),
        "agent_id": "orders",
        "name": "Orders",
        "description": "",
        "tool_type": "API",
        "configuration": json.dumps({"url": "https://api.example/"}),
        "capabilities": '["orders.read"]',
        "effect": "",
        "input_schema": "",
        "output_schema": "",
        "enabled": "on",
        **fields,
    }


def test_an_agent_is_added_and_changed_by_the_services(home: Workspace) -> None:
    client = staff(home, Role.OPERATOR)
    made = client.post(f"{AGENTS}add/", form(home))
    assert made.status_code == 302, made.context["adminform"].form.errors
    agent = Agent.objects.get()
    assert (agent.configuration, agent.capabilities) == (
        {"url": "https://api.example/"},
        [{"name": "orders.read"}],
    )
    assert agent.effect is None
    assert client.post(f"{AGENTS}{agent.pk}/change/", form(home, name="New")).status_code == 302
    agent.refresh_from_db()
    assert agent.name == "New"
    actions = AuditEntry.objects.filter(target_type="agent").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["agent.register", "agent.update"]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"configuration": "{"}, "configuration"),
        ({"configuration": "[1]"}, "configuration"),
        ({"configuration": "{}"}, "configuration"),
        ({"configuration": '{"url": "https://x", "n": NaN}'}, "configuration"),
        ({"configuration": '{"url": "https://x", "n": "\\u0000"}'}, "configuration"),
        ({"capabilities": '{"a": 1}'}, "capabilities"),
        ({"input_schema": '{"type": "thing"}'}, "input_schema"),
        ({"agent_id": "builtin.x"}, "agent_id"),
        ({"agent_id": "taken"}, "agent_id"),
        ({"tool_type": "Fax"}, "tool_type"),
    ],
)
def test_a_form_is_held_to_the_rules_of_the_api(home: Workspace, sent: dict[str, str], field: str) -> None:
    AgentFactory.create(workspace=home, agent_id="taken")
    response = staff(home, Role.OPERATOR).post(f"{AGENTS}add/", form(home, **sent))
    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors
    assert Agent.objects.count() == 1


@pytest.mark.parametrize("role", Role)
def test_a_secret_shows_to_nobody_and_survives_a_change(home: Workspace, role: Role) -> None:
    agent = AgentFactory.create(workspace=home, configuration=SECRET)
    client = staff(home, role)
    for page in (AGENTS, f"{AGENTS}{agent.pk}/change/", f"{AGENTS}?q=agent"):
        response = client.get(page)
        assert response.status_code == 200
        assert b"canary" not in response.content
    shown = {"url": SECRET["url"], "headers": {"X-Partner": "********"}}
    sent = form(home, agent_id=agent.agent_id, configuration=json.dumps(shown))
    manages = role in {Role.OPERATOR, Role.ADMIN}
    assert client.post(f"{AGENTS}{agent.pk}/change/", sent).status_code == (302 if manages else 403)
    agent.refresh_from_db()
    assert agent.configuration == SECRET


def test_agents_are_switched_off_where_one_may(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home)
    sent = {"action": "switch_off", "_selected_action": [str(agent.pk)]}
    for role, enabled in ((Role.VIEWER, True), (Role.OPERATOR, False)):
        staff(home, role).post(AGENTS, sent)
        agent.refresh_from_db()
        assert agent.enabled is enabled


def test_foreign_rows_are_not_there(home: Workspace) -> None:
    agent, script = AgentFactory.create(), ScriptFactory.create()
    client = staff(home, Role.ADMIN)
    for page, row in ((AGENTS, agent), (SCRIPTS, script)):
        assert row.pk.hex not in client.get(page).content.decode().replace("-", "")
        assert client.get(f"{page}{row.pk}/change/").status_code == 302
        client.post(f"{page}{row.pk}/delete/", {"post": "yes"})
    assert client.post(f"{AGENTS}add/", form(agent.workspace)).status_code == 200
    assert (Agent.objects.count(), Script.objects.count()) == (1, 1)


def test_a_script_is_added_and_stays_while_it_is_used(home: Workspace) -> None:
    client = staff(home, Role.OPERATOR)
    sent = {
        "workspace": str(home.pk),
        "name": "s",
        "description": "",
        "source": "print(1)\r\n",
        "timeout_s": "5",
        "language": "python",
    }
    assert client.post(f"{SCRIPTS}add/", {**sent, "source": "def ("}).status_code == 200
    assert client.post(f"{SCRIPTS}add/", sent).status_code == 302
    script = Script.objects.get()
    assert script.source == "print(1)\n"
    page = f"{SCRIPTS}{script.pk}/change/"
    changed = {**sent, "source": "import sys; print(sys.stdin.read())", "limits": '{"memoryMb": 64}'}
    answer = client.post(
        page, {**changed, "trial": '{"n": 1}', "agents_script_save_and_try": "1"}, follow=True
    )
    assert "Completed in" in answer.content.decode()
    script.refresh_from_db()
    assert (script.version, script.limits, script.versions.count()) == (2, {"memoryMb": 64}, 2)
    assert client.get(page).status_code == staff(home, Role.VIEWER).get(page).status_code == 200
    AgentFactory.create(workspace=home, tool_type="Script", configuration={"script": "s"})
    client.post(f"{SCRIPTS}{script.pk}/delete/", {"post": "yes"})
    assert Script.objects.exists()
    Agent.objects.all().delete()
    client.post(f"{SCRIPTS}{script.pk}/delete/", {"post": "yes"})
    assert not Script.objects.exists()


def test_a_source_is_kept_and_looked_at_in_the_admin(home: Workspace) -> None:
    sources = "/admin/agents/agentsource/"
    sent = {
        "workspace": str(home.pk),
        "kind": "agent_service",
        "name": "crew",
        "url": "http://127.0.0.1:9/",
        "server": "",
        "configuration": '{"headers": {"X-Token": "canary"}}',
        "interval_s": "3600",
        "enabled": "on",
    }
    client = staff(home, Role.OPERATOR)
    for wrong in ({"url": "ftp://x"}, {"interval_s": "5"}, {"configuration": '{"headers": 1}'}):
        assert client.post(f"{sources}add/", {**sent, **wrong}).status_code == 200
    assert client.post(f"{sources}add/", sent).status_code == 302
    source = AgentSource.objects.get()
    page = f"{sources}{source.pk}/change/"
    shown = {**sent, "configuration": '{"headers": {"X-Token": "********"}}', "name": "team"}
    assert client.post(page, shown).status_code == 302
    source.refresh_from_db()
    assert (source.name, source.configuration["headers"]) == ("team", {"X-Token": "canary"})
    act = {"action": "look_now", "_selected_action": [str(source.pk)]}
    client.post(sources, act)
    for user in (client, staff(home, Role.VIEWER)):
        for address in (sources, page):
            answer = user.get(address)
            assert answer.status_code == 200
            assert b"canary" not in answer.content
    assert (AgentSource.objects.get().error or {}).get("code") == "egress_refused"
    assert staff(WorkspaceFactory.create(), Role.ADMIN).get(page).status_code == 302


POLICIES = "/admin/agents/agentpolicy/"


def test_policies_are_said_changed_and_taken_back_in_the_admin(home: Workspace) -> None:
    agent = AgentFactory.create(workspace=home, agent_id="crm")
    definition = {"name": "x", "blocks": [{"blockId": "ask", "capabilities": ["crm.read"]}, {"blockId": "b"}]}
    version = TemplateVersionFactory.create(template__workspace=home, definition=definition)
    template = version.template
    foreign = TemplateVersionFactory.create(definition=definition).template
    client = staff(home, Role.OPERATOR)
    sent = {"agent": str(agent.pk), "kind": "ban", "template": str(template.pk), "block_id": "ask"}
    sent["reason"] = "It is <slow>."
    for wrong, field in (
        ({"block_id": "b"}, "block_id"),
        ({"template": ""}, "template"),
        ({"template": str(foreign.pk)}, "template"),
        ({"kind": "hate"}, "kind"),
        ({"agent": str(AgentFactory.create().pk)}, "agent"),
    ):
        reply = client.post(f"{POLICIES}add/", {**sent, **wrong})
        assert reply.status_code == 200
        assert field in reply.context["adminform"].form.errors
    assert client.post(f"{POLICIES}add/", sent).status_code == 302
    assert client.post(f"{POLICIES}add/", {**sent, "kind": "prefer"}).status_code == 302  # in its place
    policy = AgentPolicy.objects.get()
    assert (policy.kind, policy.template_id, policy.block_id) == ("prefer", template.pk, "ask")
    page = f"{POLICIES}{policy.pk}/change/"
    assert client.post(page, {"kind": "ban", "reason": "New."}).status_code == 302
    policy.refresh_from_db()
    assert (policy.kind, policy.reason, policy.block_id) == ("ban", "New.", "ask")
    for user, status in ((staff(home, Role.VIEWER), 403), (client, 302)):
        assert template.name in user.get(POLICIES).content.decode()
        assert "block ask" in user.get(page).content.decode()
        assert user.post(f"{page.removesuffix('change/')}delete/", {"post": "yes"}).status_code == status
    assert not AgentPolicy.objects.exists()
    told = AuditEntry.objects.filter(target_type="agent_policy").values_list("action", flat=True)
    assert list(told.order_by("pk")) == ["agent_policy.set"] * 3 + ["agent_policy.remove"]


def test_whether_agents_are_explored_is_set_on_the_page_of_the_workspace(home: Workspace) -> None:
    page = f"/admin/governance/workspace/{home.pk}/change/"
    fields = {"name": home.name, "environment": home.environment, "egress_allow": "", "explore_agents": "on"}
    admin = member(home, Role.ADMIN, is_staff=True)
    client = Client()
    client.force_login(admin)
    roles = {role.value: "" for role in Role} | {"admin": admin.username}
    assert client.post(page, {**fields, **roles}).status_code == 302
    home.refresh_from_db()
    assert home.explore_agents


def test_a_source_shows_what_its_last_look_changed_and_is_looked_at_now(home: Workspace) -> None:
    result = {
        "new": ["crm.read"],
        "gone": ["crm.write"],
        "skipped": [{"key": "odd", "code": "too_large", "message": "Its schema is <too large>."}],
        "unchanged": 3,
        "counts": {"new": 1, "gone": 1, "skipped": 1},
    }
    source = AgentSource.objects.create(
        workspace=home, kind="agent_service", name="crew", url="http://127.0.0.1:9/", result=result,
        succeeded_at=timezone.now(), synchronised_at=timezone.now(),
    )  # fmt: skip
    AgentFactory.create(workspace=home, agent_id="crm.read", source=source, source_key="read")
    page = f"/admin/agents/agentsource/{source.pk}/change/"
    look = f"/admin/agents/agentsource/{source.pk}/look/"
    shown = staff(home, Role.VIEWER).get(page).content.decode()
    for words in ("1 new, 1 gone, 1 skipped, 3 unchanged", "crm.write", "Gone, switched off", "&lt;too la"):
        assert words in shown
    assert look not in shown
    assert staff(home, Role.VIEWER).post(look).status_code == 403
    client = staff(home, Role.OPERATOR)
    assert look in client.get(page).content.decode()
    client.post(look)
    assert "1 in a row." in client.get(page).content.decode()


def test_the_list_of_agents_is_narrowed_and_costs_the_same_for_many(home: Workspace) -> None:
    AgentFactory.create(workspace=home, agent_id="crm", capabilities=[{"name": "invoice.extract"}])
    client = staff(home, Role.OPERATOR)

    def queries() -> int:
        registry.forget()
        performance._cached.clear()
        with CaptureQueriesContext(connection) as seen:
            client.get(AGENTS)
        return len(seen)

    queries()
    few = queries()
    for _ in range(5):
        AgentFactory.create(workspace=home)
    assert queries() == few
    for query, count in (
        ("q=invoice.extract", 1),
        ("origin=hand", 6),
        ("origin=source", 0),
        ("origin=gone", 0),
        ("effect__exact=pure", 0),
        ("circuit=open", 0),
    ):
        assert client.get(f"{AGENTS}?{query}").context["cl"].result_count == count


def test_secrets_show_who_uses_them_and_when_and_never_their_values(home: Workspace, settings: Any) -> None:
    by = member(home, Role.ADMIN, is_staff=True)
    for name in ("CRM_TOKEN", "IDLE"):
        secrets.put_secret(by=by, workspace_id=home.pk, name=name, value="canary-value")
    configuration = {"url": "https://x.example/", "headers": {"Authorization": "Bearer ${secrets.CRM_TOKEN}"}}
    agent = AgentFactory.create(workspace=home, agent_id="crm", configuration=configuration)
    at = performance.beginning(timezone.now(), 300)
    performance.merge({(agent.pk, "", at): performance.Bucket(successes=1)})
    client = Client()
    client.force_login(by)
    shown = client.get("/admin/governance/secret/")
    uses = {row.name: row.use for row in shown.context["cl"].result_list}
    assert [name for name, _ in uses["CRM_TOKEN"].by] == ["crm"]
    assert (uses["CRM_TOKEN"].last_used, uses["IDLE"].last_used) == (at, None)
    secret = Secret.objects.get(name="CRM_TOKEN")
    page = f"/admin/governance/secret/{secret.pk}/change/"
    assert "The first of the keys" in client.get(page).content.decode()
    settings.AGENTFLOW_SECRET_KEYS = [Fernet.generate_key().decode()]
    later = client.get(page).content.decode()
    assert "rotate_secrets" in later
    assert "canary" not in later + shown.content.decode()
