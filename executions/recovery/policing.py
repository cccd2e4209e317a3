"""Writing what a workspace says about failures: its policy and its rules."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction

from agentflow.agents import registry
from agentflow.errors import InvalidInput, NotFound
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow.definition import parse, pointer
from agentflow.workflow.validation import check

from .rule_models import FailureRule, RecoveryPolicy
from .rules import MAX_RULES, Rule, problems


class NoSuchRule(NotFound):
    """There is no such rule."""


@transaction.atomic
def set_policy(*, by: User, workspace_id: UUID, policy: JSONObject) -> RecoveryPolicy:
    """What holds in a workspace where neither block nor template say anything.

    Raises:
        InvalidInput: it is no `recovery`; every problem is named.
        NotFound, NotPermitted
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    if issues := policy_issues(policy):
        raise InvalidInput("The policy has problems.", issues=issues)
    found, _ = RecoveryPolicy.objects.update_or_create(
        workspace_id=workspace_id, defaults={"policy": policy, "changed_by": by}
    )
    _told("recovery_policy.set", by, workspace_id, str(workspace_id), {"policy": policy})
    return found


def policy_issues(policy: Any) -> list[JSONObject]:
    """What a template would be refused for that says it, with pointers into the policy."""
    at = "/globalSettings/recovery"
    body = {"name": "policy", "blocks": [{"blockId": "any"}], "globalSettings": {"recovery": policy}}
    try:
        definition = parse(body)
    except InvalidInput as error:
        found = error.issues
    else:
        found = [issue.as_json() for issue in check(definition) if issue.severity == "error"]
    return [{**issue, "pointer": str(issue["pointer"]).removeprefix(at)} for issue in found]


@transaction.atomic
def save_rule(*, by: User, rule: FailureRule) -> FailureRule:
    """Add a rule, or change it.

    Raises:
        InvalidInput: its condition is malformed, holds for everything or for nothing that can be computed,
            or contradicts another rule.
        NotFound, NotPermitted
    """
    access.require(by, Permission.ADMINISTER, rule.workspace_id)
    if issues := rule_issues(rule):
        raise InvalidInput("The rule has problems.", issues=issues)
    rule.error, rule.error_at = "", None
    if rule._state.adding:
        rule.created_by = by
    rule.save()
    detail = {"name": rule.name, "condition": rule.condition, "kind": rule.kind, "enabled": rule.enabled}
    _told("failure_rule.set", by, rule.workspace_id, str(rule.pk), detail)
    return rule


def rule_issues(rule: FailureRule) -> list[JSONObject]:
    rows = FailureRule.objects.filter(workspace_id=rule.workspace_id).exclude(pk=rule.pk)
    if rule._state.adding and len(rows) >= MAX_RULES:
        message = f"A workspace has {MAX_RULES} rules at most."
        return [{"code": "too_many_rules", "pointer": "", "message": message, "remedy": "Remove one."}]
    found = problems(as_rule(rule), [as_rule(row) for row in rows if row.enabled]) if rule.enabled else []
    return [
        {"code": code, "pointer": pointer(field), "message": message, "remedy": "Correct the rule."}
        for field, code, message in found
    ]


def as_rule(row: FailureRule) -> Rule:
    return Rule(row.name, row.condition, row.kind, row.code, str(row.pk))


@transaction.atomic
def remove_rule(*, by: User, rule: FailureRule) -> None:
    """Raises:
    NotFound, NotPermitted
    """
    access.require(by, Permission.ADMINISTER, rule.workspace_id)
    _told("failure_rule.remove", by, rule.workspace_id, str(rule.pk), {"name": rule.name})
    rule.delete()


def _told(action: str, by: User, workspace_id: UUID, target: str, detail: JSONObject) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=workspace_id,
        target_type=action.split(".")[0],
        target_id=target,
        detail=detail,
    )
    transaction.on_commit(registry.forget)
