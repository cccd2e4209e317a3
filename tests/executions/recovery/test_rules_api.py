"""Rules for failures and recovery policies by REST, and who may write them."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.agents import registry
from agentflow.governance.models import AuditEntry, User, Workspace
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from executions.recovery.rule_models import FailureRule, RecoveryPolicy
from tests.factories.governance import WorkspaceFactory, client_of, member

RULES, POLICIES = "/api/v1/failure-rules", "/api/v1/recovery-policies"


@pytest.fixture
def workspace(db: None) -> Workspace:
    registry.forget()
    return WorkspaceFactory.create()


@pytest.fixture
def admin(workspace: Workspace) -> User:
    return member(workspace, Role.ADMIN)


def send(user: User, method: str, path: str, body: Any = None, *, status: int = 200) -> JSONObject:
    answer = getattr(client_of(user), method)(path, body, format="json")
    assert answer.status_code == status, answer.content
    found: JSONObject = answer.json()
    return found


def rule(name: str, condition: str, kind: str = "transient", **more: Any) -> JSONObject:
    return {"name": name, "condition": condition, "kind": kind, **more}


def test_rules_are_added_read_changed_ordered_and_removed(workspace: Workspace, admin: User) -> None:
    quota = rule("quota", "failure.code == 'http_403'", code="quota")
    first = send(admin, "post", RULES, quota, status=201)
    wide = rule("client", "failure.code.startsWith('http_4')", "agent")
    second = send(admin, "post", RULES, wide, status=201)
    assert (first["place"], second["place"], second["shadowedBy"]) == (1, 2, "quota")
    order = {"rules": [second["ruleId"], first["ruleId"]]}
    send(admin, "put", f"{RULES}/order", order)
    listed = send(member(workspace, Role.VIEWER), "get", f"{RULES}?workspaceId={workspace.pk}")
    assert [each["name"] for each in listed["rules"]] == ["client", "quota"]
    assert listed["rules"][1]["shadowedBy"] == "client"
    path = f"{RULES}/{first['ruleId']}"
    changed = send(admin, "patch", path, {"enabled": False, "code": ""})
    assert (changed["enabled"], changed["code"], changed["condition"]) == (False, "", quota["condition"])
    assert send(admin, "get", path) == changed
    send(admin, "delete", path)
    send(admin, "get", path, status=404)
    told = AuditEntry.objects.filter(action__startswith="failure_rule.").order_by("pk")
    assert [entry.action.split(".")[1] for entry in told] == ["set", "set", "order", "set", "remove"]


def test_what_cannot_work_is_refused_with_its_place(workspace: Workspace, admin: User) -> None:
    kept = send(admin, "post", RULES, rule("a", "failure.code == 'http_404'"), status=201)
    for body, code, at in (
        (rule("b", "true"), "matches_everything", "/condition"),
        (rule("b", "failure.message > 3"), "always_throws", "/condition"),
        (rule("b", "failure.code == 'http_404'", "agent"), "contradicting_rules", "/condition"),
        (rule("b", "failure.code == 'http_404'"), "duplicate_rule", "/condition"),
        (rule("b", "failure.code =="), "syntax_error", "/condition"),
        (rule("a", "failure.code == 'x'"), "name_taken", "/name"),
        (rule("b", "failure.code == 'x'", "odd"), "invalid_choice", "/kind"),
        (rule("b", "failure.code == 'x'", place=-1), "min_value", "/place"),
        (rule("b", "failure.code == 'x'", colour="red"), "unknown_field", "/colour"),
        ({}, "required", "/name"),
    ):
        issue = send(admin, "post", RULES, body, status=400)["issues"][0]
        assert (issue["code"], issue["pointer"]) == (code, at)
        assert issue["remedy"] or issue["message"]
    path = f"{RULES}/{kept['ruleId']}"
    assert (
        send(admin, "patch", path, {"condition": "true"}, status=400)["issues"][0]["pointer"] == "/condition"
    )
    assert send(admin, "get", path)["condition"] == "failure.code == 'http_404'"
    twice = {"rules": [kept["ruleId"], kept["ruleId"], str(workspace.pk)]}
    found = send(admin, "put", f"{RULES}/order", twice, status=400)["issues"]
    assert [(each["code"], each["pointer"]) for each in found] == [
        ("named_twice", "/rules/1"), ("unknown_rule", "/rules/2"),
    ]  # fmt: skip
    missing = send(admin, "put", f"{RULES}/order", {"rules": []}, status=400)["issues"]
    assert [each["code"] for each in missing] == ["rules_missing"]
    assert FailureRule.objects.count() == 1


def test_policies_are_set_read_and_taken_away(workspace: Workspace, admin: User) -> None:
    path = f"/api/v1/workspaces/{workspace.pk}/recovery-policy"
    assert send(admin, "get", path, status=404)["code"] == "not_found"
    send(admin, "put", path, {"policy": {"agent": ["ask"]}})
    assert send(admin, "put", path, {"policy": {"agent": ["retry", "ask"]}})["changedBy"] == admin.username
    refused = send(admin, "put", path, {"policy": {"agent": ["ask", "dance"]}}, status=400)
    assert refused["issues"][0]["pointer"] == "/policy/agent/1"
    assert send(admin, "put", path, {"policy": []}, status=400)["issues"][0]["pointer"] == "/policy"
    listed = send(member(workspace, Role.VIEWER), "get", POLICIES)
    assert [each["policy"] for each in listed["policies"]] == [{"agent": ["retry", "ask"]}]
    send(admin, "delete", path)
    send(admin, "delete", path)
    assert not RecoveryPolicy.objects.exists()
    told = AuditEntry.objects.filter(action__startswith="recovery_policy.").order_by("pk")
    assert [entry.action for entry in told] == ["recovery_policy.set"] * 2 + ["recovery_policy.remove"]


def test_only_administrators_of_the_workspace_write(workspace: Workspace, admin: User) -> None:
    kept = send(admin, "post", RULES, rule("a", "failure.code == 'x'"), status=201)["ruleId"]
    elsewhere = member(WorkspaceFactory.create(), Role.ADMIN)
    policy = f"/api/v1/workspaces/{workspace.pk}/recovery-policy"
    where = {"workspaceId": str(workspace.pk)}
    for user, status in ((member(workspace, Role.OPERATOR), 403), (elsewhere, 404)):
        send(user, "post", RULES, {**rule("b", "failure.code == 'y'"), **where}, status=status)
        send(user, "patch", f"{RULES}/{kept}", {"enabled": False}, status=status)
        send(user, "delete", f"{RULES}/{kept}", status=status)
        send(user, "put", f"{RULES}/order", {**where, "rules": []}, status=status)
        send(user, "put", policy, {"policy": {}}, status=status)
        send(user, "delete", policy, status=status)
    send(elsewhere, "get", f"{RULES}/{kept}", status=404)
    send(elsewhere, "get", policy, status=404)
    assert send(elsewhere, "get", RULES)["total"] == 0


def test_in_the_admin_operators_read_and_nothing_offers_them_to_write(
    workspace: Workspace, admin: User, client: Any
) -> None:
    kept = send(admin, "post", RULES, rule("quota", "failure.code == 'x'"), status=201)["ruleId"]
    send(admin, "put", f"/api/v1/workspaces/{workspace.pk}/recovery-policy", {"policy": {"agent": ["ask"]}})
    operator = member(workspace, Role.OPERATOR, is_staff=True)
    client.force_login(operator)
    policy = RecoveryPolicy.objects.get().pk
    for kind, pk in (("failurerule", kept), ("recoverypolicy", policy)):
        for page in (f"/admin/executions/{kind}/", f"/admin/executions/{kind}/{pk}/change/"):
            shown = client.get(page)
            assert shown.status_code == 200
            words = shown.content.decode()
            assert "/add/" not in words
            assert 'name="_save"' not in words
            assert "/delete/" not in words
    client.post(f"/admin/executions/failurerule/{kept}/change/", {"name": "mine"})
    assert FailureRule.objects.get().name == "quota"
