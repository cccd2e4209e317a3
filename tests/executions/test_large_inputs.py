"""Inputs of sub-workflows above 256 KB: what is large goes by reference, the rest can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from agentflow.conf import KB, LIMITS, MB
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.large import NOTE
from executions import blobs
from executions.models import Blob, BlockExecution, Execution
from executions.services.forking import ForkRequest, fork
from templates_app.models import TemplateVersion
from tests import builtins
from tests.factories.executions import statuses
from tests.factories.governance import client_of

from .conftest import Start, block, drain, row, template

VersionOf = Callable[[JSONObject], TemplateVersion]


@pytest.fixture(autouse=True)
def _fresh(transactional_db: None) -> Iterator[None]:
    blobs._cache.clear()
    yield
    builtins.given.clear()


def given(output: JSONValue) -> JSONObject:
    """A step whose output is too large to stand in a template."""
    builtins.given["given"] = [output]
    return block("given", agentId="test.give", configuration={"name": "given"})


def sub(version: TemplateVersion, **fields: Any) -> JSONObject:
    called = {"toolType": "UseCase", "configuration": {"templateId": str(version.template_id)}}
    return {"blockId": "sub", "dependencies": ["given"], **called, **fields}


def child_of(execution: Execution) -> Execution:
    return row(execution, "sub").children.get()


def output(found: BlockExecution) -> JSONValue:
    return blobs.filled(blobs.of_row(found.output, found.output_blob))


def answer(execution: Execution, path: str = "") -> Any:
    return client_of(execution.created_by).get(f"/api/v1/executions/{execution.pk}{path}")


@pytest.mark.parametrize("size", [MB, LIMITS.blob_bytes - 2 * KB], ids=["1 MB", "8 MB"])
def test_a_large_member_goes_by_reference_and_the_rest_is_read(
    run: Start, version_of: VersionOf, size: int
) -> None:
    reads = {"doc": "${input.doc}", "n": "${input.n + 1}"}
    child_version = version_of(template(block("doc", input=reads, when="has(input.n) && input.n > 0")))
    doc = "x" * size
    execution = run(template(given(doc), sub(child_version, input={"doc": "${blocks.given.output}", "n": 1})))
    child = child_of(execution)
    assert (execution.status, child.status) == ("completed", "completed"), (execution.error, child.error)
    assert child.input == {"doc": NOTE, "n": 1}
    assert child.input_blobs == {str(row(execution, "given").output_blob): ["doc"]}  # no copy
    assert output(row(child, "doc")) == {"doc": doc, "n": 2}
    assert output(row(execution, "sub")) == {"doc": {"doc": doc, "n": 2}}
    whole = answer(child, "/input")
    assert whole.json() == {"doc": doc, "n": 1}
    spaces = 3  # as PostgreSQL writes it
    assert answer(child).json()["input"]["bytes"] == len(whole.content) + spaces


def test_a_large_list_is_gone_through_handed_on_and_kept_as_long_as_the_child(
    run: Start, version_of: VersionOf, author: User
) -> None:
    items = ["x" * 1000] * 300
    child_version = version_of(
        template(
            block(
                "each",
                forEach={"items": "input.items", "maxConcurrency": 100},
                input={"size": "${size(item)}"},
            ),
            block("all"),
            block("more", "all", "each", input={"items": "${input.items}", "small": "${input.small}"}),
        )
    )
    parts = {"items": "${blocks.given.output}", "small": {"n": 1}}
    execution = run(template(given(items), sub(child_version, input=parts)))
    child = child_of(execution)
    assert child.status == "completed", child.error
    assert (child.input, len(child.input_blobs or {})) == ({"items": NOTE, "small": {"n": 1}}, 1)
    assert output(row(child, "each")) == [{"size": 1000}] * 300
    assert output(row(child, "all")) == {"items": items, "small": {"n": 1}}
    forked = fork(source=child, by=author, request=ForkRequest(from_block="more"))
    drain(forked)
    assert output(row(forked, "more")) == output(row(child, "more"))
    BlockExecution.objects.update(input_blob=None, output_blob=None)
    Blob.objects.update(touched_at=Now() - timedelta(seconds=2 * blobs.GRACE_S))
    assert blobs.tidy() > 0
    assert [str(key) for key in Blob.objects.values_list("pk", flat=True)] == list(child.input_blobs or {})


def test_many_small_members_may_have_as_much_as_a_request(run: Start, version_of: VersionOf) -> None:
    child_version = version_of(template(block("all")))

    def started(count: int) -> Execution:
        small = {f"m{number}": "x" * 1000 for number in range(count)}
        called = {"templateId": str(child_version.template_id), "input": small}
        return run(template(sub(child_version, dependencies=[], configuration=called)))

    fits = child_of(started(900))
    assert (fits.status, len(fits.input_blobs or {})) == ("completed", 1)  # they are all the same
    execution = started(1500)
    assert statuses(execution)["sub"] == "waiting_human"
    assert (row(execution, "sub").error or {})["code"] == "input_too_large"
    assert not BlockExecution.objects.get(pk=row(execution, "sub").pk).children.exists()
