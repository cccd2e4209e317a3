"""Writing what a workspace says about failures: its policy and its rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from agentflow.agents import registry
from agentflow.errors import InvalidInput, NotFound
from agentflow.governance import access, audit
from agentflow.governance.access import Principal
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow.issues import pointer
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check

from .rule_models import FailureRule, RecoveryPolicy
from .rules import MAX_RULES, Rule, problems, shadows


@transaction.atomic
def set_policy(*, by: User, workspace_id: UUID, policy: JSONObject) -> RecoveryPolicy:
    """What holds in a workspace where neither block nor template say anything.

    Raises:
        InvalidInput: it is no `recovery`; every problem is named.
        NotFound, NotPermitted
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    if issues := policy_issues(policy):
        within = [{**issue, "pointer": f"/policy{issue['pointer']}"} for issue in issues]
        raise InvalidInput("The policy has problems.", issues=within)
    found, _ = RecoveryPolicy.objects.update_or_create(
        workspace_id=workspace_id, defaults={"policy": policy, "changed_by": by}
    )
    _told("recovery_policy.set", by, workspace_id, str(workspace_id), {"policy": policy})
    return found


@transaction.atomic
def remove_policy(*, by: User, workspace_id: UUID) -> None:
    """Say nothing any more; where there is no policy, nothing is done.

    Raises:
        NotFound, NotPermitted
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    if RecoveryPolicy.objects.filter(workspace=workspace_id).delete()[0]:
        _told("recovery_policy.remove", by, workspace_id, str(workspace_id), {})


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
def save_rule(*, by: User, rule: FailureRule, last: bool = False) -> FailureRule:
    """Add a rule, or change it; `last`: behind all others.

    Raises:
        InvalidInput: its condition is malformed, holds for everything or for nothing that can be computed,
            or contradicts another rule.
        NotFound, NotPermitted
    """
    _hold(by, rule.workspace_id)
    if issues := rule_issues(rule):
        raise InvalidInput("The rule has problems.", issues=issues)
    rule.error, rule.error_at = "", None
    if rule._state.adding:
        rule.created_by = by
        if last:
            rule.place = 1 + max((row.place for row in _rules(rule.workspace_id)), default=0)
    rule.save()
    detail = {"name": rule.name, "condition": rule.condition, "kind": rule.kind, "enabled": rule.enabled}
    _told("failure_rule.set", by, rule.workspace_id, str(rule.pk), detail)
    return rule


def rule_issues(rule: FailureRule) -> list[JSONObject]:
    rows = [row for row in _rules(rule.workspace_id) if row.pk != rule.pk]
    if rule._state.adding and len(rows) >= MAX_RULES:
        message = f"A workspace has {MAX_RULES} rules at most."
        return [_issue("", "too_many_rules", message, "Remove one.")]
    found = problems(as_rule(rule), [as_rule(row) for row in rows if row.enabled]) if rule.enabled else []
    if any(row.name == rule.name for row in rows):
        found = [("name", "name_taken", f"Another rule is called {rule.name!r}."), *found]
    return [_issue(pointer(field), code, message, "Correct the rule.") for field, code, message in found]


def as_rule(row: FailureRule) -> Rule:
    return Rule(row.name, row.condition, row.kind, row.code, str(row.pk))


@transaction.atomic
def order_rules(*, by: User, workspace_id: UUID, order: Sequence[UUID]) -> None:
    """Let the rules be tried in this order.

    Raises:
        InvalidInput: these are not the workspace's rules, each once.
        NotFound, NotPermitted
    """
    _hold(by, workspace_id)
    rules = {rule.pk: rule for rule in _rules(workspace_id)}
    if issues := _order_issues(order, rules):
        raise InvalidInput("The order does not name each rule once.", issues=issues)
    for place, pk in enumerate(order, start=1):
        rules[pk].place = place
    FailureRule.objects.bulk_update(rules.values(), ["place"])
    _told(
        "failure_rule.order", by, workspace_id, str(workspace_id), {"order": [rules[pk].name for pk in order]}
    )


def _order_issues(order: Sequence[UUID], rules: Iterable[UUID]) -> list[JSONObject]:
    left, issues = set(rules), list[JSONObject]()
    for place, pk in enumerate(order):
        if pk not in left:
            said = "named_twice" if pk in order[:place] else "unknown_rule"
            message = "It was named before." if said == "named_twice" else "The workspace has no such rule."
            issues.append(_issue(pointer("rules", place), said, message, "Name each rule once."))
        left.discard(pk)
    if left:
        message = f"{len(left)} of the workspace's rules {'is' if len(left) == 1 else 'are'} not named."
        issues.append(_issue("/rules", "rules_missing", message, "Name each rule once."))
    return issues


def _issue(at: str, code: str, message: str, remedy: str) -> JSONObject:
    return {"code": code, "pointer": at, "message": message, "remedy": remedy}


@transaction.atomic
def remove_rule(*, by: User, rule: FailureRule) -> None:
    """Raises:
    NotFound, NotPermitted
    """
    access.require(by, Permission.ADMINISTER, rule.workspace_id)
    _told("failure_rule.remove", by, rule.workspace_id, str(rule.pk), {"name": rule.name})
    rule.delete()


def _hold(by: User, workspace_id: UUID) -> None:
    """Let nobody else write the workspace's rules until the commit: two could contradict each other."""
    access.require(by, Permission.ADMINISTER, workspace_id)
    Workspace.objects.select_for_update(no_key=True).get(pk=workspace_id)


def _rules(workspace_id: UUID) -> QuerySet[FailureRule]:
    return FailureRule.objects.filter(workspace=workspace_id)


# -- reads ---------------------------------------------------------------------


def rules(user: Principal) -> QuerySet[FailureRule]:
    """The rules that `user` may see, in the order in which they are tried."""
    rows = FailureRule.objects.visible_to(user).select_related("created_by")
    return rows.order_by("workspace", "place", "created_at")


def find_rule(user: Principal, pk: UUID) -> FailureRule:
    """Raises NotFound: there is none, or `user` may not see it."""
    rule = rules(user).filter(pk=pk).first()
    if rule is None:
        raise NotFound("There is no such rule.", rule_id=str(pk))
    return rule


def policies(user: Principal) -> QuerySet[RecoveryPolicy]:
    return RecoveryPolicy.objects.visible_to(user).select_related("changed_by").order_by("workspace")


def shadowed(shown: Iterable[FailureRule]) -> dict[UUID, str]:
    """Rules of which an earlier one of their workspace takes some failures: its name."""
    by_workspace: dict[UUID, list[FailureRule]] = {}
    workspaces = {rule.workspace_id for rule in shown}
    for row in FailureRule.objects.filter(workspace__in=workspaces, enabled=True):
        by_workspace.setdefault(row.workspace_id, []).append(row)
    found: dict[UUID, str] = {}
    for rows in by_workspace.values():
        names = shadows([as_rule(row) for row in rows])
        found.update({row.pk: names[row.name] for row in rows if row.name in names})
    return found


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
