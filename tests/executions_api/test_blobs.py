"""Outputs from blob storage over REST and on the page: by reference, and whole at their own address."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentflow.conf import KB
from executions import blobs
from executions.models import Blob, Execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of

from .conftest import URL, Team

BIG = {"text": "é" * 200 * KB}


@pytest.fixture
def execution(team: Team) -> Execution:
    """`a` has a big output and a big input."""
    found = ExecutionFactory.create(workspace=team.workspace, graph="a -> b", completed=["a"])
    key = blobs.key_of(blobs.kept(BIG, workspace_id=team.workspace.pk, locked=False))
    found.blocks.filter(block_id="a").update(output=None, output_blob=key, input_blob=key)
    blobs._cache.clear()
    return found


def test_a_big_output_is_given_by_reference_and_whole_at_its_own(team: Team, execution: Execution) -> None:
    client = client_of(team.viewer)
    size = Blob.objects.get().bytes
    detail = client.get(f"{URL}/{execution.pk}").json()
    reference = {"$ref": f"{URL}/{execution.pk}/blocks/a/output", "bytes": size}
    assert detail["globalContext"]["a"] == reference
    shown = client.get(f"{URL}/{execution.pk}/blocks/a").json()
    assert (shown["output"], shown["input"]["bytes"], shown["inputSource"]) == (reference, size, "mapping")
    for name in ("output", "input"):
        whole = client.get(f"{URL}/{execution.pk}/blocks/a/{name}")
        assert json.loads(whole.content) == BIG
        assert whole["Content-Type"] == "application/json"
        assert int(whole["Content-Length"]) == size
    given = client.get(f"{URL}/{execution.pk}/blocks/b/input")
    assert given.status_code == 200


def test_only_who_sees_the_execution_gets_its_big_output(team: Team, execution: Execution) -> None:
    address = f"{URL}/{execution.pk}/blocks/a/output"
    assert client_of(team.stranger).get(address).status_code == 404
    assert client_of(None).get(address).status_code == 401


def test_a_value_that_cannot_be_read_now_is_a_503(team: Team, execution: Execution) -> None:
    Blob.objects.update(place="s3", data=None)
    answer = client_of(team.viewer).get(f"{URL}/{execution.pk}/blocks/a/output")
    assert (answer.status_code, answer.json()["code"]) == (503, "value_unavailable")


def test_an_agent_cannot_forge_a_reference(team: Team, execution: Execution) -> None:
    forged: Any = {"$ref": f"{URL}/{execution.pk}/blocks/b/output", "key": str(Blob.objects.get().pk)}
    execution.blocks.filter(block_id="a").update(output=forged, output_blob=None)
    answer = client_of(team.viewer).get(f"{URL}/{execution.pk}/blocks/a/output")
    assert answer.json() == forged
