from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentflow.errors import InvalidInput
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import Issue, check
from tests.work import calls

from .strategies import definitions


def review() -> dict[str, Any]:
    """A template without any issue that has something of everything."""
    return {
        "name": "Review a claim",
        "inputSchema": {"type": "object", "properties": {"amount": {"type": "number"}}},
        "blocks": [
            {"blockId": "fetch", "agentId": "orders"},
            {"blockId": "score", "agentId": "risk", "dependencies": ["fetch"]},
            {
                "blockId": "route",
                "dependencies": ["score"],
                "conditions": {
                    "type": "switch",
                    "expression": "blocks.score.output.level",
                    "branches": [
                        {"condition": "high", "nextBlocks": ["ask"]},
                        {"condition": "default", "nextBlocks": ["pay"]},
                    ],
                },
            },
            {"blockId": "ask", "humanInLoop": {"inputSchema": {"type": "object"}}},
            {
                "blockId": "pay",
                "agentId": "bank",
                "dependencies": ["fetch", "ask"],
                "when": "blocks.fetch.output.amount > 0",
                "input": {"amount": "${blocks.fetch.output.amount}", "lines": ["no ${input.number}"]},
            },
            {
                "blockId": "tell",
                "agentId": "mail",
                "dependencies": ["pay", "route"],
                "join": "all",
                "conditions": {
                    "type": "if",
                    "branches": [
                        {"condition": "blocks['tell'].output.sent", "nextBlocks": ["log"]},
                        {"condition": "default", "nextBlocks": ["bounce"]},
                    ],
                },
            },
            {"blockId": "log"},
            {"blockId": "bounce", "end": "failed"},
            {"blockId": "archive", "dependencies": ["log"]},
        ],
    }


FETCH, SCORE, ROUTE, ASK, PAY, TELL, LOG, BOUNCE, ARCHIVE = range(9)


def found(body: dict[str, Any]) -> list[Issue]:
    issues = check(parse(body))
    for issue in issues:
        assert issue.message.endswith(".")
        assert issue.remedy
        assert set(issue.as_json()) == {"severity", "code", "pointer", "message", "remedy"}
    return issues


def refusals(body: dict[str, Any]) -> set[tuple[str, str]]:
    """Code and pointer of all errors, whether found while reading or while checking."""
    try:
        issues = [issue.as_json() for issue in found(body)]
    except InvalidInput as refused:
        issues = refused.issues
    return {(issue["code"], issue["pointer"]) for issue in issues if issue["severity"] == "error"}


def broken(*path: str | int, to: Any) -> dict[str, Any]:
    """The review with one value set; a block's position may be given as the first step."""
    body = review()
    here: Any = body
    steps = ["blocks", *path] if isinstance(path[0], int) else list(path)
    for step in steps[:-1]:
        here = here[step]
    here[steps[-1]] = to
    return body


def test_a_sound_template_has_no_issues() -> None:
    assert found(review()) == []


