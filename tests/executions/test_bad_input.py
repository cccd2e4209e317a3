"""What asks too much has a stated answer: docs/engine.md, Limits and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentflow.conf import LIMITS, MB
from agentflow.errors import InvalidInput
from agentflow.types import JSONObject
from agentflow.workflow.definition import parse
from agentflow.workflow.validation import check
from executions.models import BlockExecution
from tests.factories.executions import statuses

from .conftest import Start, block, row, template

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
