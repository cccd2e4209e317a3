"""The event table: nothing is skipped, whoever commits late."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connection, transaction

from agentflow.api import listening
from agentflow.errors import InvalidInput
from agentflow.events import store
from agentflow.events.models import Event
from agentflow.events.store import Cursor
from agentflow.types import JSONObject
from tests.waiting import PATIENCE_S, until

WRITERS = 16
EACH = 10


def write(execution_id: uuid.UUID, type: str = "block_log", **more: Any) -> None:
    with transaction.atomic():
        store.append(type=type, workspace_id=uuid.uuid4(), execution_id=execution_id, **more)


def test_an_event_is_written_only_with_what_it_tells_of(transactional_db: None) -> None:
    with pytest.raises(store.NotInTransaction):
        store.append(type="block_log", workspace_id=uuid.uuid4())
    assert not Event.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_reader_goes_on_from_its_cursor_and_gets_each_event_once() -> None:
    execution_id = uuid.uuid4()
    for n in range(5):
        write(execution_id, payload={"n": n})
    write(uuid.uuid4())
    seen: list[int] = []
    cursor: Cursor | None = None
    while events := store.read(after=cursor, execution_id=execution_id, limit=2):
        seen += [event.payload["n"] for event in events if event.payload]
        cursor = Cursor.parse(str(Cursor.of(events[-1])))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.django_db(transaction=True)
def test_the_current_cursor_is_before_all_that_commits_later() -> None:
    execution_id = uuid.uuid4()
    write(execution_id)
    cursor = store.current()
    assert store.read(after=cursor, execution_id=execution_id) == []
    write(execution_id)
    assert len(store.read(after=cursor, execution_id=execution_id)) == 1


@pytest.mark.django_db(transaction=True)
def test_an_event_that_commits_late_is_waited_for() -> None:
    execution_id = uuid.uuid4()
    written, commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        try:
            with transaction.atomic():
                store.append(
                    type="block_log",
                    workspace_id=uuid.uuid4(),
                    execution_id=execution_id,
                    payload={"n": 1},
                )
                written.set()
                commit.wait(PATIENCE_S)
        finally:
            connection.close()

    slow = threading.Thread(target=write_slowly)
    slow.start()
    try:
        assert written.wait(PATIENCE_S)
        write(execution_id, payload={"n": 2})
        page = store.page(after=None, execution_id=execution_id)
        assert (page.events, page.unsettled) == ([], True)
    finally:
        commit.set()
        slow.join(PATIENCE_S)
    found = store.page(after=None, execution_id=execution_id)
    assert [event.payload for event in found.events] == [{"n": 1}, {"n": 2}]
    assert not found.unsettled


@pytest.mark.django_db(transaction=True)
def test_many_writers_with_random_delays_lose_nothing_and_order_holds() -> None:
    execution_id = uuid.uuid4()

    def write_some() -> None:
        try:
            for _ in range(EACH):
                with transaction.atomic():
                    store.append(type="block_log", workspace_id=uuid.uuid4(), execution_id=execution_id)
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT pg_sleep(random() * 0.02)")
                    store.append(type="block_log", workspace_id=uuid.uuid4(), execution_id=execution_id)
        finally:
            connection.close()

    writers = [threading.Thread(target=write_some) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    seen: list[Cursor] = []

    def read_on() -> bool:
        events = store.read(after=seen[-1] if seen else None, execution_id=execution_id, limit=7)
        seen.extend(map(Cursor.of, events))
        return len(seen) >= 2 * WRITERS * EACH

    until(read_on, 60, every_s=0.001)
    for writer in writers:
        writer.join(PATIENCE_S)
    assert store.read(after=seen[-1], execution_id=execution_id) == []
    assert len(set(seen)) == len(seen) == Event.objects.filter(execution_id=execution_id).count()
    assert seen == sorted(seen)


@pytest.mark.django_db(transaction=True)
def test_approvals_readers_get_approval_events_of_their_workspaces_alone() -> None:
    mine, other = uuid.uuid4(), uuid.uuid4()
    with transaction.atomic():
        for workspace_id in (mine, other):
            for type_ in ("approval_requested", "block_changed", "approvalXother"):
                store.append(type=type_, workspace_id=workspace_id)
    found = store.read(after=None, workspace_ids=[mine])
    assert [(event.type, event.workspace_id) for event in found] == [("approval_requested", mine)]
    assert store.read(after=None, workspace_ids=[]) == []


@pytest.mark.django_db(transaction=True)
def test_text_that_postgresql_cannot_hold_is_cleaned() -> None:
    execution_id = uuid.uuid4()
    write(execution_id, payload={"message": "a\x00b\ud800c", "\\u0000": ["\x00", {"\x00": 1}]})
    (event,) = store.read(after=None, execution_id=execution_id)
    assert event.payload == {
        "message": "a\ufffdb\ufffdc",
        "\\u0000": ["\ufffd", {"\ufffd": 1}],
    }


@pytest.mark.parametrize(
    "text",
    ["", "-", "1", "1-", "-1", "1-2-3", "a-b", " 1-2", "1-2 ", "٣-٣", "9" * 30 + "-1", None, 7, ["1-2"]],
)
def test_what_is_no_cursor_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        Cursor.parse(text)
    assert refused.value.code == "bad_cursor"


@pytest.mark.django_db
def test_both_readers_have_an_index() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("DROP INDEX event_followed")  # on an empty table any index in this order will do
        for scope, index in [
            ("execution_id = gen_random_uuid()", "event_by_execution"),
            (
                r"workspace_id = ANY(ARRAY[gen_random_uuid()]) AND type LIKE 'approval\_%'",
                "event_of_approvals",
            ),
        ]:
            cursor.execute(
                "EXPLAIN SELECT * FROM events_event WHERE " + scope + " AND (xid, id) > (1, 1)"
                " ORDER BY xid, id LIMIT 200"
            )
            assert index in "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute("EXPLAIN " + store.OF_EXECUTIONS, [[uuid.uuid4(), uuid.uuid4()], [1, 2], [1, 2], 200])
        assert "event_by_execution" in "\n".join(row[0] for row in cursor.fetchall())


@pytest.mark.django_db(transaction=True)
def test_pokes_come_after_the_commit_and_are_merged() -> None:
    ids = [uuid.uuid4() for _ in range(50)]
    layer = get_channel_layer()

    @async_to_sync
    async def listen() -> list[list[str]]:
        """What each message named, until the last of 500 pokes is surely through."""
        import asyncio

        from channels.db import database_sync_to_async

        channel = await layer.new_channel()
        await layer.group_add(listening.EVERYBODY, channel)

        def poke_much() -> None:
            for number in range(500):
                with transaction.atomic():
                    store.poke(execution_id=ids[number % 50])

        def poke_last() -> None:
            with transaction.atomic():
                store.poke(approvals=True)

        def roll_back() -> None:
            with transaction.atomic():
                store.poke(execution_id=uuid.uuid4())
                transaction.set_rollback(True)

        await database_sync_to_async(roll_back)()
        await database_sync_to_async(poke_much)()
        await database_sync_to_async(poke_last)()
        got: list[list[str]] = []
        while not got or store.APPROVALS not in got[-1]:  # told last, or together with the rest
            got.append((await asyncio.wait_for(layer.receive(channel), PATIENCE_S))["names"])
        return got

    told = listen()
    assert len(told) <= 20  # of 50 subjects
    assert {name for names in told for name in names} == {store.APPROVALS, *map(store.execution_name, ids)}


def test_a_poke_that_is_rolled_back_is_not_sent(db: None) -> None:
    from agentflow.events.pokes import pokes

    before = len(pokes._waiting)
    with transaction.atomic():
        store.poke(execution_id=uuid.uuid4())
    assert len(pokes._waiting) == before  # the test's own transaction never commits


def test_of_a_text_that_grows_what_came_last_is_shown_and_nothing_is_stored(db: None) -> None:
    execution_id = uuid.uuid4()
    layer = get_channel_layer()

    @async_to_sync
    async def listen() -> list[JSONObject]:
        import asyncio

        channel = await layer.new_channel()
        await layer.group_add(store.previews_group(execution_id), channel)
        for length in range(500):
            store.show_text(execution_id=execution_id, block_id="write", attempt=1, text="x" * length)
        got: list[JSONObject] = []
        while not got or len(got[-1]["message"]["text"]) < 499:
            got.append(await asyncio.wait_for(layer.receive(channel), PATIENCE_S))
        return got

    shown = listen()
    assert len(shown) <= 20
    assert shown[-1]["names"] == [store.previews_group(execution_id)]
    assert shown[-1]["message"] == {
        "type": "block_text",
        "executionId": str(execution_id),
        "blockId": "write",
        "attempt": 1,
        "text": "x" * 499,
    }
    assert not Event.objects.exists()
