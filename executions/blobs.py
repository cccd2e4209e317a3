"""Values above 256 KB: each once per workspace, found by its content, named by a block's row.

A value is a row here before the row that refers to it is written, so a kill in between leaves a value
that nobody refers to; the clock removes it after a grace.  Its bytes are in that row, or in S3 under the
row's id.  A value that S3 does not take, or that is put together under an execution's lock, stays in the
database until the clock has moved it: no run waits for S3 to store something.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import cast
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from agentflow.conf import LIMITS, MB
from agentflow.integrations import blobs as objects
from agentflow.integrations.blobs import BlobStoreError, S3Store
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.large import Large, LargeUnavailable, holds_large, replaced

from .engine.rows import loads
from .models import Blob, BlobPlace

log = structlog.get_logger(__name__)

GRACE_S = 24 * 3600  # what nobody refers to is kept for so long: far longer than any settle takes
FRESH_S = 3600  # touched so lately it need not be touched again
MOVE_AFTER_S = 60
TIDIED_AT_ONCE = 200
QUIET_S = 30.0  # after S3 failed, for so long nothing new is sent there
CACHE_BYTES = 32 * MB
MEMBERS = 32  # of an input, that are values of their own


class TooLarge(Exception):
    """The value is larger than any storage takes."""

    code = "output_too_large"

    def __init__(self, size: int, *, at_most: int = LIMITS.blob_bytes) -> None:
        super().__init__(f"The value has {size} bytes; {at_most // MB} MB are allowed.")

    @property
    def failure(self) -> Failure:
        return Failure(FailureKind.CRITICAL, self.code, str(self))


# -- values in and out ---------------------------------------------------------


def kept(value: JSONValue, *, workspace_id: UUID, locked: bool) -> JSONValue:
    """The value as a row takes it: itself, or a `Large` for one that is in blob storage now.

    `locked`: an execution's lock is held, so nothing is sent over the network.

    Raises:
        TooLarge: not even a blob may be so large.
        LargeUnavailable: a large value in it cannot be read.
    """
    if isinstance(value, Large) or value is None or value == {} or isinstance(value, bool | int | float):
        return value
    if holds_large(value):
        value = filled(value)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(text) * 4 <= LIMITS.output_bytes:
        return value
    data = text.encode("utf-8", "replace")
    if len(data) <= LIMITS.output_bytes:
        return value
    if len(data) > LIMITS.blob_bytes:
        raise TooLarge(len(data))
    return large(put(data, workspace_id=workspace_id, locked=locked))


def filled(value: JSONValue) -> JSONValue:
    """The value with all that is large in it, up to what one blob may have.

    Raises:
        TooLarge, LargeUnavailable
    """
    total = 0

    def load(one: Large) -> JSONValue:
        nonlocal total
        text = one.text()
        total += len(text)
        if total > LIMITS.blob_bytes:
            raise TooLarge(total)
        return json.loads(text)

    return replaced(value, load)


def parted(given: JSONObject, *, workspace_id: UUID) -> JSONObject:
    """An execution's input of which a row holds no more than of an output: its largest members are kept here.

    Raises:
        TooLarge: it has more than one value may have, or more than a request may in all its small members.
    """
    sized = {name: _bytes_of(value) for name, value in given.items()}
    total = sum(len(data) + len(name.encode("utf-8", "replace")) + 4 for name, data in sized.items())
    if total > LIMITS.blob_bytes:
        raise TooLarge(total)
    parted = dict(given)
    for name, data in sorted(sized.items(), key=lambda each: -len(each[1]))[:MEMBERS]:
        if total <= LIMITS.output_bytes:
            break
        parted[name] = large(put(data, workspace_id=workspace_id, locked=False))
        total -= len(data)
    if total > LIMITS.body_bytes:
        raise TooLarge(total, at_most=LIMITS.body_bytes)
    return parted


def members_of(given: JSONObject) -> JSONObject | None:
    """The members of an input that its row refers to: `{"<blob>": ["<member>", ...]}`."""
    found: dict[str, list[str]] = {}
    for name, value in given.items():
        if isinstance(value, Large):
            found.setdefault(str(value.key), []).append(name)
    return cast(JSONObject, found) or None


def with_members(given: JSONObject, members: JSONObject | None) -> JSONObject:
    """An input with what its row refers to in the place of the notes."""
    if members is None:
        return given
    return {**given, **{name: large(UUID(key)) for key, names in members.items() for name in names}}


def _bytes_of(value: JSONValue) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def large(key: UUID) -> Large:
    return Large(key, partial(_text, key))


def of_row(inline: JSONValue, key: UUID | None) -> JSONValue:
    """What a row says: the value that it holds, or the one that it refers to."""
    return loads(inline) if key is None else large(key)


def key_of(value: JSONValue) -> UUID | None:
    return value.key if isinstance(value, Large) else None


def _text(key: UUID) -> str:
    return read(key).decode()


def sizes(keys: Iterable[UUID | None]) -> dict[UUID, int]:
    """How many bytes these values have; None among `keys` is nothing."""
    wanted = {key for key in keys if key is not None}
    return dict(Blob.objects.filter(pk__in=wanted).values_list("pk", "bytes")) if wanted else {}


# -- storage -------------------------------------------------------------------


def put(data: bytes, *, workspace_id: UUID, locked: bool) -> UUID:
    """Store a value and give its name; one that is stored already is only touched."""
    same = Blob.objects.filter(workspace_id=workspace_id, sha256=digest(data), removed=False)
    key = _touch(same)
    if key is None:
        s3 = None if locked else _sending()
        key = _begin(workspace_id, digest(data), len(data), None if s3 else data)
        if s3 is not None:
            _finish(key, s3, workspace_id, data)
    _cache.put(key, data)
    return key


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(key: UUID) -> bytes:
    """The bytes of a value.

    Raises:
        LargeUnavailable: S3 does not answer, or the value is gone.
    """
    data = _cache.get(key)
    if data is None:
        data = _read(key)
        _cache.put(key, data)
    return data


def _touch(same: QuerySet[Blob]) -> UUID | None:
    """The name of a value that is there, which the clock then keeps for another grace."""
    found = same.filter(stored=True)
    key = found.filter(touched_at__gt=Now() - timedelta(seconds=FRESH_S)).values_list("pk", flat=True).first()
    if key is not None:
        return key  # without a write: many runs may give the same value at once
    key = found.values_list("pk", flat=True).first()
    return key if key is not None and found.filter(pk=key).update(touched_at=Now()) else None


_BEGIN = """
INSERT INTO executions_blob (id, workspace_id, sha256, bytes, place, data, stored, removed, touched_at)
VALUES (%(id)s, %(workspace)s, %(sha256)s, %(bytes)s, 'database', %(data)s, %(stored)s, false,
        statement_timestamp())
