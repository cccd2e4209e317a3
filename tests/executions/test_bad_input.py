"""What asks too much has a stated answer: docs/engine.md, Limits and refusals."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentflow.conf import LIMITS, MB
from agentflow.errors import InvalidInput
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check
from executions.models import BlockExecution
from tests.factories.executions import statuses

from .conftest import Start, block, row, template

ROOT = Path(__file__).parents[2]
EACH = template(block("a", forEach={"items": "input.items"}, input={"n": "${index}"}))


def issues(body: JSONObject) -> list[tuple[str, str]]:
    try:
        found = [issue.as_json() for issue in check(parse(body))]
    except InvalidInput as refused:
        found = refused.issues
    return [(issue["pointer"], issue["code"]) for issue in found]


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ({"a": 1}, "not_a_list"),
        ("text", "not_a_list"),
        (None, "not_a_list"),
        ([0] * (LIMITS.items_per_block + 1), "too_many_items"),
        ([0] * 100_000, "input_too_large"),
        (["x" * MB], "input_too_large"),
    ],
    ids=["object", "text", "null", "10,001 items", "100,000 items", "an item of 1 MB"],
)
def test_for_each_over_what_it_cannot_take_asks_a_person(run: Start, items: Any, code: str) -> None:
    execution = run(EACH, input={"items": items})
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").error["code"] == code  # type: ignore[index]
    assert not BlockExecution.objects.filter(execution=execution, iteration__gt=0).exists()


def test_more_items_than_an_execution_may_have_ask_a_person(
    run: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executions.engine.items.LIMITS", replace(LIMITS, items_per_execution=5))
    three, two, one = ({"forEach": {"items": items}} for items in ("[1, 2, 3]", "[1, 2]", "[1]"))
    blocks = (block("a", **three), block("b", **three), block("c", "a", **two), block("d", "c", **one))
    execution = run(template(*blocks))
    assert statuses(execution) == {
        "a": "completed",
        "b": "waiting_human",  # opened together with a
        "c": "completed",
        "d": "waiting_human",
    }
    assert {row(execution, each).error["code"] for each in "bd"} == {"too_many_items"}  # type: ignore[index]
    assert BlockExecution.objects.filter(execution=execution, iteration__gt=0).count() == 5


def test_a_repeat_without_an_end_is_refused() -> None:
    for repeat, found in (
        ({"until": "false"}, ("/blocks/0/repeat/maxIterations", "missing_field")),
        ({"until": "false", "maxIterations": 10**6}, ("/blocks/0/repeat/maxIterations", "out_of_range")),
    ):
        assert issues(template(block("a", repeat=repeat))) == [found]


def test_a_wait_of_ten_years_is_refused() -> None:
    seconds = 10 * 365 * 86_400
    waits = template({"blockId": "a", "wait": {"seconds": seconds}})
    assert issues(waits) == [("/blocks/0/wait/seconds", "out_of_range")]


def test_a_wait_until_a_moment_in_ten_years_asks_a_person(run: Start) -> None:
    moment = (datetime.now(UTC) + timedelta(days=3650)).isoformat()
    waits = template({"blockId": "a", "wait": {"until": "input.at"}})
    execution = run(waits, input={"at": moment})
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").error["code"] == "wait_too_long"  # type: ignore[index]


# -- the page names them all ---------------------------------------------------------

# The table "Limits and refusals" of docs/engine.md: how a line begins, and the test of its answer.
LIMITS_TESTED = {
    "an execution is sent back": "executions/test_rework.py::test_what_works_beside_goes_on",
    "`forEach` over something that is no list": "executions/test_bad_input.py::test_for_each_over_what_it",
    "more than 100,000 items of all": "executions/test_bad_input.py::test_more_items_than_an_execution",
    "`forEach` over a list of the input": "executions/test_bad_input.py::test_for_each_over_what_it",
    "the outputs of all items": "executions/test_constructs.py::test_too_much_output_of_all_items_together",
    "one item of `forEach` fails": "executions/test_constructs.py::test_one_failed_item_does_not_lose",
    "fewer items complete": "executions/test_constructs.py::test_at_least_so_many_items_must_complete",
    "a `repeat` without": "executions/test_bad_input.py::test_a_repeat_without_an_end_is_refused",
    "a `repeat` whose `until`": "executions/test_constructs.py::test_what_follows_an_exhausted_repeat",
    "a wait longer than a year": "executions/test_bad_input.py::test_a_wait_until_a_moment_in_ten_years",
    "a concurrency `limit` outside": "executions/test_concurrency.py::test_a_malformed_key_is_named",
    "a concurrency key that turns out": "executions/test_concurrency.py::test_a_key_that_is_none_asks",
    "sub-workflows nested deeper": "executions/test_fences.py::test_sub_workflows_nest_so_deep",
    "agents with tools below each other": "executions/test_tools_that_have_tools.py::test_agents_that_would",
    "a template that a block calls": "executions/test_pins.py::test_what_is_published_or_archived_meanwhile",
    "the agent of a UseCase block": "executions/test_pins.py::test_an_agent_that_is_pointed_elsewhere",
    "a callback replayed": "executions/test_callbacks.py::test_the_same_again_is_the_same_answer",
    "a callback that does not come": "executions/test_callbacks.py::test_a_callback_that_does_not_come",
    "an output above 256 KB": "executions/test_blobs.py::test_a_big_output_is_kept_once",
    "an output above 8 MB": "executions/test_blobs.py::test_above_eight_mb_is_a_permanent_failure",
    "an expression that looks": "executions/test_blobs.py::test_an_expression_that_looks_into_a_big_output",
    "an input of more than 8 MB": "executions/test_blobs.py::test_inputs_of_more_than_eight_mb_together",
    "the input of a sub-workflow above 8 MB": "executions/test_large_inputs.py::test_many_small_members",
    "blob storage does not give": "executions/test_blobs_in_s3.py::test_an_input_that_cannot_be_read",
    "a restart from a block": "executions/test_restart.py::test_what_cannot_be_restarted_is_left_as_it_is",
    "a restart while": "executions/test_restart.py::test_what_cannot_be_restarted_is_left_as_it_is",
    "a restart from a skipped": "executions/test_restart.py::test_a_restart_from_a_skipped_block",
    "more than 64 KB changed": "executions/recovery/test_fixing.py::test_a_change_that_does_not_fit",
    "a fork of a fork": "executions/test_forks.py::test_forks_of_forks_reach_the_attempts",
    "a compensation that fails": "executions/test_compensation.py::test_a_failed_compensation_asks_a_person",
    "a child that is cancelled": "executions/test_children.py::test_a_child_that_is_cancelled_by_itself",
    "a batch filter": "executions_api/test_batch.py::test_an_empty_filter_must_be_meant",
    "a workflow's own `timeout`": "executions/test_compensation.py::test_the_deadline_compensates",
}


def test_every_limit_of_the_page_has_a_test_and_every_test_a_line() -> None:
    page = (ROOT / "docs" / "engine.md").read_text()
    table = page.partition("## Limits and refusals")[2].partition("\n## ")[0]
    lines = [line.removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    stated = [line for line in lines if not line.startswith("limit |")]
    beginnings = sorted(LIMITS_TESTED, key=len, reverse=True)  # the longest that fits is meant
    found = {line: next((each for each in beginnings if line.startswith(each)), None) for line in stated}
    assert [line for line, each in found.items() if each is None] == []
    assert set(LIMITS_TESTED) == set(found.values())
    for named in LIMITS_TESTED.values():
        file, _, test = named.partition("::")
        assert f"\ndef {test}" in (ROOT / "tests" / file).read_text(), named
