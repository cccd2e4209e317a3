"""A workspace's rules for what kind of failure something is, and its policy."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.agents import registry
from agentflow.errors import InvalidInput, NotPermitted
from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from agentflow.workflow.failures import Failure, FailureKind
from executions.models import Execution
from executions.recovery import policing
from executions.recovery.rule_models import FailureRule
from executions.recovery.rules import Rule, classify, problems, shadows
from tests.executions.conftest import Start, block, drain, row, template
from tests.factories.executions import statuses
from tests.factories.governance import UserFactory
from tests.work import calls

QUOTA = "failure.code == 'http_403' && failure.message.contains('quota')"
FORBIDDEN = Failure(FailureKind.CONFIGURATION, "http_403", "Over quota.", evidence={"status": 403})


def classified(failure: Failure, *rules: Rule) -> Any:
    return classify(failure, rules, block="a", template="t", agent="risk")


def test_the_first_rule_that_holds_says_what_it_is() -> None:
    found = classified(
        FORBIDDEN.__class__(FailureKind.CONFIGURATION, "http_403", "The quota is used up."),
        Rule("other", "failure.code == 'x'", "critical"),
        Rule("quota", QUOTA, "transient", "quota"),
        Rule("late", "failure.code == 'http_403'", "critical"),
    )
    assert (found.failure.kind, found.failure.code, found.rule) == ("transient", "quota", "quota")


def test_a_rule_that_throws_is_passed_over_and_named() -> None:
    throws = Rule("throws", "failure.message > 3", "critical")
    found = classified(FORBIDDEN, throws, Rule("status", "failure.evidence.status == 403", "agent"))
    assert (found.failure.kind, found.rule) == ("agent", "status")
    assert [rule.name for rule, _ in found.broken] == ["throws"]


@pytest.mark.parametrize("code", ["worker_lost", "poison"])
def test_no_rule_makes_anything_else_of_a_workers_end(code: str) -> None:
    failure = Failure(FailureKind.TRANSIENT, code, "Gone.", outcome_unknown=True)
    assert classified(failure, Rule("all", "failure.kind == 'transient'", "critical")).failure == failure


def test_a_rule_never_says_whether_the_outcome_is_known() -> None:
    failure = Failure(FailureKind.TRANSIENT, "http_502", "Bad gateway.", outcome_unknown=True)
    found = classified(failure, Rule("gateway", "failure.code == 'http_502'", "agent"))
    assert (found.failure.kind, found.failure.outcome_unknown) == ("agent", True)


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("true", "matches_everything"),
        ("failure.code != 'nonsense'", "matches_everything"),
        ("failure.message.matches('x')", "unknown_function"),
        ("failure.message > 3", "always_throws"),
        ("failure.code ==", "syntax_error"),
        ("blocks.a.output", "unknown_name"),
        (" failure.code=='http_404' ", "contradicting_rules"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(condition: str, code: str) -> None:
    before = [Rule("not found", "failure.code == 'http_404'", "agent")]
    assert [found for _, found, _ in problems(Rule("new", condition, "transient"), before)] == [code]


def test_rules_that_take_failures_from_each_other_are_shown() -> None:
    rules = [
        Rule("client", "failure.code.startsWith('http_4')", "agent"),
        Rule("forbidden", "failure.code == 'http_403'", "transient"),
        Rule("refused", "failure.code == 'llm_refused'", "transient"),
    ]
    assert shadows(rules) == {"forbidden": "client"}


def test_classifying_is_little_work() -> None:
    rules = tuple(Rule(f"r{n}", f"failure.code == 'c{n}'", "agent") for n in range(10))
    classified(FORBIDDEN, *rules)  # compiled once
    assert calls(lambda: classified(FORBIDDEN, *rules)) < 10 * 60


# -- in the engine --------------------------------------------------------------------


def add(execution: Execution, by: User, condition: str, kind: str) -> FailureRule:
    rule = FailureRule(
        workspace_id=execution.workspace_id, name=condition[:50], condition=condition, kind=kind
    )
    return policing.save_rule(by=by, rule=rule)


@pytest.fixture(autouse=True)
def fresh() -> None:
    registry.forget()


def test_a_rule_changes_what_is_done_and_the_attempt_names_it(start: Start, author: User) -> None:
    execution = start(template(block("a", agentId="test.crash")))
    add(execution, author, "failure.code == 'agent_crashed' && block == 'a'", "critical")
    drain(execution)
    assert statuses(execution) == {"a": "failed"}
    error = row(execution, "a").error or {}
    assert (error["kind"], error["recovery"]["rule"]) == (
        "critical",
        "failure.code == 'agent_crashed' && block == 'a'",
    )
    assert AuditEntry.objects.filter(action="failure_rule.set").exists()


def test_a_rule_that_throws_is_shown_where_it_is_kept_and_blocks_nothing(start: Start, author: User) -> None:
    execution = start(template(block("a", agentId="test.crash", retryPolicy={"maxRetries": 0})))
    rule = add(execution, author, "failure.code == 'agent_crashed' && int(failure.message) == 3", "critical")
    drain(execution)
    assert statuses(execution) == {"a": "waiting_human"}
    rule.refresh_from_db()
    assert rule.error


def test_rules_that_got_past_the_checks_are_passed_over_or_count_in_their_order(
    start: Start, author: User
) -> None:
    execution = start(template(block("a", agentId="test.crash")))
    conditions = ["failure.code ==", "blocks.a.output", "failure.message", "1 / 0 == 1", "true", "true"]
    for place, condition in enumerate(conditions):  # as a restore or an older version may leave them
        FailureRule.objects.create(
            workspace=execution.workspace,
            name=f"rule {place}",
            place=place,
            condition=condition,
            kind="critical" if place < len(conditions) - 1 else "transient",
        )
    drain(execution)
    assert statuses(execution) == {"a": "failed"}
    assert (row(execution, "a").error or {})["recovery"]["rule"] == "rule 4"
    broken = FailureRule.objects.exclude(error="").order_by("place").values_list("name", flat=True)
    assert list(broken) == ["rule 0", "rule 1", "rule 2", "rule 3"]


def test_the_workspaces_policy_counts_where_nothing_else_is_said(start: Start, author: User) -> None:
    silent, own = (
        start(template(block("a", agentId="test.crash", **fields)))
        for fields in ({}, {"recovery": {"agent": ["ask"]}})
    )
    policing.set_policy(by=author, workspace_id=silent.workspace_id, policy={"agent": ["fail"]})
    for execution in (silent, own):
        drain(execution)
    assert (statuses(silent), statuses(own)) == ({"a": "failed"}, {"a": "waiting_human"})


@pytest.mark.parametrize(
    ("policy", "at"),
    [
        ({"agent": ["ask", "retry"]}, "/agent/1"),
        ({"agent": ["dance"]}, "/agent/0"),
        ({"unknownOutcome": ["retry"]}, "/unknownOutcome/0"),
        ({"alternatives": ["b"]}, "/alternatives"),
        ({"dance": []}, "/dance"),
        ([], ""),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_the_place(
    start: Start, author: User, policy: Any, at: str
) -> None:
    assert [issue["pointer"] for issue in policing.policy_issues(policy)] == [at]


def test_only_administrators_say_what_failures_are(start: Start, author: User) -> None:
    execution = start(template(block("a")))
    operator = UserFactory.create()
    grant(user=operator, role=Role.OPERATOR, workspace=execution.workspace, by=None)
    with pytest.raises(NotPermitted):
        add(execution, operator, "failure.code == 'x'", "agent")
    with pytest.raises(InvalidInput):
        add(execution, author, "true", "agent")


# -- in the admin ---------------------------------------------------------------------


def test_rules_and_policies_are_written_in_the_admin_and_bad_ones_are_refused_there(
    start: Start, author: User, client: Any
) -> None:
    workspace = start(template(block("a"))).workspace
    User.objects.filter(pk=author.pk).update(is_staff=True)
    client.force_login(author)
    rules, policies = "/admin/executions/failurerule/", "/admin/executions/recoverypolicy/"
    form = {"workspace": str(workspace.pk), "name": "all", "place": "0", "kind": "agent", "enabled": "on"}
    refused = client.post(f"{rules}add/", {**form, "condition": "true"})
    assert "It holds for every failure" in refused.content.decode()
    assert client.post(f"{rules}add/", {**form, "condition": "failure.code == 'http_404'"}).status_code == 302
    second = {**form, "name": "later", "kind": "critical", "condition": "failure.code.startsWith('http_40')"}
    assert client.post(f"{rules}add/", second).status_code == 302
    assert "Some of its failures go to" in client.get(rules).content.decode()
    bad = client.post(f"{policies}add/", {"workspace": str(workspace.pk), "policy": '{"agent": ["dance"]}'})
    assert "/agent/0" in bad.content.decode()
    good = client.post(f"{policies}add/", {"workspace": str(workspace.pk), "policy": '{"agent": ["ask"]}'})
    assert good.status_code == 302
    assert client.get(policies).status_code == 200
