from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentflow.conf import LIMITS
from agentflow.errors import InvalidInput
from agentflow.workflow.definition import HumanInLoop, content_hash, dump
from agentflow.workflow.issues import pointer
from agentflow.workflow.parsing import parse
from tests.work import calls

from .strategies import definitions, json_values


def template(**block: Any) -> dict[str, Any]:
    return {"name": "Refund", "blocks": [{"blockId": "a", **block}]}


def refusal(body: Any) -> list[dict[str, Any]] | None:
    """The issues that a body is refused with; None: it is taken."""
    try:
        parse(body)
    except InvalidInput as refused:
        return refused.issues
    return None


def issues_of(body: Any) -> set[tuple[str, str]]:
    with pytest.raises(InvalidInput) as refused:
        parse(body)
    for issue in refused.value.issues:
        assert issue["severity"] == "error"
        assert issue["message"]
        assert issue["remedy"]
    json.dumps(refused.value.issues).encode()  # can be sent, whatever the body held
    return {(issue["code"], issue["pointer"]) for issue in refused.value.issues}


def test_a_definition_needs_a_name_and_one_named_block_only() -> None:
    definition = parse(template())
    block = definition.blocks[0]
    assert (block.join, block.run_on, block.on_unknown_outcome) == ("merge", "success", "ask")
    assert definition.global_settings.max_parallel_blocks == 10
    assert definition.timeout_of(block) == 300_000
    assert definition.human_of(block) is None


def test_three_attempts_are_the_default() -> None:
    definition = parse(template())
    policy = definition.retry_policy_of(definition.blocks[0])
    assert policy.max_retries == 2
    assert policy.retry_conditions == ("transient", "agent")
    assert (policy.initial_delay, policy.max_delay, policy.multiplier) == (1000, 60_000, 2.0)
    assert policy.jitter
    assert policy.on_exhausted == "ask"


def test_a_blocks_retry_policy_goes_before_the_templates() -> None:
    body = template(retryPolicy={"maxRetries": 5})
    body["blocks"].append({"blockId": "b"})
    body["globalSettings"] = {"defaultRetryPolicy": {"maxRetries": 0}}
    definition = parse(body)
    assert [definition.retry_policy_of(block).max_retries for block in definition.blocks] == [5, 0]


def test_defaults_for_people_are_laid_under_what_a_block_says() -> None:
    body = template(humanInLoop={"title": "Pay?"})
    body["globalSettings"] = {
        "humanInLoopDefaults": {"approvalLevel": "lead", "title": "Go on?", "timeout": 5000}
    }
    human = parse(body).human_of(parse(body).blocks[0])
    assert human == HumanInLoop(approval_level="lead", title="Pay?", timeout=5000)


def test_defaults_for_people_ask_nobody_where_a_block_does_not() -> None:
    body = template()
    body["globalSettings"] = {"humanInLoopDefaults": {"approvalLevel": "lead"}}
    assert parse(body).human_of(parse(body).blocks[0]) is None


def test_a_question_that_is_not_required_is_not_asked() -> None:
    definition = parse(template(humanInLoop={"required": False}))
    assert definition.human_of(definition.blocks[0]) is None


def test_null_means_that_an_optional_field_is_absent() -> None:
    body = template(timeout=None, dependencies=None, join=None, conditions=None)
    body["tags"] = None
    assert parse(body) == parse(template())
    assert content_hash(parse(body)) == content_hash(parse(template()))


def test_null_inside_open_objects_stays() -> None:
    definition = parse(template(configuration={"a": None}, input={"b": [None]}))
    assert dump(definition)["blocks"][0]["configuration"] == {"a": None}
    assert dump(definition)["blocks"][0]["input"] == {"b": [None]}