UNDO = "/blocks/1/compensation"
DEFECTS: list[tuple[dict[str, Any], str, str]] = [
    (broken(SCORE, "compensation", to={}), "missing_field", UNDO),
    (
        broken(SCORE, "compensation", to={"agentId": "u", "onError": "fail"}),
        "unknown_field",
        f"{UNDO}/onError",
    ),
    (
        broken(SCORE, "compensation", to={"agentId": "u", "input": {"x": "${item}"}}),
        "unknown_name",
        f"{UNDO}/input/x",
    ),
    (
        broken(SCORE, "compensation", to={"agentId": "u", "input": {"x": "${blocks.archive.output}"}}),
        "not_upstream",
        f"{UNDO}/input/x",
    ),
    (
        broken(SCORE, "compensation", to={"agentId": "u", "retryPolicy": {"onExhausted": "fail"}}),
        "contradicting_fields",
        f"{UNDO}/retryPolicy/onExhausted",
    ),
    (broken(SCORE, "blockId", to="fetch"), "duplicate_block_id", "/blocks/1/blockId"),
    (
        broken(
            SCORE, to={"blockId": "score", "toolType": "API", "configuration": {"callback": {"timeout": 0}}}
        ),
        "bad_callback",
        "/blocks/1/configuration/callback/timeout",
    ),
    (
        broken(SCORE, to={"blockId": "score", "agentPatience": 1000}),
        "contradicting_fields",
        "/blocks/1/agentPatience",
    ),
    (broken(SCORE, "agentPatience", to=0), "out_of_range", "/blocks/1/agentPatience"),
    (broken(SCORE, "dependencies", to=["fetsh"]), "unknown_dependency", "/blocks/1/dependencies/0"),
    (broken(SCORE, "dependencies", to=["fetch", "score"]), "self_dependency", "/blocks/1/dependencies/1"),
    (broken(FETCH, "dependencies", to=["score"]), "cycle", "/blocks/0/dependencies/0"),
    (broken(FETCH, "dependencies", to=["archive"]), "cycle", "/blocks/0/dependencies/0"),
    (
        broken(
            LOG,
            "conditions",
            to={"type": "if", "branches": [{"condition": "default", "nextBlocks": ["fetch"]}]},
        ),
        "contradicting_branch",
        "/blocks/6/conditions/branches/0/nextBlocks/0",
    ),
    (
        broken(ROUTE, "conditions", "branches", 0, "nextBlocks", to=["route"]),
        "contradicting_branch",
        "/blocks/2/conditions/branches/0/nextBlocks/0",
    ),
    (
        broken(ROUTE, "conditions", "branches", 0, "nextBlocks", to=["ask", "aks"]),
        "unknown_block",
        "/blocks/2/conditions/branches/0/nextBlocks/1",
    ),
    (
        broken(TELL, "conditions", "branches", 0, "condition", to="1 +"),
        "syntax_error",
        "/blocks/5/conditions/branches/0/condition",
    ),
    (broken(PAY, "when", to="blocks.fetch.output >"), "syntax_error", "/blocks/4/when"),
    (broken(PAY, "when", to="inputs.amount > 0"), "unknown_name", "/blocks/4/when"),
    (broken(PAY, "when", to="item > 0"), "unknown_name", "/blocks/4/when"),
    (broken(PAY, "when", to="'a'.matches('a')"), "unknown_function", "/blocks/4/when"),
    (broken(PAY, "when", to="blocks[input.x].output"), "computed_block_reference", "/blocks/4/when"),
    (broken(PAY, "when", to="blocks.gone.output"), "unknown_block_reference", "/blocks/4/when"),
    (broken(PAY, "when", to="blocks.pay.output"), "not_upstream", "/blocks/4/when"),
    (broken(PAY, "when", to="blocks.archive.output"), "not_upstream", "/blocks/4/when"),
    (broken(PAY, "input", to={"a/b": ["x", "${foo}"]}), "unknown_name", "/blocks/4/input/a~1b/1"),
    (broken(PAY, "input", to={"a": "${blocks.tell.output}"}), "not_upstream", "/blocks/4/input/a"),
    (broken(PAY, "input", to={"a": "${"}), "syntax_error", "/blocks/4/input/a"),
    (
        broken(ROUTE, "conditions", "expression", to=None),
        "missing_expression",
        "/blocks/2/conditions/expression",
    ),
    (broken(ROUTE, "conditions", "expression", to=" "), "syntax_error", "/blocks/2/conditions/expression"),
    (
        broken(ROUTE, "conditions", "expression", to="blocks.ask.output"),
        "not_upstream",
        "/blocks/2/conditions/expression",
    ),
    (broken(ROUTE, "conditions", "branches", to=[]), "missing_branches", "/blocks/2/conditions/branches"),
    (
        broken(ROUTE, "conditions", "branches", 1, "condition", to="high"),
        "duplicate_condition",
        "/blocks/2/conditions/branches/1/condition",
    ),
    (
        broken(TELL, "conditions", "branches", 1, "condition", to="blocks['tell'].output.sent"),
        "duplicate_condition",
        "/blocks/5/conditions/branches/1/condition",
    ),
    (
        broken(
            TELL, "conditions", to={"type": "if", "expression": "true", "branches": [{"condition": "true"}]}
        ),
        "unused_expression",
        "/blocks/5/conditions/expression",
    ),
    (broken(PAY, "join", to="all"), "unreachable_block", "/blocks/4"),
    (broken(ARCHIVE, "dependencies", to=["bounce"]), "unreachable_block", "/blocks/8"),
    (broken("inputSchema", to={"type": "objekt"}), "invalid_schema", "/inputSchema/type"),
    (
        broken(ASK, "humanInLoop", "inputSchema", to={"properties": {"a": {"$ref": "https://x.example/s"}}}),
        "external_reference",
        "/blocks/3/humanInLoop/inputSchema/properties/a/$ref",
    ),
    (broken("inputSchema", to={"$ref": "#/$defs/no"}), "broken_reference", "/inputSchema/$ref"),
    (broken("inputSchema", to={"$ref": "#"}), "broken_reference", "/inputSchema/$ref"),
    (broken("inputSchema", to={"pattern": "("}), "invalid_schema", "/inputSchema/pattern"),
    (
        broken("globalSettings", to={"maxParallelBlocks": 0}),
        "out_of_range",
        "/globalSettings/maxParallelBlocks",
    ),
    (broken("blocks", to=[]), "too_short", "/blocks"),
    (broken("name", to=None), "missing_field", "/name"),
    (broken(PAY, "blockId", to="x" * 201), "too_long", "/blocks/4/blockId"),
    (broken(PAY, "when", to="'" + "x" * 5000 + "'"), "expression_too_long", "/blocks/4/when"),
    (broken(PAY, "retries", to=1), "unknown_field", "/blocks/4/retries"),
]


