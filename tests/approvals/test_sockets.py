"""/ws/approvals and /ws/executions/{id}: every event once and in order, for those who may see it."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import pytest
import redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections, transaction

from agentflow.api import listening, tickets, websocket
from agentflow.events import feed, store
from agentflow.events.feed import EventFeed
from agentflow.events.reading import Reader
from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant, revoke
from approvals.models import Approval
from approvals.routing import websocket_urlpatterns as approvals_routes
from approvals.services.responding import respond
from executions.models import Execution
from executions.routing import websocket_urlpatterns as executions_routes
from tests.approvals.conftest import Office, make_office
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory
from tests.sockets import Socket
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.django_db(transaction=True)
CHANNELS: dict[str, Any] = dict(settings.CHANNEL_LAYERS["default"])["CONFIG"]  # type: ignore[assignment]
T = TypeVar("T")
application = websocket.application([*approvals_routes, *executions_routes])


@pytest.fixture
def office(transactional_db: None) -> Office:
    return make_office()


@pytest.fixture(autouse=True)
async def no_connection_stays_open() -> AsyncIterator[None]:
    yield
    await sync_to_async(connections.close_all)()


@asynccontextmanager
async def connected(user: User, path: str = "/ws/approvals", cursor: str = "") -> AsyncIterator[Socket]:
    ticket = await sync_to_async(tickets.issue)(user)
    socket = Socket(application, f"{path}?ticket={ticket}" + (f"&cursor={cursor}" if cursor else ""))
    try:
        assert await socket.connect()
        yield socket
    finally:
        await socket.leave()


async def asked(office: Office, **fields: Any) -> Approval:
    approval: Approval = await sync_to_async(ApprovalFactory.create)(
        **{"workspace": office.workspace} | fields
    )
    return approval


async def decide(approval: Approval, by: User) -> None:
    await sync_to_async(respond)(approval_id=approval.pk, by=by, approved=True)


def log(execution: Execution, *numbers: int) -> None:
    with transaction.atomic():
        for number in numbers:
            store.append(
                type="block_log",
                workspace_id=execution.workspace_id,
                execution_id=execution.pk,
                block_id="a",
                payload={"message": f"line {number}"},
            )
        store.poke(execution_id=execution.pk)


async def test_an_approver_hears_of_questions_and_answers(office: Office) -> None:
    async with connected(office.approver) as socket:
        hello = await socket.receive_json()
        assert hello == {"type": "hello", "cursor": hello["cursor"]}
        approval = await asked(office)
        message = await socket.receive_json()
        assert message.pop("id") == int(message["cursor"].split("-")[1])
        assert message.pop("at").startswith("20")
        assert store.Cursor.parse(message.pop("cursor")) > store.Cursor.parse(hello["cursor"])
        assert message == {
            "type": "approval_requested",
            "approvalId": str(approval.pk),
            "workspaceId": str(office.workspace.pk),
            "executionId": str(approval.execution_id),
            "blockId": "ask",
            "blockName": "Step ask",
            "kind": "approval",
            "level": "user",
            "status": "pending",
        }
        await decide(approval, office.colleague)
        message = await socket.receive_json()
        assert (message["type"], message["approved"], message["approver"]) == (
            "approval_responded",
            True,
            office.colleague.username,
        )


async def test_a_cursor_brings_what_was_missed_and_nothing_twice(office: Office) -> None:
    async with connected(office.approver) as socket:
        cursor = (await socket.receive_json())["cursor"]
        first = await asked(office)
        cursor = (await socket.receive_json())["cursor"]
    second = await asked(office)
    await decide(first, office.approver)
    async with connected(office.approver, cursor=cursor) as socket:
        missed = [await socket.receive_json() for _ in range(2)]
        assert [(each["type"], each["approvalId"]) for each in missed] == [
            ("approval_requested", str(second.pk)),
            ("approval_responded", str(first.pk)),
        ]
        third = await asked(office)
        assert (await socket.receive_json())["approvalId"] == str(third.pk)


async def test_resume_brings_what_was_before_the_connection_once(office: Office) -> None:
    start = str(await sync_to_async(store.current)())
    first = await asked(office)
    async with connected(office.approver) as socket:
        assert (await socket.receive_json())["type"] == "hello"
        for _ in range(3):
            await socket.send_text(f'{{"type": "resume", "cursor": "{start}"}}')
        assert (await socket.receive_json())["approvalId"] == str(first.pk)
        second = await asked(office)
        assert (await socket.receive_json())["approvalId"] == str(second.pk)
        assert await socket.receive_nothing(0.3)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ('{"type": "resume"}', "bad_cursor"),
        ('{"type": "resume", "cursor": "x"}', "bad_cursor"),
        ('{"type": "decide"}', "unknown_message"),
    ],
)
async def test_a_message_that_makes_no_sense_is_answered(office: Office, frame: str, code: str) -> None:
    async with connected(office.approver) as socket:
        await socket.receive_json()
        await socket.send_text(frame)
        answer = await socket.receive_json()
        assert (answer["type"], answer["code"]) == ("error", code)


async def test_a_bad_cursor_in_the_address_closes(office: Office) -> None:
    async with connected(office.approver, cursor="nonsense") as socket:
        assert await socket.close_code() == websocket.BAD_MESSAGE


async def test_a_cursor_of_another_database_starts_from_now(office: Office) -> None:
    async with connected(office.approver, cursor="9000000000000000000-1") as socket:
        assert (await socket.receive_json())["type"] == "hello"
        approval = await asked(office)
        assert (await socket.receive_json())["approvalId"] == str(approval.pk)


async def test_lost_pokes_cost_time_and_no_event(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "net_s", 0.2)
    approval = await asked(office)
    async with connected(office.approver) as socket:
        await socket.receive_json()
        await sync_to_async(tell_without_a_poke)(approval)
        assert (await socket.receive_json())["approvalId"] == str(approval.pk)


def tell_without_a_poke(approval: Approval) -> None:
    """The last event of an approval once more, by somebody who dies as soon as it is committed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)"
            " SELECT workspace_id, execution_id, block_id, type, level, payload FROM events_event"
            " WHERE type LIKE 'approval_%%' AND execution_id = %s ORDER BY id DESC LIMIT 1",
            [approval.execution_id],
        )
        assert cursor.rowcount == 1