def test_a_definition_cannot_be_changed() -> None:
    definition = parse(template())
    with pytest.raises(ValidationError):
        definition.name = "other"  # type: ignore[misc]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"blockId": ""}, "too_short", "/blocks/0/blockId"),
    ({"blockId": "x" * 201}, "too_long", "/blocks/0/blockId"),
    ({"blockId": 5}, "wrong_type", "/blocks/0/blockId"),
    ({"block_id": "a"}, "unknown_field", "/blocks/0/block_id"),
    ({"dependencies": "b"}, "wrong_type", "/blocks/0/dependencies"),
    ({"dependencies": [1]}, "wrong_type", "/blocks/0/dependencies/0"),
    ({"dependencies": [None]}, "wrong_type", "/blocks/0/dependencies/0"),
    ({"timeout": "300"}, "wrong_type", "/blocks/0/timeout"),
    ({"timeout": True}, "wrong_type", "/blocks/0/timeout"),
    ({"timeout": 1.0}, "wrong_type", "/blocks/0/timeout"),
    ({"timeout": 0}, "out_of_range", "/blocks/0/timeout"),
    ({"timeout": 10**20}, "out_of_range", "/blocks/0/timeout"),
    ({"toolType": "Shell"}, "unknown_value", "/blocks/0/toolType"),
    ({"join": "some"}, "unknown_value", "/blocks/0/join"),
    ({"join": {"atLeast": True}}, "wrong_type", "/blocks/0/join/atLeast"),
    ({"join": {"atLeast": 0}}, "out_of_range", "/blocks/0/join/atLeast"),
    ({"join": {}}, "missing_field", "/blocks/0/join/atLeast"),
    ({"join": 3}, "wrong_type", "/blocks/0/join"),
    ({"effect": "twice"}, "unknown_value", "/blocks/0/effect"),
    ({"end": "done"}, "unknown_value", "/blocks/0/end"),
    ({"configuration": []}, "wrong_type", "/blocks/0/configuration"),
    ({"configuration": {"a": float("nan")}}, "out_of_range", "/blocks/0/configuration/a"),
    ({"configuration": {"a": [float("inf")]}}, "out_of_range", "/blocks/0/configuration/a/0"),
    ({"configuration": {"a": 10**400}}, "out_of_range", "/blocks/0/configuration/a"),
    ({"input": {"a/b": "x\x00"}}, "invalid_text", "/blocks/0/input/a~1b"),
    ({"input": {"a~b": "\ud800"}}, "invalid_text", "/blocks/0/input/a~0b"),
    ({"input": {"a": {1: 2}}}, "wrong_type", "/blocks/0/input/a"),
    ({"input": {"a": {1, 2}}}, "wrong_type", "/blocks/0/input/a"),
    ({"description": "é" * 40_000}, "too_long", "/blocks/0/description"),
    ({"retryPolicy": {"maxRetries": True}}, "wrong_type", "/blocks/0/retryPolicy/maxRetries"),
    ({"retryPolicy": {"maxRetries": -1}}, "out_of_range", "/blocks/0/retryPolicy/maxRetries"),
    ({"retryPolicy": {"jitter": 1}}, "wrong_type", "/blocks/0/retryPolicy/jitter"),
    ({"retryPolicy": {"backoff": "x"}}, "unknown_field", "/blocks/0/retryPolicy/backoff"),
    ({"humanInLoop": {"approvalLevel": "a b"}}, "wrong_format", "/blocks/0/humanInLoop/approvalLevel"),
    ({"humanInLoop": {"type": "vote"}}, "unknown_value", "/blocks/0/humanInLoop/type"),
    ({"conditions": {"branches": []}}, "missing_field", "/blocks/0/conditions/type"),
    (
        {"conditions": {"type": "if", "branches": [{"nextBlocks": []}]}},
        "missing_field",
        "/blocks/0/conditions/branches/0/condition",
    ),
    ({"wait": {}}, "one_of", "/blocks/0/wait"),
    ({"wait": {"seconds": 1, "event": "x"}}, "one_of", "/blocks/0/wait"),
    ({"repeat": {"until": "true", "maxIterations": True}}, "wrong_type", "/blocks/0/repeat/maxIterations"),
]


@pytest.mark.parametrize(("block", "code", "at"), WRONG, ids=[f"{code}{at}" for _, code, at in WRONG])
def test_a_malformed_field_is_refused_at_its_place(block: dict[str, Any], code: str, at: str) -> None:
    assert (code, at) in issues_of(template(**block))


@pytest.mark.parametrize("body", [None, [], "x", 3, True])
def test_what_is_no_object_is_no_definition(body: Any) -> None:
    assert issues_of(body) == {("wrong_type", "")}


def test_all_problems_are_reported_at_once() -> None:
    body = {
        "name": "",
        "version": 3,
        "blocks": [{"nam": "x"}, {"blockId": "b", "timeout": "1"}],
        "globalSettings": {"maxParallelBlocks": 0},
    }
    assert issues_of(body) == {
        ("too_short", "/name"),
        ("wrong_type", "/version"),
        ("missing_field", "/blocks/0/blockId"),
        ("unknown_field", "/blocks/0/nam"),
        ("wrong_type", "/blocks/1/timeout"),
        ("out_of_range", "/globalSettings/maxParallelBlocks"),
    }


