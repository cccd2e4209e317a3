"""GET executions/{id} and its blocks: the model of the seed, computed from rows."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from agentflow.conf import LIMITS
from executions import snapshot
from executions.api import serializers
from executions.models import AttemptOutcome, BlockAttempt, BlockExecution, LateResult
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of

from .conftest import URL, Team

BIG = "x" * (LIMITS.inline_value_bytes + 1)


def get(team: Team, path: str, **params: Any) -> Any:
    response = client_of(team.viewer).get(path, params)
    assert response.status_code == 200, response.content
    return response.json()


def test_an_execution_shows_its_blocks_by_state_and_what_completed_ones_gave(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        graph="a -> b -> d, a -> c -> d, e, f",
        completed=["a"],
        running=["b"],
        waiting_human=["c"],
        failed=["e"],
        waiting_external=["f"],
        outputs={"a": {"n": 1}},
        input={"order": 7},
    )
    shown = get(team, f"{URL}/{execution.pk}")
    assert shown["executionId"] == str(execution.pk)
    assert shown["status"] == "running"
    assert shown["input"] == {"order": 7}
    assert shown["simulated"] is False
    assert shown["progress"] == {"settled": 2, "total": 6}
    assert shown["currentBlocks"] == ["b"]
    assert shown["completedBlocks"] == ["a"]
    assert shown["failedBlocks"] == ["e"]
    assert sorted(shown["blockedBlocks"]) == ["c", "f"]
    assert shown["globalContext"] == {"a": {"n": 1}}
    assert shown["recoveryPoints"] == []
    blocks = {block["blockId"]: block for block in shown["blockExecutions"]}
    assert blocks["d"]["dependencies"] == ["b", "c"]
    assert blocks["a"]["output"] == {"n": 1}
    assert blocks["a"]["agentId"] == "builtin.echo"
    assert blocks["a"]["startedAt"] < blocks["a"]["completedAt"]
    assert blocks["d"]["startedAt"] is None


def test_the_answer_has_exactly_the_documented_fields(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, completed=["a"])
    shown = get(team, f"{URL}/{execution.pk}")
    assert list(shown) == list(snapshot.DETAIL_FIELDS)
    assert set(shown) == set(serializers.ExecutionSerializer().fields)
    assert set(shown["blockExecutions"][0]) == set(serializers.BlockSerializer().fields)
    block = get(team, f"{URL}/{execution.pk}/blocks/a")
    assert set(block) == set(serializers.BlockDetailSerializer().fields)
    line = get(team, URL)["executions"][0]
    assert set(line) == set(serializers.ExecutionSummarySerializer().fields)


def test_only_the_fields_asked_for_are_given(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, completed=["a"])
    shown = get(team, f"{URL}/{execution.pk}", fields="status,progress")
    assert shown == {"status": "running", "progress": {"settled": 1, "total": 2}}
    assert list(get(team, f"{URL}/{execution.pk}", fields=["input", "error"])) == ["input", "error"]


def test_an_unknown_field_is_named(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    response = client_of(team.viewer).get(f"{URL}/{execution.pk}", {"fields": "status,secret"})
    assert response.status_code == 400
    assert response.json()["issues"][0]["pointer"] == "?fields"


def test_big_values_are_given_by_reference_and_found_there(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        graph="a, b/c",
        completed=["a", "b/c"],
        outputs={"a": {"text": BIG}, "b/c": {"text": BIG}},
        input={"text": BIG},
    )
    shown = get(team, f"{URL}/{execution.pk}")
    assert get(team, shown["input"]["$ref"]) == {"text": BIG}
    for block in shown["blockExecutions"]:
        reference = block["output"]
        assert set(reference) == {"$ref", "bytes"}
        assert reference["bytes"] > LIMITS.inline_value_bytes
        assert get(team, reference["$ref"]) == {"text": BIG}
        assert shown["globalContext"][block["blockId"]] == reference
        assert get(team, f"{URL}/{execution.pk}/blocks/{block['blockExecutionId']}")["output"] == reference


def test_a_value_as_large_as_allowed_stays_inline(team: Team) -> None:
    text = "x" * (LIMITS.inline_value_bytes - 2)
    execution = ExecutionFactory.create(workspace=team.workspace, completed=["a"], outputs={"a": text})
    assert get(team, f"{URL}/{execution.pk}")["globalContext"] == {"a": text}


def test_many_values_do_not_add_up_without_bound(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executions.selectors.INLINE_VALUES_BYTES", 100)
    execution = ExecutionFactory.create(
        workspace=team.workspace, completed=["a", "b"], outputs={"a": "x" * 60, "b": "y" * 60}
    )
    context = get(team, f"{URL}/{execution.pk}")["globalContext"]
    assert context["a"] == "x" * 60
    assert get(team, context["b"]["$ref"]) == "y" * 60


@pytest.mark.parametrize(
    "block_id",
    [
        "a b",
        "ä/ö?#&=",
        "100%",
        "%2F",
        "line\nbreak",
        "output",
        "x/output",
        "a/input/b",
        "..",
        "'; DROP--",
        "🦆",
    ],
)
def test_a_block_is_found_whatever_characters_its_id_has(team: Team, block_id: str) -> None:
    definition = {"name": "Odd", "blocks": [{"blockId": block_id}]}
    execution = ExecutionFactory.create(
        workspace=team.workspace, definition=definition, completed=[block_id], outputs={block_id: [1]}
    )
    row = BlockExecution.objects.get(execution=execution)
    base = f"{URL}/{execution.pk}/blocks"
    assert get(team, f"{base}/{row.pk}")["blockId"] == block_id
    assert get(team, f"{base}/{row.pk}/output") == [1]
    if block_id not in {
        "x/output",
        "..",
    }:  # these have only their number: a path means something else by them
        assert get(team, f"{base}/{quote(block_id, safe='')}")["blockId"] == block_id
        assert get(team, f"{base}/{quote(block_id, safe='')}/output") == [1]


def test_a_block_shows_its_attempts_late_results_and_where_its_input_came_from(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        completed=["a"],
        running=["b"],
        outputs={"a": {"n": 1}},
        blocks={"a": {"input": {"given": True}, "attempt": 2}},
    )
    a, b = BlockExecution.objects.filter(execution=execution).order_by("idx")
    failure = {"kind": "transient", "code": "http_503", "message": "Busy."}
    BlockAttempt.objects.create(
        block=a, attempt=1, outcome=AttemptOutcome.ERROR, agent_id="one", failure=failure, started_at=Now()
    )
    BlockAttempt.objects.create(
        block=a, attempt=2, outcome=AttemptOutcome.OK, agent_id="two", started_at=Now()
    )
    LateResult.objects.create(block=a, attempt=1, output={"late": True})
    first = get(team, f"{URL}/{execution.pk}/blocks/a")
    assert [(one["attempt"], one["outcome"], one["agentId"]) for one in first["attempts"]] == [
        (1, "error", "one"),
        (2, "ok", "two"),
    ]
    assert first["attempts"][0]["error"] == failure
    assert first["lateResults"][0]["output"] == {"late": True}
    assert (first["input"], first["inputSource"]) == ({"given": True}, "mapping")
    assert first["retryCount"] == 1
    second = get(team, f"{URL}/{execution.pk}/blocks/{b.pk}")
    assert (second["input"], second["inputSource"]) == ({"a": {"n": 1}}, "dependencies")
    assert get(team, f"{URL}/{execution.pk}/blocks/b/input") == {"a": {"n": 1}}


def test_blocks_come_in_pages_and_by_status(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace, graph="a -> b -> c -> d", completed=["a", "b"]
    )
    path = f"{URL}/{execution.pk}/blocks"
    page = get(team, path, limit=2, offset=1)
    assert [block["blockId"] for block in page["blocks"]] == ["b", "c"]
    assert page["total"] == 4
    done = get(team, path, status="completed,failed")
    assert [block["blockId"] for block in done["blocks"]] == ["a", "b"]
    assert done["total"] == 2
    assert client_of(team.viewer).get(path, {"status": "done"}).status_code == 400


def test_a_block_that_is_not_there_is_a_404(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    other = ExecutionFactory.create(workspace=team.workspace)
    foreign = BlockExecution.objects.filter(execution=other).first()
    assert foreign is not None
    for ref in ("zz", "9" * 30, str(foreign.pk)):
        for what in ("", "/output", "/input"):
            response = client_of(team.viewer).get(f"{URL}/{execution.pk}/blocks/{ref}{what}")
            assert response.status_code == 404, ref


READS = ("", "/input", "/blocks", "/blocks/a", "/blocks/a/output", "/blocks/a/input", "/logs", "/explain")


@pytest.mark.parametrize("what", READS)
def test_every_member_may_read_and_nobody_else_learns_that_it_exists(team: Team, what: str) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    path = f"{URL}/{execution.pk}{what}"
    for person in (team.viewer, team.author, team.operator, team.approver, team.admin):
        assert client_of(person).get(path).status_code == 200
    foreign = client_of(team.stranger).get(path)
    absent = client_of(team.stranger).get(f"{URL}/{uuid4()}{what}")
    assert foreign.status_code == absent.status_code == 404
    assert foreign.json()["code"] == absent.json()["code"]
    assert foreign.json()["detail"] == absent.json()["detail"]
    assert client_of(None).get(path).status_code == 401


def _wide(team: Team, blocks: int) -> Any:
    graph = ", ".join(f"root -> step{n}" for n in range(blocks - 1))
    return ExecutionFactory.create(workspace=team.workspace, graph=graph, completed=["root"])


@pytest.mark.parametrize("what", ["", "/blocks?limit=500", "/explain"])
def test_the_number_of_queries_does_not_grow_with_the_blocks(team: Team, what: str) -> None:
    client = client_of(team.viewer)
    counts = []
    for blocks in (5, 200):
        path = f"{URL}/{_wide(team, blocks).pk}{what}"
        client.get(path)  # the version's facts are read once per process
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(path).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1]
    assert counts[0] <= 12
