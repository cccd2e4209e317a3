"""The demo is there once, however often it is loaded and wherever a load was cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate
from pytest_django import Settings

from agentflow.agents.models import Agent
from agentflow.governance import access
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Permission
from agentflow.workflow import validation
from agentflow.workflow.parsing import parse
from demo import loading, workspace
from executions.models import Execution
from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring
from templates_app.services.checking import start_issues

pytestmark = pytest.mark.django_db


def load(home: Path, *, base_url: str = "http://127.0.0.1:8000", port: int = 8790) -> dict[str, Any]:
    loading.load(home=home, base_url=base_url, port=port)
    facts: dict[str, Any] = json.loads((home / "demo.json").read_text())
    return facts


def signs_in(facts: dict[str, Any], key: str) -> bool:
    return authenticate(**facts["users"][key]) is not None


def rows() -> tuple[int, int, int, int, int]:
    return (
        Workspace.objects.count(),
        User.objects.count(),
        Agent.objects.count(),
        TemplateVersion.objects.count(),
        Execution.objects.count(),
    )


def test_demo_json_says_all_a_program_needs(tmp_path: Path) -> None:
    facts = load(tmp_path)
    assert (tmp_path / "demo.json").stat().st_mode & 0o777 == 0o600
    assert set(facts) == {"baseUrl", "workspaceId", "users", "templates", "executionId"}
    assert list(facts["users"]) == ["admin", "author", "operator", "approver", "approver2", "viewer"]
    assert all(signs_in(facts, key) for key in facts["users"])
    assert set(facts["templates"]) == {
        "Refund request",
        "Tell the customer",
        "Weekly sales",
        "Release",
        "Document review",
        "Shipping quotes",
    }
    run = Execution.objects.get(pk=facts["executionId"])
    assert str(run.template_version.template_id) == facts["templates"]["Refund request"]


@pytest.mark.parametrize(
    ("key", "permission"),
    [
        ("author", Permission.AUTHOR),
        ("operator", Permission.OPERATE),
        ("approver", Permission.DECIDE),
        ("approver2", Permission.DECIDE),
        ("viewer", Permission.VIEW),
        ("admin", Permission.ADMINISTER),
    ],
)
def test_each_user_may_do_what_the_name_says(tmp_path: Path, key: str, permission: Permission) -> None:
    facts = load(tmp_path)
    user = User.objects.get(username=facts["users"][key]["username"])
    assert access.can(user, permission, Workspace.objects.get().pk)
    assert user.is_superuser == (key == "admin")


def test_loading_twice_is_loading_once(tmp_path: Path) -> None:
    first, before = load(tmp_path), rows()
    assert (load(tmp_path), rows()) == (first, before)


def test_another_port_of_the_service_changes_the_address_alone(tmp_path: Path) -> None:
    first = load(tmp_path)
    moved = load(tmp_path, base_url="http://127.0.0.1:9000")
    assert moved == first | {"baseUrl": "http://127.0.0.1:9000"}


def test_a_load_that_died_before_demo_json_is_completed_by_the_next(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        loading.load(home=tmp_path / "missing", base_url="http://127.0.0.1:8000", port=8790)
    before = rows()
    facts = load(tmp_path)
    assert rows() == before
    assert all(signs_in(facts, key) for key in facts["users"])


def test_half_a_demo_json_is_written_anew(tmp_path: Path) -> None:
    whole = load(tmp_path)
    (tmp_path / "demo.json").write_text('{"users": {"admin"')
    again = load(tmp_path)
    assert {**again, "users": None} == {**whole, "users": None}
    assert signs_in(again, "viewer")
    assert not signs_in(whole, "viewer")


def test_somebody_elses_admin_keeps_name_and_password(tmp_path: Path) -> None:
    User.objects.create_user("admin", password="their own secret")
    facts = load(tmp_path)
    assert facts["users"]["admin"]["username"] == "demo-admin"
    assert authenticate(username="admin", password="their own secret") is not None


def test_the_agents_follow_the_shop_to_another_port(tmp_path: Path) -> None:
    load(tmp_path, port=8790)
    changed = Agent.objects.get(agent_id="messages.send")
    changed.configuration["url"] = "https://mail.example.com/send"
    changed.save()
    load(tmp_path, port=8791)
    urls = dict(Agent.objects.filter(tool_type="API").values_list("agent_id", "configuration__url"))
    assert urls == {
        "orders.read": "http://127.0.0.1:8791/orders/{orderId}",
        "sales.read": "http://127.0.0.1:8791/sales/{city}",
        "refunds.pay": "http://127.0.0.1:8791/refunds",
        "messages.send": "https://mail.example.com/send",
        **{
            f"couriers.{name}": f"http://127.0.0.1:8791/couriers/{name}/quotes/{{weight}}"
            for name in ("swift", "steady", "shaky")
        },
    }
    assert Workspace.objects.get().egress_allow == ["127.0.0.1:8791"]


def test_a_language_model_drafts_once_one_is_configured(tmp_path: Path, settings: Settings) -> None:
    load(tmp_path)
    settings.AGENTFLOW_LLM_BASE_URL = "http://127.0.0.1:1/v1"
    settings.AGENTFLOW_LLM_API_KEY = "key"
    load(tmp_path)
    load(tmp_path)
    versions = Template.objects.get(name="Refund request").versions.order_by("number")
    agents = [
        block["agentId"]
        for version in versions
        for block in version.definition["blocks"]
        if block["blockId"] == "draft_answer"
    ]
    assert agents == ["builtin.text", "answers.draft"]


def test_an_authors_change_to_the_demo_stands(tmp_path: Path, settings: Settings) -> None:
    load(tmp_path)
    version = TemplateVersion.objects.get(template__name="Refund request")
    changed = parse(version.definition | {"description": "Ours now."})
    authoring.update_template(
        template_id=version.template_id, by=User.objects.get(username="author"), definition=changed
    )
    settings.AGENTFLOW_LLM_BASE_URL = "http://127.0.0.1:1/v1"
    settings.AGENTFLOW_LLM_API_KEY = "key"
    load(tmp_path)
    assert version.template.versions.count() == 2


@pytest.mark.parametrize("llm", [False, True])
@pytest.mark.parametrize("name", workspace.DEFINITIONS)
def test_its_workflows_have_no_issue_at_all(name: str, llm: bool) -> None:
    assert validation.check(parse(workspace.definition(name, llm=llm))) == []


def test_nothing_stands_against_starting_them(tmp_path: Path) -> None:
    load(tmp_path)
    assert [start_issues(version) for version in TemplateVersion.objects.all()] == [[]] * 6
