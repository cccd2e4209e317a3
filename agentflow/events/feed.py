"""Sockets that send events as they happen, from a cursor, in order, with nothing missing."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs
from uuid import UUID

from ..api.listening import listener
from ..api.websocket import BAD_MESSAGE, Account, AuthenticatedConsumer
from ..errors import InvalidInput
from ..types import JSONObject
from . import store
from .models import Event
from .reading import Readers, as_text
from .store import Cursor

WAITING_MAX = 1000  # events that wait for a slow client: beyond that it reads for itself


class UnknownMessage(InvalidInput):
    """That type of message is not known here."""

    code = "unknown_message"
    remedy = 'Send {"type": "resume", "cursor": "<the last cursor you have>"} or nothing.'


class EventFeed(AuthenticatedConsumer):
    """Sends each event once, as `{"type", "id", "cursor", "at", ...facts}`; `id` is the event's number.

    Without a `?cursor=` it knows it begins with `{"type": "hello", "cursor"}` and what happens from then on.
    `{"type": "resume", "cursor"}` asks for what lies between that cursor and the beginning of this
    connection's feed; what was sent on this connection already is not sent again.

    The process's reader offers it what is new, with the rights of that moment.  A task of its own
    sends, so that a client that reads slowly holds up nothing but itself.
    """

    readers: ClassVar[Readers]

    @property
    @abstractmethod
    def subject(self) -> str:
        """What it follows, by the name that pokes have."""

    @property
    def previews(self) -> str:
        """The group that tells what is not stored yet, if there is one."""
        return ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._feeder: asyncio.Task[None] | None = None
        self._joined = False
        self._begun = Cursor(0, 0)  # everything in (begun, sent] has been sent
        self._sent = Cursor(0, 0)
        self._resume: Cursor | None = None  # the client wants what follows this, up to begun
        self._news = asyncio.Event()
        self._waiting: deque[tuple[Event, str]] = deque()
        self._behind = True  # it reads for itself; what is offered is not kept
        self._previews: dict[str, JSONObject] = {}
        self._workspaces: frozenset[UUID] = frozenset()  # whose events it might have, when last looked at
        self._doubted = False  # rights seem to have gone

    # The socket's life ----------------------------------------------------------------------------

    async def may_continue(self) -> bool:
        self._workspaces = await self.readers.watched.ask((self.user.pk, self.subject))
        return bool(self._workspaces)

    async def opened(self) -> None:
        try:
            given = _given_cursor(self.scope)
        except InvalidInput as error:
            await self.leave(BAD_MESSAGE, error.message)
            return
        self._joined = True
        if self.previews:
            listener().listen(self.previews, self._preview, group=self.previews)
        self._behind = given is not None
        now = await self.readers.here().join(self.subject, self)
        # A cursor from the future is one of another database, from before a restore.
        known = given is not None and given <= now
        self._begun = self._sent = given if given is not None and known else now
        if not known:
            await self.push({"type": "hello", "cursor": str(now)})
        self._news.set()
        self._feeder = asyncio.create_task(self._feed())

    async def disconnect(self, code: int) -> None:
        if self._feeder is not None:
            self._feeder.cancel()
        await super().disconnect(code)
        if self._joined:
            self.readers.here().leave(self.subject, self)
            if self.previews:
                listener().forget(self.previews, self._preview, group=self.previews)

    async def handle(self, message: JSONObject) -> None:
        if message.get("type") != "resume":
            raise UnknownMessage(pointer="/type")
        cursor = Cursor.parse(message.get("cursor"))
        if cursor < self._begun:
            self._resume = min(cursor, self._resume or cursor)
            self._news.set()

    # What the reader says, without waiting for anything -------------------------------------------

    def seen(
        self,
        workspace_ids: frozenset[UUID],
        among: frozenset[UUID],
        accounts: Mapping[tuple[Any, str], Account],
        asked_at: float,
    ) -> None:
        """Take note of the rights as they were at a moment: which workspaces one might see, of `among`."""
        before, self._workspaces = self._workspaces, (self._workspaces - among) | workspace_ids
        if (account := accounts.get(self.account)) is not None and self._account_holds(account):
            self._checked_at = max(self._checked_at, asked_at)
        elif account is not None or (before and not self._workspaces):
            self._doubted = True
            self._news.set()

    def offer(self, event: Event, text: str) -> None:
        """An event that this person may see."""
        if self._behind:
            return
        self._waiting.append((event, text))
        if len(self._waiting) > WAITING_MAX:
            self._waiting.clear()
            self._behind = True
        self._news.set()

    def _preview(self, message: JSONObject | None) -> None:
        if message is not None:
            self._previews[str(message.get("blockId"))] = message
            self._news.set()

    # Sending --------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            while not self._closed:
                await self._news.wait()
                self._news.clear()
                if self._doubted:
                    self._doubted = False
                    await self._still_welcome()
                if self._resume is not None:
                    await self._send_earlier(self._resume)
                if self._behind:
                    await self._catch_up()
                await self._send_waiting()
        except Exception as error:  # noqa: BLE001  # the client gets a close code and comes back
            await self._broke(error)

    async def _send_waiting(self) -> None:
        while self._waiting and not self._closed:
            event, text = self._waiting.popleft()
            if Cursor.of(event) > self._sent:
                self._sent = Cursor.of(event)
                await self._send(event, text)
        while self._previews and not self._closed:
            await self.push(self._previews.pop(next(iter(self._previews))))

    async def _catch_up(self) -> None:
        """Read until nothing is left that was offered before what is offered was kept."""
        self._behind = False
        while not self._closed and not self._behind:
            events = await self._after(self._sent)
            for event in events:
                self._sent = Cursor.of(event)
                await self._send(event, as_text(event))
            if len(events) < store.PAGE_EVENTS:
                return
        self._news.set()

    async def _send_earlier(self, cursor: Cursor) -> None:
        """Send what lies in (cursor, begun]."""
        position = cursor
        while not self._closed:
            events = await self._after(position)
            wanted = [event for event in events if Cursor.of(event) <= self._begun]
            for event in wanted:
                await self._send(event, as_text(event))
            if not events or len(wanted) < len(events):
                break
            position = Cursor.of(events[-1])
        self._begun = cursor
        if self._resume is not None and self._resume >= cursor:
            self._resume = None

    async def _after(self, cursor: Cursor) -> list[Event]:
        look = await self.readers.earlier.ask((self.user.pk, self.subject, cursor))
        self._workspaces = look.workspace_ids
        return look.page.events

    async def _send(self, event: Event, text: str) -> None:
        """Send, unless the right to it has gone while it waited for a slow client."""
        if await self._still_welcome_soon() and event.workspace_id in self._workspaces:
            await self.push_text(text)


def _given_cursor(scope: Any) -> Cursor | None:
    query = parse_qs(scope.get("query_string", b"").decode("ascii", errors="replace"))
    values = query.get("cursor")
    return Cursor.parse(values[0]) if values else None