ON CONFLICT (workspace_id, sha256) WHERE NOT removed DO UPDATE SET touched_at = excluded.touched_at,
  data = CASE WHEN executions_blob.stored THEN executions_blob.data ELSE excluded.data END,
  stored = executions_blob.stored OR excluded.stored
RETURNING id
"""


def _begin(workspace_id: UUID, sha256: str, size: int, data: bytes | None) -> UUID:
    """The row of a value: complete with `data`, else `_finish` says where the bytes are."""
    with connection.cursor() as cursor:
        cursor.execute(
            _BEGIN,
            {
                "id": uuid4(),
                "workspace": workspace_id,
                "sha256": sha256,
                "bytes": size,
                "data": data,
                "stored": data is not None,
            },
        )
        key: UUID = cursor.fetchone()[0]
    return key


def _finish(key: UUID, s3: S3Store, workspace_id: UUID, data: bytes) -> None:
    """Two that store the same value at once write the same object; the first to finish says where it is."""
    waiting = Blob.objects.filter(pk=key, stored=False)
    try:
        s3.put(_name(workspace_id, key), data)
    except BlobStoreError as error:
        _be_quiet(error)
        waiting.update(stored=True, place=BlobPlace.DATABASE, data=data)
    else:
        waiting.update(stored=True, place=BlobPlace.S3, data=None)


def _read(key: UUID) -> bytes:
    row = Blob.objects.filter(pk=key, stored=True).values_list("place", "data", "workspace_id").first()
    if row is None:
        raise LargeUnavailable("The value is not stored any more.")
    place, data, workspace_id = row
    if place == BlobPlace.DATABASE:
        return bytes(data or b"")
    s3 = objects.configured()
    if s3 is None:
        raise LargeUnavailable("The value is in an object store that is not configured any more.")
    try:
        return s3.get(_name(workspace_id, key))
    except BlobStoreError as error:
        raise LargeUnavailable(str(error)) from error


def _name(workspace_id: UUID, key: UUID) -> str:
    return f"{workspace_id}/{key}"


_silent_until = 0.0


def _sending() -> S3Store | None:
    """Where new values go; None: they stay in the database."""
    if settings.AGENTFLOW_BLOB_STORE != "s3" or time.monotonic() < _silent_until:
        return None
    return objects.configured()


def _be_quiet(error: BlobStoreError) -> None:
    global _silent_until
    _silent_until = time.monotonic() + QUIET_S
    log.warning("blob_kept_in_database", error=str(error))


# -- the clock's part ------------------------------------------------------------


def tidy() -> int:
    """Remove values that nobody refers to, and move to S3 what waits for that; a part of it at a time."""
    return _remove_orphans() + _move()


# Taken out of use first, so that a new value of the same content gets a row and an object of its own.
_RETIRE = """
UPDATE executions_blob SET removed = true WHERE id IN (
  SELECT b.id FROM executions_blob b
  WHERE NOT b.removed AND b.touched_at < statement_timestamp() - %(grace)s * interval '1 second'
    AND NOT EXISTS (SELECT 1 FROM executions_blockexecution x WHERE x.output_blob = b.id)
    AND NOT EXISTS (SELECT 1 FROM executions_blockexecution x WHERE x.input_blob = b.id)
    AND NOT EXISTS (SELECT 1 FROM executions_lateresult x WHERE x.output_blob = b.id)
    AND NOT EXISTS (SELECT 1 FROM executions_execution x WHERE x.input_blobs ? b.id::text)
  ORDER BY b.touched_at LIMIT %(most)s)
  AND touched_at < statement_timestamp() - %(grace)s * interval '1 second'