@pytest.mark.parametrize(("body", "code", "at"), DEFECTS, ids=[f"{code}{at}"[:80] for _, code, at in DEFECTS])
def test_one_defect_is_refused_at_its_place(body: dict[str, Any], code: str, at: str) -> None:
    assert (code, at) in refusals(body)


def test_a_compensation_may_name_its_own_block_and_must_not_share_its_name() -> None:
    body = broken(SCORE, "compensation", to={"agentId": "u", "input": {"x": "${blocks.score.output}"}})
    assert found(body) == []
    body["blocks"][0]["blockId"] = "score:compensation"
    assert ("duplicate_block_id", UNDO) in refusals(body)


PEOPLE: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "edit", "quorum": 2}, "contradicting_fields", "quorum"),
    ({"type": "input", "quorum": "all"}, "contradicting_fields", "quorum"),
    ({"type": "input", "onTimeout": "approve"}, "contradicting_fields", "onTimeout"),
    ({"approvalLevel": "x", "levels": [{"level": "y"}]}, "contradicting_fields", "levels"),
    ({"assignees": {"expression": "nope.x"}}, "unknown_name", "assignees/expression"),
    ({"assignees": {"expression": "item.owner"}}, "unknown_name", "assignees/expression"),
    (
        {"levels": [{"assignees": {"expression": "blocks.pay.output"}}]},
        "not_upstream",
        "levels/0/assignees/expression",
    ),
]


@pytest.mark.parametrize(("fields", "code", "at"), PEOPLE)
def test_a_question_that_nobody_could_answer_so_is_refused(
    fields: dict[str, Any], code: str, at: str
) -> None:
    body = review()
    body["blocks"][PAY]["humanInLoop"] = fields
    assert refusals(body) == {(code, f"/blocks/{PAY}/humanInLoop/{at}")}


@pytest.mark.parametrize(
    "fields",
    [
        {"join": "merge", "runOn": "success", "onError": "fail", "checkpoint": False, "priority": 0},
        {"humanInLoop": {"type": "review", "required": False}},
        {"capabilities": ["sums"]},
        {"agentId": None, "capabilities": ["sums"]},
        {"forEach": {"items": "[1]"}},
        {"checkpoint": True},
        {"repeat": {"until": "index == 1", "maxIterations": 3}},
        {"join": "any"},
        {"join": {"atLeast": 1}},
        {"runOn": "failure"},
        {"runOn": "always", "onError": "continue", "priority": 5},
        {"wait": {"seconds": 5}},
        {"wait": {"until": "2026-12-24T18:00:00Z"}},
        {"wait": {"until": "input.when"}},
        {"wait": {"event": "paid"}},
        {"wait": {"event": "paid", "correlation": "input.order"}, "input": {"sum": "${event.payload.sum}"}},
        {"timeout": 5, "effect": "once", "onUnknownOutcome": "fail", "retryPolicy": {"maxRetries": 0}},
    ],
)
def test_what_can_be_executed_is_no_issue(fields: dict[str, Any]) -> None:
    body = review()
    body["blocks"][PAY].update(fields)
    assert found(body) == []


