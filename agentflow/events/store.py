"""The event table's two doors: `append` inside a transaction, `read` after a cursor.

Ids are handed out before commit, so a reader that follows ids alone skips what commits late.  The
order here is (writing transaction, id), and a reader sees a transaction's events only once every
older transaction has ended: what comes later is then always greater.  A long write transaction
anywhere in the database server delays readers; it never makes them miss anything.

Transaction numbers belong to one database server.  After a restore into another one (`pg_restore`)
old cursors mean nothing, and clients start from a fresh one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from ..errors import InvalidInput
from ..types import JSONObject, JSONValue
from .models import Event, Level
from .pokes import pokes

__all__ = [
    "Cursor",
    "NewEvent",
    "Page",
    "append",
    "append_many",
    "approvals",
    "current",
    "of_executions",
    "page",
    "poke",
    "read",
]

_BIGINT_MAX = 2**63 - 1
PAGE_EVENTS = 200


class BadCursor(InvalidInput):
    """That is not a cursor this service gave."""

    code = "bad_cursor"
    remedy = "Send the cursor of the last message as it was, or none to start from now."


class NotInTransaction(RuntimeError):
    """An event must commit or vanish with what it tells of."""


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the order of events; its text is `"<transaction>-<id>"`, opaque to clients."""

    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"

    @classmethod
    def parse(cls, text: object) -> Cursor:
        parts = text.split("-") if isinstance(text, str) and len(text) <= 40 else []
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise BadCursor(pointer="/cursor")
        xid, id_ = int(parts[0]), int(parts[1])
        if max(xid, id_) > _BIGINT_MAX:
            raise BadCursor(pointer="/cursor")
        return cls(xid, id_)

    @classmethod
    def after(cls, xid: int) -> Cursor:
        """The place behind all events of a transaction."""
        return cls(xid, _BIGINT_MAX)

    @classmethod
    def of(cls, event: Event) -> Cursor:
        return cls(event.xid, event.id)


START = Cursor(0, 0)


@dataclass(frozen=True, slots=True)
class NewEvent:
    type: str
    workspace_id: UUID
    execution_id: UUID | None = None
    block_id: str | None = None
    level: int = Level.INFO
    payload: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in order.  `unsettled`: more are committed, but an older transaction still runs."""

    events: list[Event]
    unsettled: bool


def append(
    *,
    type: str,
    workspace_id: UUID,
    execution_id: UUID | None = None,
    block_id: str | None = None,
    level: int = Level.INFO,
    payload: JSONObject | None = None,
) -> None:
    """Record one event in the transaction that makes it true.

    Raises:
        NotInTransaction: called outside `transaction.atomic`.
    """
    append_many([NewEvent(type, workspace_id, execution_id, block_id, level, payload)])


def append_many(events: Sequence[NewEvent]) -> None:
    """Record events in this order, with one statement."""
    if not connection.in_atomic_block:
        raise NotInTransaction(NotInTransaction.__doc__)
    if not events:
        return
    with connection.cursor() as cursor:
        # The ORM would write NULL into xid, whose default only the database knows.
        cursor.execute(
            """INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
               SELECT w, e, b, t, l, p::jsonb
                 FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::smallint[], %s::text[])
                      WITH ORDINALITY AS new(w, e, b, t, l, p, n) ORDER BY n""",
            [
                [event.workspace_id for event in events],
                [event.execution_id for event in events],
                [event.block_id for event in events],
                [event.type for event in events],
                [int(event.level) for event in events],
                [_stored(event.payload) for event in events],
            ],
        )


def read(
    *,
    after: Cursor | None,
    execution_id: UUID | None = None,
    workspace_ids: Collection[UUID] | None = None,
    limit: int = PAGE_EVENTS,
) -> list[Event]:
    """The next events after `after` (None: from the first one), oldest first, at most `limit`.

    With `execution_id` all events of that execution; with `workspace_ids` the `approval_*` events of
    those workspaces.  Whether the caller may see them is the caller's business.
    """
    return page(after=after, execution_id=execution_id, workspace_ids=workspace_ids, limit=limit).events


def page(
    *,
    after: Cursor | None,
    execution_id: UUID | None = None,
    workspace_ids: Collection[UUID] | None = None,
    limit: int = PAGE_EVENTS,
) -> Page:
    """As `read`, and says whether it pays to look again in a moment."""
    if (execution_id is None) == (workspace_ids is None):
        raise ValueError("give execution_id or workspace_ids")
    start = after or START
    subject: list[Any]
    scope, subject = "execution_id = %s", [execution_id]
    if workspace_ids is not None:
        # The pattern is a literal: were it a parameter, a generic plan could not use the partial index.
        scope, subject = r"workspace_id = ANY(%s::uuid[]) AND type LIKE 'approval\_%%'", [list(workspace_ids)]
    return _page(scope, subject, start, limit)


def approvals(*, after: Cursor, limit: int = PAGE_EVENTS) -> Page:
    """The next `approval_*` events of all workspaces: for what works for all of them, never for a person."""
    return _page(r"type LIKE 'approval\_%%'", [], after, limit)


OF_EXECUTIONS = """
SELECT e.*, e.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled
  FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[]) AS place(execution_id, xid, id),
       LATERAL (SELECT * FROM events_event
                 WHERE execution_id = place.execution_id AND (xid, id) > (place.xid, place.id)
                 ORDER BY xid, id LIMIT %s) AS e
 ORDER BY e.xid, e.id