async def test_a_transaction_that_commits_late_comes_through_soon_and_in_order(office: Office) -> None:
    execution = await sync_to_async(ExecutionFactory.create)(workspace=office.workspace)
    written, commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        try:
            with transaction.atomic():
                log(execution, 1)
                written.set()
                commit.wait(PATIENCE_S)
        finally:
            connection.close()

    async with connected(office.viewer, f"/ws/executions/{execution.pk}") as socket:
        await socket.receive_json()
        slow = threading.Thread(target=write_slowly)
        slow.start()
        try:
            assert await sync_to_async(written.wait)(10)
            await sync_to_async(log)(execution, 2, 3)
            assert await socket.receive_nothing(0.3)
        finally:
            commit.set()
        got = [(await socket.receive_json())["message"] for _ in range(3)]
        assert got == ["line 1", "line 2", "line 3"]
        await sync_to_async(slow.join)(10)


@pytest.mark.parametrize("waiting_max", [feed.WAITING_MAX, 3])
async def test_a_burst_arrives_whole_and_in_order(
    office: Office, monkeypatch: pytest.MonkeyPatch, waiting_max: int
) -> None:
    """Also where the client falls behind what the process reads, and reads for itself."""
    monkeypatch.setattr(feed, "WAITING_MAX", waiting_max)
    execution = await sync_to_async(ExecutionFactory.create)(workspace=office.workspace)
    async with connected(office.viewer, f"/ws/executions/{execution.pk}") as socket:
        await socket.receive_json()
        for start in range(0, 600, 100):
            await sync_to_async(log)(execution, *range(start, start + 100))
        got = [await socket.receive_json() for _ in range(600)]
        assert [each["message"] for each in got] == [f"line {n}" for n in range(600)]
        cursors = [store.Cursor.parse(each["cursor"]) for each in got]
        assert cursors == sorted(set(cursors))
        assert await socket.receive_nothing(0.2)


async def test_an_execution_is_shown_to_its_workspace_alone(office: Office) -> None:
    approval = await asked(office)
    path = f"/ws/executions/{approval.execution_id}"
    async with connected(office.viewer, path, cursor="0-0") as socket:
        message = await socket.receive_json()
        assert (message["type"], message["executionId"]) == (
            "approval_requested",
            str(approval.execution_id),
        )
    for user, where in [(office.stranger, path), (office.viewer, f"/ws/executions/{uuid.uuid4()}")]:
        async with connected(user, where) as socket:
            assert await socket.close_code() == websocket.NOT_FOUND


async def test_who_may_decide_nowhere_is_sent_away(office: Office) -> None:
    async with connected(office.viewer) as socket:
        assert await socket.close_code() == websocket.NOT_PERMITTED


async def test_other_workspaces_are_not_heard(office: Office) -> None:
    async with connected(office.stranger) as socket:
        await socket.receive_json()
        await asked(office)
        assert await socket.receive_nothing(0.5)


async def test_rights_that_go_close_the_socket_before_the_next_event(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "net_s", 60)
    async with connected(office.approver) as socket:
        await socket.receive_json()
        await sync_to_async(revoke)(user=office.approver, role=Role.APPROVER, workspace=office.workspace)
        await asked(office)
        message = await socket.receive_output(5)
        assert (message["type"], message["code"]) == ("websocket.close", websocket.NOT_PERMITTED)


async def test_rights_that_go_close_the_socket_though_nothing_happens(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventFeed, "recheck_s", 0.2)
    execution = await sync_to_async(ExecutionFactory.create)(workspace=office.workspace)
    async with connected(office.viewer, f"/ws/executions/{execution.pk}") as socket:
        await socket.receive_json()
        await sync_to_async(revoke)(user=office.viewer, role=Role.VIEWER, workspace=office.workspace)
        assert await socket.close_code() == websocket.NOT_PERMITTED


