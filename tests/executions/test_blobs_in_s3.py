"""Large outputs in an S3-compatible server, over HTTP; and what happens while it is away."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from agentflow.conf import KB
from agentflow.integrations import blobs as objects
from agentflow.integrations.blobs import BlobStoreError, NoSuchObject, S3Options, S3Store
from agentflow.types import JSONObject
from executions import blobs, doctor
from executions.models import Blob, Execution
from executions.services import reconcile
from tests import builtins
from tests.s3 import BUCKET, KEY, SECRET, s3_server

from .conftest import Start, answer, block, drain, make_due, row, template

BIG = {"text": "x" * 400 * KB}
AWAY = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def store(server: str, settings: Any, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    settings.AGENTFLOW_BLOB_STORE = "s3"
    settings.AGENTFLOW_S3_ENDPOINT = server
    settings.AGENTFLOW_S3_REGION = "us-east-1"
    settings.AGENTFLOW_S3_BUCKET = BUCKET
    settings.AGENTFLOW_S3_PREFIX = f"{uuid4()}/"
    settings.AGENTFLOW_S3_ACCESS_KEY, settings.AGENTFLOW_S3_SECRET_KEY = KEY, SECRET
    monkeypatch.setattr(blobs, "_silent_until", 0.0)
    blobs._cache.clear()
    found = objects.configured()
    assert found is not None
    return found


def chain(**fields: Any) -> JSONObject:
    builtins.given["a"] = [BIG]
    giving = block("a") | {"agentId": "test.give", "configuration": {"name": "a"}}
    return template(giving, block("b", "a", input={"doc": "${blocks.a.output}"}, **fields))


def end(execution: Execution) -> str:
    """Walk to the end: an object store may use up a walker's slice of time."""
    for _ in range(10):
        drain(execution)
        if execution.completed_at is not None:
            break
    return execution.status


def name_of(blob: Blob) -> str:
    return f"{blob.workspace_id}/{blob.pk}"


def blob_of(execution: Execution, block_id: str) -> Blob:
    key = row(execution, block_id).output_blob
    assert key is not None
    return Blob.objects.get(pk=key)


def place(execution: Execution, block_id: str) -> str:
    return blob_of(execution, block_id).place


def verdict() -> str:
    return str(doctor._try("blob storage", doctor._blobs).verdict)


def test_objects_are_put_read_and_deleted_over_http(store: S3Store) -> None:
    store.put("one", b"1")
    store.put("one", b"1")
    assert store.get("one") == b"1"
    store.delete(["one", "never there"])
    with pytest.raises(NoSuchObject):
        store.get("one")
    store.check()


def test_a_wrong_bucket_and_a_server_that_is_away_are_named(server: str) -> None:
    with pytest.raises(BlobStoreError):
        S3Store(S3Options("no-such-bucket", server, "us-east-1", "", KEY, SECRET)).check()
    with pytest.raises(BlobStoreError, match="did not answer"):
        S3Store(S3Options(BUCKET, AWAY, "us-east-1", "", KEY, SECRET)).put("x", b"x")


def test_an_output_goes_to_the_bucket_and_its_reader_gets_it_from_there(store: S3Store, run: Start) -> None:
    execution = run(chain())
    assert end(execution) == "completed", execution.error
    blob = blob_of(execution, "a")
    assert (blob.place, blob.data) == ("s3", None)
    assert b"x" * 400 * KB in store.get(name_of(blob))
    blobs._cache.clear()  # as another process
    output = row(execution, "b").output_blob
    assert output is not None
    assert blobs.filled(blobs.large(output)) == {"doc": BIG}
    assert verdict() == "ok"


def test_while_s3_is_away_outputs_stay_in_the_database_and_move_later(
    store: S3Store, run: Start, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings.AGENTFLOW_S3_ENDPOINT
    settings.AGENTFLOW_S3_ENDPOINT = AWAY
    execution = run(chain())
    assert (end(execution), place(execution, "a")) == ("completed", "database")
    assert verdict() == "problem"
    settings.AGENTFLOW_S3_ENDPOINT = here
    monkeypatch.setattr(blobs, "_silent_until", 0.0)
    Blob.objects.update(touched_at=Now() - timedelta(seconds=blobs.MOVE_AFTER_S + 1))
    assert blobs.tidy() == Blob.objects.count() == 2
    assert place(execution, "a") == "s3"
    blobs._cache.clear()
    assert blobs.filled(blobs.of_row(None, row(execution, "a").output_blob)) == BIG


def test_an_input_that_cannot_be_read_is_tried_again(
    store: S3Store, run: Start, settings: Any, author: Any
) -> None:
    execution = run(chain(humanInLoop={"type": "approval"}))
    here = settings.AGENTFLOW_S3_ENDPOINT
    settings.AGENTFLOW_S3_ENDPOINT = AWAY
    blobs._cache.clear()
    answer(execution, "b", author)
    b = row(execution, "b")
    assert (b.status, b.reason, (b.error or {}).get("code")) == ("ready", "retry", "input_unavailable")
    settings.AGENTFLOW_S3_ENDPOINT = here
    make_due(execution)
    reconcile.look(execution.pk)
    assert end(execution) == "completed"


def test_what_nobody_refers_to_leaves_the_bucket_too(store: S3Store, start: Start) -> None:
    execution = start(chain())
    key = blobs.put(b'"orphan"', workspace_id=execution.workspace_id, locked=False)
    orphan = Blob.objects.get(pk=key)
    assert store.get(name_of(orphan)) == b'"orphan"'
    Blob.objects.update(touched_at=Now() - timedelta(seconds=blobs.GRACE_S + 60))
    blobs.tidy()
    assert not Blob.objects.filter(pk=key).exists()
    with pytest.raises(NoSuchObject):
        store.get(name_of(orphan))


def test_a_store_that_was_cut_short_is_done_again(store: S3Store, start: Start) -> None:
    """The worker died between the row and the object."""
    execution = start(chain())
    cut = blobs._begin(execution.workspace_id, blobs.digest(b'"cut"'), 5, None)
    assert blobs.put(b'"cut"', workspace_id=execution.workspace_id, locked=False) == cut
    found = Blob.objects.get(pk=cut)
    assert (found.stored, found.place, store.get(name_of(found))) == (True, "s3", b'"cut"')


def test_what_a_locked_execution_puts_together_goes_to_the_database_first(store: S3Store, run: Start) -> None:
    builtins.given["list"] = [["x" * 200 * KB, "y" * 200 * KB]]
    listing = block("list") | {"agentId": "test.give", "configuration": {"name": "list"}}
    execution = run(template(listing, block("each", "list", forEach={"items": "blocks.list.output"})))
    assert (end(execution), place(execution, "list")) == ("completed", "s3")
    assert place(execution, "each") == "database"