"""


def _remove_orphans() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_RETIRE, {"grace": GRACE_S, "most": TIDIED_AT_ONCE})
    retired = list(Blob.objects.filter(removed=True).values_list("pk", "workspace_id")[:TIDIED_AT_ONCE])
    s3 = objects.configured()
    if retired and s3 is not None:  # whatever the row says: a move may have been cut short
        try:
            s3.delete([_name(workspace_id, key) for key, workspace_id in retired])
        except BlobStoreError as error:
            log.warning("blobs_not_deleted", error=str(error))
            retired = []
    elif s3 is None:
        retired = [row for row in retired if not Blob.objects.filter(pk=row[0], place=BlobPlace.S3).exists()]
    removed, _ = Blob.objects.filter(pk__in=[key for key, _ in retired], removed=True).delete()
    return removed


def _move() -> int:
    """What is in the database goes to S3, where that is set."""
    s3 = _sending()
    if s3 is None:
        return 0
    here = Blob.objects.filter(
        place=BlobPlace.DATABASE,
        stored=True,
        removed=False,
        touched_at__lt=Now() - timedelta(seconds=MOVE_AFTER_S),
    ).order_by("touched_at")
    moved = 0
    for key, workspace_id, data in here.values_list("pk", "workspace_id", "data")[:TIDIED_AT_ONCE].iterator(
        chunk_size=1
    ):
        try:
            s3.put(_name(workspace_id, key), bytes(data or b""))
        except BlobStoreError as error:
            _be_quiet(error)
            break
        moved += Blob.objects.filter(pk=key, place=BlobPlace.DATABASE, removed=False).update(
            place=BlobPlace.S3, data=None
        )
    return moved


# -- what was read or written lately ---------------------------------------------


class _Cache:
    """Values never change, so what was read once by this process need not be read again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: OrderedDict[UUID, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: UUID) -> bytes | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: UUID, data: bytes) -> None:
        with self._lock:
            if key not in self._items:
                self._items[key] = data
                self._bytes += len(data)
            while self._bytes > self._most:
                _, gone = self._items.popitem(last=False)
                self._bytes -= len(gone)

    def clear(self) -> None:
        with self._lock:
            self._items.clear()
            self._bytes = 0


_cache = _Cache(CACHE_BYTES)
