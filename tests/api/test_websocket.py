from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.test import Client
from django.urls import path

from agentflow.api import listening, tickets, websocket
from agentflow.api.websocket import AuthenticatedConsumer
from agentflow.errors import InvalidInput
from agentflow.governance import access
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Permission, Role
from agentflow.governance.services.workspaces import revoke
from agentflow.types import JSONObject
from tests.factories.governance import WorkspaceFactory, member
from tests.sockets import Socket
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.django_db(transaction=True)


class Feed(AuthenticatedConsumer):
    """Shows one workspace's news."""

    recheck_s = 0.05
    workspace: Workspace

    async def may_continue(self) -> bool:
        return await sync_to_async(access.can)(self.user, Permission.VIEW, type(self).workspace.pk)

    async def opened(self) -> None:
        listening.listener().listen("feed", self.hear)
        await self.push({"type": "hello", "name": self.user.get_username()})

    async def handle(self, message: JSONObject) -> None:
        match message.get("type"):
            case "break":
                raise RuntimeError("secret inside")
            case "echo":
                await self.push(message)
            case _:
                raise InvalidInput("There is no such type.", pointer="/type")

    def hear(self, message: JSONObject | None) -> None:
        if message is not None:
            self.told = asyncio.create_task(self.push(message))

    async def disconnect(self, code: int) -> None:
        await super().disconnect(code)
        listening.listener().forget("feed", self.hear)


application = websocket.application([path("ws/feed", Feed.as_asgi())])