def test_all_issues_are_found_at_once_and_in_order() -> None:
    body = review()
    body["blocks"][SCORE]["dependencies"] = ["fetsh"]
    body["blocks"][ROUTE]["conditions"]["branches"][1]["nextBlocks"] = ["pay", "gone"]
    body["blocks"][PAY]["when"] = "nope"
    body["blocks"][TELL]["humanInLoop"] = {"type": "edit", "quorum": 2}
    body["blocks"][LOG]["dependencies"] = ["archive"]
    codes = [(issue.code, issue.pointer) for issue in found(body)]
    assert codes[0] == ("unknown_dependency", "/blocks/1/dependencies/0")
    assert {code for code, _ in codes} == {
        "unknown_dependency",
        "unknown_block",
        "unknown_name",
        "contradicting_fields",
        "cycle",
    }
    assert [int(at.split("/")[2]) for _, at in codes] == sorted(int(at.split("/")[2]) for _, at in codes)


def test_a_cycle_names_its_blocks_in_order() -> None:
    body = {
        "name": "x",
        "blocks": [
            {"blockId": "a", "dependencies": ["c"]},
            {"blockId": "b", "dependencies": ["a"]},
            {"blockId": "c", "dependencies": ["b"]},
            {"blockId": "after", "dependencies": ["c"]},
        ],
    }
    (issue,) = found(body)
    assert (issue.code, issue.pointer) == ("cycle", "/blocks/0/dependencies/0")
    assert "pattern 10, arbitrary cycles" in issue.message
    assert "a -> b -> c -> a" in issue.message


def test_each_knot_of_cycles_is_reported() -> None:
    body = {
        "name": "x",
        "blocks": [{"blockId": n, "dependencies": [d]} for n, d in ("ab", "ba", "cd", "dc")],
    }
    assert [issue.code for issue in found(body)] == ["cycle", "cycle"]


def test_a_cycle_over_branches_only_points_at_the_branch() -> None:
    def choose(name: str, then: str) -> dict[str, Any]:
        branches = [{"condition": "default", "nextBlocks": [then]}]
        return {"blockId": name, "conditions": {"type": "if", "branches": branches}}

    issues = found({"name": "x", "blocks": [choose("a", "b"), choose("b", "a")]})
    assert ("cycle", "/blocks/1/conditions/branches/0/nextBlocks/0") in {(i.code, i.pointer) for i in issues}


def test_misspelt_blocks_come_with_the_one_that_was_meant() -> None:
    (issue,) = found(broken(SCORE, "dependencies", to=["Fetch"]))
    assert "'fetch'" in issue.remedy


def exclusive(join: str, kind: str = "switch") -> dict[str, Any]:
    conditions: dict[str, Any] = {
        "type": kind,
        "branches": [
            {"condition": "a" if kind == "switch" else "input.a", "nextBlocks": ["left"]},
            {"condition": "default", "nextBlocks": ["right"]},
        ],
    }
    if kind == "switch":
        conditions["expression"] = "input.kind"
    return {
        "name": "x",
        "blocks": [
            {"blockId": "choose", "conditions": conditions},
            {"blockId": "left"},
            {"blockId": "right"},
            {"blockId": "further", "dependencies": ["left"]},
            {"blockId": "meet", "dependencies": ["further", "right"], "join": join},
            {"blockId": "after", "dependencies": ["meet"]},
        ],
    }


@pytest.mark.parametrize("kind", ["switch", "if"])
def test_a_join_of_all_over_branches_that_exclude_each_other_can_never_run(kind: str) -> None:
    (issue,) = found(exclusive("all", kind))
    assert (issue.code, issue.pointer) == ("unreachable_block", "/blocks/4")
    assert "'choose'" in issue.message


