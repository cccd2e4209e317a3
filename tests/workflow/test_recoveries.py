"""What may be said about recovery, and what is refused with its place."""

from __future__ import annotations

import pytest

from agentflow.errors import InvalidInput
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check


def template(recovery: JSONObject, **block: object) -> JSONObject:
    return {"name": "t", "blocks": [{"blockId": "a", "agentId": "x", "recovery": recovery, **block}]}


def found(body: JSONObject) -> list[tuple[str, str, str]]:
    return [(issue.severity, issue.code, issue.pointer) for issue in check(parse(body))]


@pytest.mark.parametrize(
    ("recovery", "expected"),
    [
        ({"agent": ["ask", "retry"]}, ("error", "unreachable_strategy", "/blocks/0/recovery/agent/1")),
        ({"agent": ["retry", "retry"]}, ("error", "duplicate_strategy", "/blocks/0/recovery/agent/1")),
        ({"agent": ["reassign"]}, ("error", "no_alternatives", "/blocks/0/recovery/agent/0")),
        ({"alternatives": ["x"]}, ("error", "duplicate_agent", "/blocks/0/recovery/alternatives/0")),
        ({"alternatives": ["y", "y"]}, ("error", "duplicate_agent", "/blocks/0/recovery/alternatives")),
        ({"critical": ["compensate"]}, ("warning", "nothing_to_compensate", "/blocks/0/recovery/critical/0")),
    ],
)
def test_a_rung_that_makes_no_sense_is_named(recovery: JSONObject, expected: tuple[str, str, str]) -> None:
    assert found(template(recovery)) == [expected]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            template({"unknownOutcome": ["ask"]}, onUnknownOutcome="fail"),
            ("error", "contradicting_fields", "/blocks/0/recovery/unknownOutcome"),
        ),
        (
            template({"agent": ["retry"]}, retryPolicy={"maxRetries": 0}),
            ("warning", "never_retried", "/blocks/0/recovery/agent/0"),
        ),
        (
            {"name": "t", "blocks": [{"blockId": "a", "recovery": {"agent": ["ask"]}}]},
            ("error", "contradicting_fields", "/blocks/0/recovery"),
        ),
        (
            {
                "name": "t",
                "blocks": [{"blockId": "a", "agentId": "x"}],
                "globalSettings": {"recovery": {"alternatives": ["y"]}},
            },
            ("error", "contradicting_fields", "/globalSettings/recovery/alternatives"),
        ),
    ],
)
def test_what_contradicts_is_named(body: JSONObject, expected: tuple[str, str, str]) -> None:
    assert expected in found(body)


@pytest.mark.parametrize("rung", ["retry", "reassign", "queue", "restart"])
def test_no_ladder_may_repeat_what_may_have_happened(rung: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(template({"unknownOutcome": [rung]}))
    assert refused.value.issues[0]["pointer"] == "/blocks/0/recovery/unknownOutcome/0"


def test_a_sound_policy_has_no_issue() -> None:
    recovery = {
        "transient": ["retry", "reassign", "queue", "ask"],
        "agent": ["reassign", "restart", "fail"],
        "configuration": ["ask"],
        "alternatives": ["y", "z"],
        "maxReassignments": 2,
        "maxRestarts": 1,
        "queueFor": 60_000,
    }
    assert found(template(recovery)) == []


def test_a_misspelt_field_is_named_with_what_was_meant() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(template({"maxRestart": 1}))
    (issue,) = refused.value.issues
    assert issue["pointer"] == "/blocks/0/recovery/maxRestart"
    assert "maxRestarts" in issue["message"] + issue["remedy"]
