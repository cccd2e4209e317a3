"""Sockets that send events as they happen, from a cursor, in order, with nothing missing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser

from ..api.websocket import BAD_MESSAGE, AuthenticatedConsumer
from ..errors import InvalidInput
from ..types import JSONObject
from . import store
from .models import Event, Level
from .store import Cursor, Page

FACT_CHARS = 1000  # of one text in a message: a message is a hint, the whole is behind REST


class UnknownMessage(InvalidInput):
    """That type of message is not known here."""

    code = "unknown_message"
    remedy = 'Send {"type": "resume", "cursor": "<the last cursor you have>"} or nothing.'


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the table: what was found, and the groups whose pokes call for the next one."""

    page: Page
    groups: frozenset[str]


class EventFeed(AuthenticatedConsumer):
    """Sends each event once, as `{"type", "id", "cursor", "at", ...facts}`; `id` is the event's number.

    Without a `?cursor=` it knows it begins with `{"type": "hello", "cursor"}` and what happens from then on.
    `{"type": "resume", "cursor"}` asks for what lies between that cursor and the beginning of this
    connection's feed; what was sent on this connection already is not sent again.

    A task of its own reads, so that a client that reads slowly holds up nothing but itself.  It
    looks when poked, and every `net_s` seconds because a poke may get lost.

    A subclass gives `groups_now` and `look_after`, which run in a thread, with the person as the
    database knows them at that moment; or `groups_wanted` and `look`, where many readers share a look.
    """

    net_s: ClassVar[float] = 10.0
    soon_s: ClassVar[float] = 0.1  # the first pause where an older transaction is still open
    late_s: ClassVar[float] = 2.0  # the longest such pause

    def groups_now(self, user: AbstractBaseUser) -> Collection[str]:
        """The channel-layer groups that poke this feed."""
        raise NotImplementedError

    def look_after(self, user: AbstractBaseUser, cursor: Cursor) -> Page:
        """The next events after `cursor` that `user` may see now."""
        raise NotImplementedError

    async def groups_wanted(self) -> frozenset[str]:
        """The groups whose pokes this feed wants now."""
        found: frozenset[str] = await database_sync_to_async(self._groups_now)()
        return found

    async def look(self, cursor: Cursor) -> Look:
        """One look after `cursor`.  A feed with many readers lets them share it."""
        look: Look = await database_sync_to_async(self._look)(cursor)
        return look

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._poked = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._joined: frozenset[str] = frozenset()
        self._begun = Cursor(0, 0)  # everything in (begun, sent] has been sent
        self._sent = Cursor(0, 0)
        self._resume: Cursor | None = None  # the client wants what follows this, up to begun

    # The socket's life ----------------------------------------------------------------------------

    async def opened(self) -> None:
        try:
            given = _given_cursor(self.scope)
        except InvalidInput as error:
            await self.leave(BAD_MESSAGE, error.message)
            return
        # First the groups, then the cursor: what commits in between pokes us.
        await self._join(await self.groups_wanted())
        now = await database_sync_to_async(store.current)()
        # A cursor from the future is one of another database, from before a restore.
        known = given is not None and given <= now
        self._begun = self._sent = given if given is not None and known else now
        if not known:
            await self.push({"type": "hello", "cursor": str(now)})
        self._feeder = asyncio.create_task(self._feed())

    async def disconnect(self, code: int) -> None:
        if self._feeder is not None:
            self._feeder.cancel()
        await super().disconnect(code)
        await self._join(frozenset())

    async def handle(self, message: JSONObject) -> None:
        if message.get("type") != "resume":
            raise UnknownMessage(pointer="/type")
        cursor = Cursor.parse(message.get("cursor"))
        if cursor < self._begun:
            self._resume = min(cursor, self._resume or cursor)
            self._poked.set()

    async def poke(self, event: JSONObject) -> None:
        self._poked.set()

    async def shown(self, event: JSONObject) -> None:
        """What is not stored yet: without a cursor, and gone when it is missed."""
        await self.push(event["message"])

    # Feeding --------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        pause_s = self.soon_s
        try:
            while not self._closed:
                self._poked.clear()
                before = self._sent
                unsettled = await self._send_new()
                # Only a transaction that stays open makes the pauses longer, not many short ones.
                stuck = unsettled and self._sent == before
                pause_s = min(2 * pause_s, self.late_s) if stuck else self.soon_s
                if not await self._poked_within(pause_s if unsettled else self.net_s):
                    # The layer forgets groups when it is wiped, and by itself after a day.
                    await self._join_again()
        except Exception as error:  # noqa: BLE001  # the client gets a close code and comes back
            await self._broke(error)

    async def _poked_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._poked.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _send_new(self) -> bool:
        """Send all there is; True: committed events wait for an older transaction to end."""
        while not self._closed:
            if self._resume is not None:
                await self._send_earlier(self._resume)
            look = await self.look(self._sent)
            if not look.groups and not await self._still_welcome():
                break  # closed, with a code
            for event in look.page.events:
                await self.push(as_message(event))
                self._sent = Cursor.of(event)
            if look.groups != self._joined:
                await self._join(look.groups)  # and look once more: nobody poked us for these until now
            elif len(look.page.events) < store.PAGE_EVENTS:
                return look.page.unsettled  # what was committed since pokes us
        return False

    async def _send_earlier(self, cursor: Cursor) -> None:
        """Send what lies in (cursor, begun]."""
        position = cursor
        while not self._closed:
            events = (await self.look(position)).page.events
            wanted = [event for event in events if Cursor.of(event) <= self._begun]
            for event in wanted:
                await self.push(as_message(event))
            if not events or len(wanted) < len(events):
                break
            position = Cursor.of(events[-1])
        self._begun = cursor
        if self._resume is not None and self._resume >= cursor:
            self._resume = None

    # In a thread, with the database ---------------------------------------------------------------

    def _look(self, cursor: Cursor) -> Look:
        person = self._person()
        if person is None:
            return Look(Page([], unsettled=False), frozenset())
        return Look(self.look_after(person, cursor), frozenset(self.groups_now(person)))

    def _groups_now(self) -> frozenset[str]:
        person = self._person()
        return frozenset(self.groups_now(person)) if person else frozenset()

    def _person(self) -> AbstractBaseUser | None:
        """The person as they are now: `self.user` is as old as the connection."""
        return get_user_model()._default_manager.filter(pk=self.user.pk, is_active=True).first()

    async def _join_again(self) -> None:
        for group in self._joined:
            await self.channel_layer.group_add(group, self.channel_name)

    async def _join(self, groups: frozenset[str]) -> None:
        for group in self._joined - groups:
            await self.channel_layer.group_discard(group, self.channel_name)
        for group in groups - self._joined:
            await self.channel_layer.group_add(group, self.channel_name)
        self._joined = groups


def as_message(event: Event) -> JSONObject:
    """`{"type": "approval_requested", "id": 812, "cursor": "741-812", "executionId": "...", ...}`"""
    facts: JSONObject = {"workspaceId": str(event.workspace_id), "at": event.at.isoformat()}
    if event.execution_id is not None:
        facts["executionId"] = str(event.execution_id)
    if event.block_id is not None:
        facts["blockId"] = event.block_id
    if event.type == "block_log":
        facts["level"] = Level(event.level).name.lower()
    facts |= {name: _short(value) for name, value in (event.payload or {}).items()}
    return {"type": event.type, "id": event.id, "cursor": str(Cursor.of(event))} | {
        name: value for name, value in facts.items() if name not in {"type", "id", "cursor"}
    }


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > FACT_CHARS:
        return value[: FACT_CHARS - 1] + "…"
    return value


def _given_cursor(scope: Any) -> Cursor | None:
    query = parse_qs(scope.get("query_string", b"").decode("ascii", errors="replace"))
    values = query.get("cursor")
    return Cursor.parse(values[0]) if values else None