@pytest.mark.parametrize(
    ("field", "meant"),
    [("dependsOn", "dependencies"), ("needs", "dependencies"), ("id", "blockId"), ("agent_id", "agentId")],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(field: str, meant: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(template(**{field: "x"}))
    assert f"'{meant}'" in refused.value.issues[0]["remedy"]


def test_no_blocks_and_too_many_are_refused() -> None:
    assert issues_of({"name": "x", "blocks": []}) == {("too_short", "/blocks")}
    many = [{"blockId": str(i)} for i in range(LIMITS.blocks_per_template + 1)]
    assert issues_of({"name": "x", "blocks": many}) == {("too_long", "/blocks")}


def test_deep_nesting_is_refused_without_a_crash() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(InvalidInput) as refused:
        parse(template(configuration=deep))
    assert [issue["code"] for issue in refused.value.issues] == ["too_deep"]
    while deep:  # taken apart by hand: Python would do it by recursion
        deep = deep.pop("a")


def test_a_flood_of_problems_is_cut_short() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse({"name": "x", "blocks": [{"x": 1} for _ in range(5000)]})
    assert len(refused.value.issues) == 1001
    assert refused.value.issues[-1]["code"] == "more_issues"


@given(st.lists(st.text() | st.integers(0, 99), max_size=4))
def test_a_pointer_leads_back_to_its_place(path: list[str | int]) -> None:
    at = pointer(*path)
    steps = [step.replace("~1", "/").replace("~0", "~") for step in at.split("/")[1:]]
    assert steps == [str(step) for step in path]


@given(definitions())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_valid_definition_survives_a_round_trip(body: dict[str, Any]) -> None:
    before = copy.deepcopy(body)
    definition = parse(body)
    assert body == before
    again = parse(json.loads(json.dumps(dump(definition))))
    assert again == definition
    assert dump(again) == dump(definition)
    assert content_hash(again) == content_hash(definition)


def test_the_hash_does_not_depend_on_how_a_definition_was_written() -> None:
    one = parse(template(configuration={"a": 1.0, "b": 1e3}, timeout=5))
    two = parse(
        {"blocks": [{"timeout": 5, "configuration": {"b": 1000, "a": 1}, "blockId": "a"}], "name": "Refund"}
    )
    assert content_hash(one) == content_hash(two)
    assert content_hash(one) != content_hash(parse(template(configuration={"a": 2, "b": 1000}, timeout=5)))


FIELDS = [
    "name",
    "description",
    "version",
    "tags",
    "metadata",
    "inputSchema",
    "blocks",
    "globalSettings",
    "blockId",
    "agentId",
    "toolType",
    "dependencies",
    "conditions",
    "humanInLoop",
    "retryPolicy",
    "join",
    "when",
    "runOn",
    "forEach",
    "repeat",
    "wait",
    "timeout",
    "effect",
    "checkpoint",
    "priority",
    "end",
    "type",
    "expression",
    "branches",
    "condition",
    "nextBlocks",
    "required",
    "approvalLevel",
    "maxRetries",
]
odd = st.recursive(
    json_values | st.floats() | st.text() | st.integers() | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), odd, max_size=8))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_whatever_is_sent_is_parsed_or_refused_with_issues(body: dict[str, Any]) -> None:
    issues = refusal(body)
    assert issues is None or issues
    json.dumps(issues).encode()


@given(definitions(), st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_one_odd_value_in_a_valid_definition_is_parsed_or_refused_at_its_place(
    body: dict[str, Any], data: Any
) -> None:
    block = data.draw(st.sampled_from(body["blocks"]))
    block[data.draw(st.sampled_from(FIELDS))] = data.draw(odd)
    assert all(issue["pointer"].startswith("/blocks/") for issue in refusal(body) or [])


def test_parsing_costs_as_many_steps_as_there_are_blocks() -> None:
    def steps(size: int) -> int:
        blocks = [
            {
                "blockId": f"task{i}",
                "agentId": "sim.task",
                "configuration": {"simulate": {"runtimeSeconds": 1.5}, "source": {"format": "x"}},
                "dependencies": [f"task{j}" for j in range(max(0, i - 3), i)],
                "join": "all",
            }
            for i in range(size)
        ]
        return calls(lambda: parse({"name": "x", "blocks": blocks}))

    steps(1)
    assert steps(1738) < 11 * steps(174)