@pytest.fixture(autouse=True)
async def no_connection_stays_open() -> AsyncIterator[None]:
    """Database work of async code runs in a thread of its own, whose connection pytest does not know."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def workspace() -> Workspace:
    Feed.workspace = WorkspaceFactory.create()
    return Feed.workspace


@pytest.fixture
def user(workspace: Workspace) -> User:
    return member(workspace, Role.VIEWER)


def signed_in(user: User) -> tuple[Client, list[tuple[bytes, bytes]]]:
    client = Client()
    client.force_login(user)
    cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
    return client, [(b"cookie", cookie.encode()), (b"origin", b"http://localhost")]


@asynccontextmanager
async def socket(
    address: str = "/ws/feed", headers: list[tuple[bytes, bytes]] | None = None
) -> AsyncIterator[Socket]:
    client = Socket(application, address, headers)
    try:
        yield client
    finally:
        await client.leave()


async def test_a_session_from_one_of_our_pages_gets_in(user: User) -> None:
    _, headers = await sync_to_async(signed_in)(user)
    async with socket(headers=headers) as feed:
        assert await feed.connect()
        assert await feed.receive_json() == {"type": "hello", "name": user.username}


async def test_a_ticket_gets_a_program_in_once(user: User) -> None:
    ticket = await sync_to_async(tickets.issue)(user)
    async with socket(f"/ws/feed?ticket={ticket}") as feed:
        assert await feed.connect()
        assert (await feed.receive_json())["name"] == user.username
    async with socket(f"/ws/feed?ticket={ticket}") as feed:
        assert await feed.connect()
        assert await feed.close_code() == websocket.NOT_SIGNED_IN


@pytest.mark.parametrize(
    "origin",
    [
        None,
        b"http://evil.example",
        b"http://localhost.evil.example",
        b"null",
        b"",
        b"http://",
        b"file://",
        b"\xff\xfe",
        b"http://[::1",
        b"http://evil.example:80",
        b"https://evil.example/localhost",
        b"http://evil.example#localhost",
        b"http://localhost@evil.example",
        b"http://user:secret@evil.example",
        b"http://127.0.0.1.evil.example",
        b"http://xn--lcalhost-75a",
        b"ws://evil.example",
        b"chrome-extension://abcdefgh",
        b"data:text/html,localhost",
        b"localhost",
    ],
)
async def test_a_session_from_elsewhere_is_kept_out(user: User, origin: bytes | None) -> None:
    _, headers = await sync_to_async(signed_in)(user)
    headers = [header for header in headers if header[0] != b"origin"]
    async with socket(headers=headers if origin is None else [*headers, (b"origin", origin)]) as feed:
        assert not await feed.connect()


async def test_a_foreign_page_gets_nothing_by_bringing_a_ticket(user: User) -> None:
    ticket = await sync_to_async(tickets.issue)(user)
    async with socket(f"/ws/feed?ticket={ticket}", [(b"origin", b"http://evil.example")]) as feed:
        assert not await feed.connect()


async def test_nobody_and_a_stranger_are_told_by_code(user: User) -> None:
    async with socket(headers=[(b"origin", b"http://localhost")]) as feed:
        assert await feed.connect()
        assert await feed.close_code() == websocket.NOT_SIGNED_IN
    stranger = await sync_to_async(member)(await sync_to_async(WorkspaceFactory.create)(), Role.ADMIN)
    ticket = await sync_to_async(tickets.issue)(stranger)
    async with socket(f"/ws/feed?ticket={ticket}") as feed:
        assert await feed.connect()
        assert await feed.close_code() == websocket.NOT_FOUND
    async with socket("/ws/nothing", [(b"origin", b"http://localhost")]) as nothing:
        assert await nothing.connect()
        assert await nothing.close_code() == websocket.NOT_FOUND


def log_out(client: Client, user: User) -> None:
    client.logout()


def delete_session(client: Client, user: User) -> None:
    client.session.delete()


def change_password(client: Client, user: User) -> None:
    user.set_password("another long password")
    user.save()


def deactivate(client: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def delete(client: Client, user: User) -> None:
    user.delete()


def take_role(client: Client, user: User) -> None:
    revoke(user=user, role=Role.VIEWER, workspace=Feed.workspace)


@pytest.mark.parametrize(
    "revocation", [log_out, delete_session, change_password, deactivate, delete, take_role]
)
async def test_the_socket_closes_when_the_rights_go(
    user: User, revocation: Callable[[Client, User], None]
) -> None:
    client, headers = await sync_to_async(signed_in)(user)
    async with socket(headers=headers) as feed:
        assert await feed.connect()
        await feed.receive_json()
        await sync_to_async(revocation)(client, user)
        assert await feed.close_code() in {websocket.NOT_SIGNED_IN, websocket.NOT_PERMITTED}
        await listening.tell(["feed"], {"type": "news", "id": 1})
        assert await feed.receive_nothing(0.2)


async def test_nothing_is_sent_on_rights_that_went_a_while_ago(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feed, "recheck_s", 60)
    monkeypatch.setattr(websocket, "FRESH_S", 0)
    client, headers = await sync_to_async(signed_in)(user)
    async with socket(headers=headers) as feed:
        assert await feed.connect()
        await feed.receive_json()
        await listening.tell(["feed"], {"type": "news", "id": 1})
        assert await feed.receive_json() == {"type": "news", "id": 1}
        await sync_to_async(take_role)(client, user)
        await listening.tell(["feed"], {"type": "news", "id": 2})
        message = await feed.receive_output(5)
        assert (message["type"], message["code"]) == ("websocket.close", websocket.NOT_PERMITTED)


@asynccontextmanager
async def entered(user: User) -> AsyncIterator[Socket]:
    ticket = await sync_to_async(tickets.issue)(user)
    async with socket(f"/ws/feed?ticket={ticket}") as feed:
        assert await feed.connect()
        await feed.receive_json()
        yield feed


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "malformed_json"),
        ("[1]", "invalid_input"),
        ('{"type": "unheard-of"}', "invalid_input"),
        ('{"type": NaN}', "invalid_json"),
        ('{"type": "\\u0000"}', "invalid_json"),
        ("[" * 60_000, "invalid_json"),
    ],
)
async def test_a_frame_that_makes_no_sense_is_answered_and_the_socket_goes_on(
    user: User, frame: str, code: str
) -> None:
    async with entered(user) as feed:
        await feed.send_text(frame)
        assert (await feed.receive_json())["code"] == code
        await feed.send_text('{"type": "echo", "x": 1}')
        assert await feed.receive_json() == {"type": "echo", "x": 1}


async def test_frames_that_go_too_far_close_with_a_code(user: User) -> None:
    async with entered(user) as feed:
        await feed.send_text('"' + "é" * 33_000 + '"')
        assert await feed.close_code() == websocket.TOO_BIG
    async with entered(user) as feed:
        await feed.send_bytes(b"\xff\x00")
        assert await feed.close_code() == 1003
    async with entered(user) as feed:
        for _ in range(websocket.BAD_MESSAGES_MAX + 1):
            await feed.send_text("nope")
        assert await feed.close_code() == websocket.BAD_MESSAGE
    async with entered(user) as feed:
        await feed.send_text('{"type": "break"}')
        assert await feed.close_code() == websocket.BROKEN


async def test_the_neighbour_of_a_broken_socket_is_unharmed(user: User) -> None:
    async with entered(user) as broken, entered(user) as neighbour:
        await broken.send_text('{"type": "break"}')
        assert await broken.close_code() == websocket.BROKEN
        await asyncio.wait_for(neighbour.send_text('{"type": "echo"}'), PATIENCE_S)
        assert await neighbour.receive_json() == {"type": "echo"}


def test_the_group_of_a_session_hides_its_key() -> None:
    name: Any = websocket.session_name("secret-key")
    assert "secret-key" not in name
    assert len(name) < 100