"""


def of_executions(places: Mapping[UUID, Cursor], limit: int = PAGE_EVENTS) -> dict[UUID, Page]:
    """The next events of many executions, each after its own place, in one statement."""
    found = {execution_id: Page([], unsettled=False) for execution_id in places}
    rows = Event.objects.raw(
        OF_EXECUTIONS,
        [list(places), [at.xid for at in places.values()], [at.id for at in places.values()], limit],
    )
    for event in rows:
        page = found[event.execution_id]  # type: ignore[index]  # it is one of those asked for
        if not event.settled:  # type: ignore[attr-defined]  # annotated by the statement
            found[event.execution_id] = Page(page.events, unsettled=True)  # type: ignore[index]
        else:
            page.events.append(event)
    return found


def _page(scope: str, subject: list[Any], start: Cursor, limit: int) -> Page:
    rows = Event.objects.raw(
        f"""SELECT id, xid, workspace_id, execution_id, block_id, type, level, payload, at,
                   xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled
              FROM events_event
             WHERE {scope} AND (xid, id) > (%s::bigint, %s::bigint)
             ORDER BY xid, id LIMIT %s""",
        [*subject, start.xid, start.id, limit],
    )
    found: list[Event] = []
    for event in rows:
        if not event.settled:  # type: ignore[attr-defined]  # annotated by the statement
            return Page(found, unsettled=True)
        found.append(event)
    return Page(found, unsettled=False)


def current() -> Cursor:
    """The place before which every event can already be read.

    Whoever notes it and then looks at the rows misses nothing by reading on from here.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        row = cursor.fetchone()
    return Cursor(row[0], 0)


def poke(*, execution_id: UUID | None = None, approvals: bool = False) -> None:
    """Tell open sockets, once this transaction has committed, that there is something to read.

    Costs the caller a microsecond or two.  Pokes of one subject are merged and may get lost: readers
    look by themselves every few seconds.
    """
    if execution_id is not None:
        transaction.on_commit(partial(pokes.add, execution_name(execution_id)), robust=True)
    if approvals:
        transaction.on_commit(partial(pokes.add, APPROVALS), robust=True)


def show_text(*, execution_id: UUID, block_id: str, attempt: int, text: str) -> None:
    """Let who looks on see what a block's agent has written so far; nothing of it is stored."""
    message = {"type": "block_text", "executionId": str(execution_id), "blockId": block_id}
    pokes.show(previews_group(execution_id), block_id, {**message, "attempt": attempt, "text": text})


# -- what open sockets are told about -----------------------------------------------

APPROVALS = "approvals"  # of all workspaces: one order, one place for everybody


def execution_name(execution_id: UUID) -> str:
    return f"execution.{execution_id}"


def execution_of(name: str) -> UUID:
    return UUID(name.removeprefix("execution."))


def previews_group(execution_id: UUID) -> str:
    """The channel-layer group, and the name, of what one execution's agents write meanwhile."""
    return f"previews.{execution_id}"


def _stored(payload: JSONObject | None) -> str | None:
    """JSON text that PostgreSQL takes: it refuses NUL and lone surrogates, and NaN is not JSON."""
    if payload is None:
        return None
    text = json.dumps(payload, allow_nan=False)
    if "\\u0000" in text or "\\ud" in text:
        text = json.dumps(_clean(payload), allow_nan=False)
    return text


def _clean(value: JSONValue) -> JSONValue:
    if isinstance(value, str):
        text = value.replace("\x00", "\ufffd")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return value