@pytest.mark.parametrize(("join", "kind"), [("merge", "switch"), ("merge", "if"), ("all", "inclusive")])
def test_a_join_that_some_choice_lets_run_is_no_issue(join: str, kind: str) -> None:
    assert found(exclusive(join, kind)) == []


def test_a_join_of_all_within_one_branch_is_no_issue() -> None:
    body = exclusive("all")
    body["blocks"][0]["conditions"]["branches"][0]["nextBlocks"] = ["left", "right"]
    assert found(body) == []


def test_a_tool_that_nobody_names_hinders_only_the_start() -> None:
    body = broken(PAY, "toolType", to="MCP")
    body["blocks"][PAY]["agentId"] = None
    (issue,) = found(body)
    assert (issue.severity, issue.code, issue.pointer) == ("start", "missing_tool", "/blocks/4/toolType")
    body["blocks"][PAY]["configuration"] = {"server": "policies", "tool": "lookup"}
    assert found(body) == []


def test_an_agent_type_without_an_agent_hinders_only_the_start() -> None:
    body = broken(PAY, "agentType", to="payer")
    body["blocks"][PAY]["agentId"] = None
    assert [(i.severity, i.code) for i in found(body)] == [("start", "missing_agent")]


def test_what_is_only_odd_is_a_warning() -> None:
    body = broken(PAY, "dependencies", to=["fetch", "ask", "ask"])
    body["blocks"][PAY]["retryPolicy"] = {"retryConditions": ["OnFailure"]}
    body["blocks"][TELL]["conditions"]["expression"] = "input.x"
    assert {(i.severity, i.code) for i in found(body)} == {
        ("warning", "duplicate_dependency"),
        ("warning", "unknown_retry_condition"),
        ("warning", "unused_expression"),
    }


@given(definitions())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_generated_valid_definition_has_no_error(body: dict[str, Any]) -> None:
    assert [issue for issue in found(body) if issue.severity == "error"] == []


@given(definitions(), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_graph_of_dependencies_is_refused_exactly_when_it_has_a_cycle(
    body: dict[str, Any], data: st.DataObject
) -> None:
    names = [block["blockId"] for block in body["blocks"]]
    for block in body["blocks"]:
        block.pop("conditions", None)
        others = [name for name in names if name != block["blockId"]]
        if others:
            block["dependencies"] = data.draw(st.lists(st.sampled_from(others), max_size=2, unique=True))
    waits = {block["blockId"]: set(block.get("dependencies", ())) for block in body["blocks"]}
    while free := [name for name, dependencies in waits.items() if not dependencies & set(waits)]:
        for name in free:
            del waits[name]
    assert ("cycle" in {issue.code for issue in found(body)}) is bool(waits)


def test_checking_changes_nothing() -> None:
    body = review()
    before = copy.deepcopy(body)
    check(parse(body))
    assert body == before


def chain_with_conditions(size: int) -> list[dict[str, Any]]:
    return [
        {
            "blockId": f"task{i}",
            "agentId": "sim.task",
            "dependencies": [f"task{j}" for j in range(max(0, i - 3), i)],
            "join": "all",
            "when": f"blocks['task{i - 1}'].output.ok" if i else "true",
        }
        for i in range(size)
    ]


def ring(size: int) -> list[dict[str, Any]]:
    return [{"blockId": str(i), "dependencies": [str((i - 1) % size)]} for i in range(size)]


def chain_of_choices(size: int) -> list[dict[str, Any]]:
    def branch(i: int) -> dict[str, Any]:
        return {"condition": "default", "nextBlocks": [str(i + 1)] if i < size - 1 else []}

    return [{"blockId": str(i), "conditions": {"type": "if", "branches": [branch(i)]}} for i in range(size)]


@pytest.mark.parametrize("shape", [chain_with_conditions, ring, chain_of_choices])
def test_checking_costs_as_many_steps_as_there_are_blocks(
    shape: Callable[[int], list[dict[str, Any]]],
) -> None:
    def steps(size: int) -> int:
        definition = parse({"name": "x", "blocks": shape(size)})
        check(definition)  # expressions are compiled once and kept
        return calls(lambda: check(definition))

    assert steps(4000) < 11 * steps(400)