async def test_one_of_two_workspaces_lost_is_no_longer_heard_and_a_new_one_is(office: Office) -> None:
    other = await sync_to_async(WorkspaceFactory.create)()
    await sync_to_async(grant)(user=office.approver, role=Role.APPROVER, workspace=other)
    async with connected(office.approver) as socket:
        await socket.receive_json()
        await sync_to_async(revoke)(user=office.approver, role=Role.APPROVER, workspace=office.workspace)
        await asked(office)
        heard = await asked(office, workspace=other)
        assert (await socket.receive_json())["approvalId"] == str(heard.pk)
        third = await sync_to_async(WorkspaceFactory.create)()
        await sync_to_async(grant)(user=office.approver, role=Role.APPROVER, workspace=third)
        new = await asked(office, workspace=third)
        assert (await socket.receive_json())["approvalId"] == str(new.pk)


async def test_the_channel_layer_may_be_wiped(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "net_s", 0.3)
    monkeypatch.setattr(listening, "AGAIN_S", 0.3)
    async with connected(office.approver) as socket:
        await socket.receive_json()
        await sync_to_async(wipe_channel_layer)()
        approval = await asked(office)
        assert (await socket.receive_json())["approvalId"] == str(approval.pk)
        await sync_to_async(until)(lambda: members_of(listening.EVERYBODY))
        # From here on it is poked again.
        monkeypatch.setattr(Reader, "net_s", 60)
        for _ in range(2):
            approval = await asked(office)
            assert (await socket.receive_json())["approvalId"] == str(approval.pk)


# -- one reader for all ---------------------------------------------------------------------------


@asynccontextmanager
async def statements() -> AsyncIterator[list[str]]:
    """What the sockets ask the database, which they do in the one thread that such work has."""
    found: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        found.append(sql)
        return execute(sql, params, many, context)

    await sync_to_async(connection.execute_wrappers.append)(note)
    try:
        yield found
    finally:
        await sync_to_async(connection.execute_wrappers.remove)(note)


def elsewhere(do: Callable[[], T]) -> Awaitable[T]:
    """Do it in another thread, with a connection of its own."""

    def work() -> T:
        try:
            return do()
        finally:
            connection.close()

    return asyncio.to_thread(work)


async def test_reads_do_not_grow_with_the_sockets(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "net_s", 60)
    monkeypatch.setattr(websocket, "FRESH_S", 0)  # nobody's rights are taken for granted
    people = [office.approver, office.colleague]
    took = []
    for count in (1, 8):
        async with AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(connected(each)) for each in people * count]
            for socket in sockets:
                assert (await socket.receive_json())["type"] == "hello"
            async with statements() as found:
                approval = await elsewhere(lambda: ApprovalFactory.create(workspace=office.workspace))
                for socket in sockets:
                    assert (await socket.receive_json())["approvalId"] == str(approval.pk)
                took.append(len(found))
    # The events, the people's rights (3) and accounts; again where FRESH_S is over when it is sent.
    assert max(took) <= 12, took


async def test_executions_are_read_together(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "net_s", 60)
    executions = [await sync_to_async(ExecutionFactory.create)(workspace=office.workspace) for _ in range(10)]

    def log_all() -> None:
        with transaction.atomic():
            for number, execution in enumerate(executions):
                log(execution, number)

    async with AsyncExitStack() as stack:
        paths = [f"/ws/executions/{execution.pk}" for execution in executions] * 2
        sockets = [await stack.enter_async_context(connected(office.viewer, path)) for path in paths]
        for socket in sockets:
            assert (await socket.receive_json())["type"] == "hello"
        async with statements() as found:
            await elsewhere(log_all)
            for number, socket in enumerate(sockets):
                assert (await socket.receive_json())["message"] == f"line {number % 10}"
            reads = [sql for sql in found if "events_event" in sql]
            assert len(reads) <= 3, reads
            assert len(found) <= 14, found


async def test_a_broken_connection_to_the_database_closes_no_socket(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pid() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    def end(backend: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [backend])

    monkeypatch.setattr(Reader, "net_s", 0.2)
    async with connected(office.approver) as socket:
        await socket.receive_json()
        backend = await sync_to_async(pid)()
        await elsewhere(lambda: end(backend))
        approval = await elsewhere(lambda: ApprovalFactory.create(workspace=office.workspace))
        assert (await socket.receive_json())["approvalId"] == str(approval.pk)


async def test_the_last_socket_takes_the_process_off_the_layer(office: Office) -> None:
    async with connected(office.approver) as socket:
        await socket.receive_json()
        await sync_to_async(until)(lambda: members_of(listening.EVERYBODY))
    await sync_to_async(until)(lambda: not members_of(listening.EVERYBODY))


def channel_database() -> redis.Redis:
    return redis.Redis.from_url(CHANNELS["hosts"][0]["address"])


def wipe_channel_layer() -> None:
    with channel_database() as database:
        database.flushdb()


def members_of(group: str) -> int:
    with channel_database() as database:
        return int(database.zcard(f"{CHANNELS['prefix']}:group:{group}"))
