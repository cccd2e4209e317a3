"""One reader for all sockets of a process: an event costs the same few queries however many watch.

A feed is *caught up* when all up to its subject's place has been sent to it or is none of its business.
From there on it is offered what the reader reads.  One that connects with an old cursor, or takes too
little too slowly, reads for itself until it is caught up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async

from ..api.listening import listener
from ..api.sharing import Together
from ..api.websocket import Account, accounts_now
from ..governance import access
from ..governance.roles import Permission
from ..types import JSONObject
from . import store
from .models import Event, Level
from .store import Cursor, Page

if TYPE_CHECKING:
    from .feed import EventFeed

log = logging.getLogger(__name__)

FACT_CHARS = 1000  # of one text in a message: a message is a hint, the whole is behind REST
OFFERS_AT_ONCE = 1000  # before others of the event loop have their turn
Rights: TypeAlias = Mapping[int, frozenset[UUID]]  # by person: of the workspaces in question, which
Asked: TypeAlias = tuple[int, str, Cursor]  # person, subject and place


class Source(ABC):
    """Where the events of one kind of feed come from.  All run in a thread."""

    permission: ClassVar[Permission]  # in an event's workspace, for whoever is sent it

    @abstractmethod
    def watched(self, asked: Collection[tuple[int, str]]) -> Mapping[tuple[int, str], frozenset[UUID]]:
        """The workspaces whose events each of these people may have now, each of their subject."""

    @abstractmethod
    def news(self, places: Mapping[str, Cursor]) -> Mapping[str, Page]:
        """The next events of each subject after its place, whoever may see them."""

    @abstractmethod
    def earlier(self, subject: str, workspace_ids: frozenset[UUID], after: Cursor) -> Page:
        """The next events of a subject that who may see these workspaces may see."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one person finds who reads alone, and the workspaces it is from."""

    workspace_ids: frozenset[UUID]
    page: Page


@dataclass(slots=True)
class Subject:
    """Something that feeds follow; all that lies before `place` was offered to those that are caught up."""

    feeds: dict[int, set[EventFeed]] = field(default_factory=lambda: defaultdict(set))  # by person
    place: Cursor | None = None

    def all(self) -> Iterator[EventFeed]:
        for feeds in self.feeds.values():
            yield from feeds


class Reader:
    """Reads for the feeds of one kind and event loop: when poked, and every `net_s`, as pokes get lost."""

    net_s: ClassVar[float] = 10.0
    pace_s: ClassVar[float] = 0.05  # what is told meanwhile is read together
    soon_s: ClassVar[float] = 0.1  # the first pause where an older transaction is still open
    late_s: ClassVar[float] = 2.0  # the longest such pause

    def __init__(self, source: Source) -> None:
        self.source = source
        self._subjects: dict[str, Subject] = {}
        self._hears: dict[str, partial[None]] = {}
        self._due: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- who follows --------------------------------------------------------------------

    async def join(self, name: str, feed: EventFeed) -> Cursor:
        """Let a feed follow a subject; gives a place after which it is offered everything."""
        subject = self._subjects.get(name)
        if subject is None:
            subject = self._subjects[name] = Subject()
            self._hears[name] = partial(self._told, name)
            listener().listen(name, self._hears[name])
        subject.feeds[feed.user.pk].add(feed)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        now = await _current.ask(None)
        if subject.place is None:
            subject.place = now
        return now

    def leave(self, name: str, feed: EventFeed) -> None:
        subject = self._subjects.get(name)
        if subject is None:
            return
        subject.feeds[feed.user.pk].discard(feed)
        if not subject.feeds[feed.user.pk]:
            del subject.feeds[feed.user.pk]
        if not subject.feeds:
            del self._subjects[name]
            listener().forget(name, self._hears.pop(name))
            self._wake.set()

    def _told(self, name: str, message: object) -> None:
        self._due.add(name)
        self._wake.set()

    # -- reading ------------------------------------------------------------------------

    async def _run(self) -> None:
        now = time.monotonic()
        net_at, again_at, pause_s = now + self.net_s, now, self.soon_s
        unsettled = set[str]()
        while self._subjects:
            await self._woken_by(min(net_at, again_at) if unsettled else net_at)
            now = time.monotonic()
            if now >= net_at:
                net_at = now + self.net_s
                self._due |= self._subjects.keys()
            if again := now >= again_at:
                self._due |= unsettled
            due, self._due = self._due, set()
            places = self._places(due)
            found = await self._read(places)
            if again or not unsettled:
                # Only a transaction that stays open makes the pauses longer, not many short ones.
                stuck = bool(found) and places == self._places(due)
                pause_s = min(2 * pause_s, self.late_s) if stuck else self.soon_s
                again_at = time.monotonic() + pause_s
            unsettled = (unsettled - due) | found
            if not self._due:
                await asyncio.sleep(self.pace_s)

    async def _woken_by(self, moment: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), max(moment - time.monotonic(), 0))
        self._wake.clear()

    def _places(self, names: Collection[str]) -> dict[str, Cursor]:
        subjects = {name: self._subjects.get(name) for name in names}
        return {
            name: one.place for name, one in subjects.items() if one is not None and one.place is not None
        }

    async def _read(self, places: Mapping[str, Cursor]) -> set[str]:
        """Offer what follows these places, a page of each; gives what has to be looked at again soon."""
        if not places:
            return set()
        try:
            pages: Mapping[str, Page] = await database_sync_to_async(self.source.news)(places)
            found = {name: page.events for name, page in pages.items() if page.events}
            if found:
                await self._pass_on(found)
        except Exception:  # the sockets' own checks close them where the database stays away
            log.warning("sockets wait: their events could not be read", exc_info=True)
            return set(places)
        for name, events in found.items():
            if len(events) >= store.PAGE_EVENTS:
                self._told(name, None)
        return {name for name, page in pages.items() if page.unsettled}

    async def _pass_on(self, found: Mapping[str, list[Event]]) -> None:
        """Offer events to those who may see them at this moment, which is later than the events'."""
        asked_at = time.monotonic()
        subjects = {name: self._subjects[name] for name in found if name in self._subjects}
        feeds = [feed for subject in subjects.values() for feed in subject.all()]
        among = frozenset(event.workspace_id for events in found.values() for event in events)
        rights, accounts = await database_sync_to_async(self._rights)(feeds, among)
        for feed in feeds:
            feed.seen(rights.get(feed.user.pk, frozenset()), among, accounts, asked_at)
        offers = 0
        for name, subject in subjects.items():
            for event in found[name]:
                text = as_text(event)
                for pk, their in subject.feeds.items():
                    if event.workspace_id in rights.get(pk, ()):
                        for feed in their:
                            feed.offer(event, text)
                        offers += len(their)
                # In one go with the offers: who comes from here on is told to begin behind this event.
                subject.place = Cursor.of(event)
                if offers >= OFFERS_AT_ONCE:
                    offers = 0
                    await asyncio.sleep(0)

    def _rights(
        self, feeds: Collection[EventFeed], among: Collection[UUID]
    ) -> tuple[Rights, Mapping[tuple[int, str], Account]]:
        people = {feed.user.pk for feed in feeds}
        rights = access.workspaces_of(people, self.source.permission, among)
        return rights, accounts_now({feed.account for feed in feeds if rights.get(feed.user.pk)})


class Readers:
    """A kind of feed's reader, one for each event loop."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.watched = Together(source.watched)
        self.earlier = Together(self._earlier)
        self._readers: WeakKeyDictionary[asyncio.AbstractEventLoop, Reader] = WeakKeyDictionary()

    def here(self) -> Reader:
        loop = asyncio.get_running_loop()
        if (found := self._readers.get(loop)) is None:
            found = self._readers[loop] = Reader(self.source)
        return found

    def _earlier(self, asked: Collection[Asked]) -> Mapping[Asked, Look]:
        """Each person's rights, then one page for each place and set of workspaces."""
        held = self.source.watched({(pk, subject) for pk, subject, _ in asked})
        pages: dict[tuple[str, frozenset[UUID], Cursor], Page] = {}
        found = {}
        for pk, subject, after in asked:
            wanted = subject, held[pk, subject], after
            if wanted not in pages:
                pages[wanted] = self.source.earlier(*wanted) if wanted[1] else Page([], unsettled=False)
            found[pk, subject, after] = Look(held[pk, subject], pages[wanted])
        return found


def as_text(event: Event) -> str:
    """`{"type": "approval_requested", "id": 812, "cursor": "741-812", "executionId": "...", ...}`"""
    facts: JSONObject = {"workspaceId": str(event.workspace_id), "at": event.at.isoformat()}
    if event.execution_id is not None:
        facts["executionId"] = str(event.execution_id)
    if event.block_id is not None:
        facts["blockId"] = event.block_id
    if event.type == "block_log":
        facts["level"] = Level(event.level).name.lower()
    facts |= {name: _short(value) for name, value in (event.payload or {}).items()}
    head = {"type": event.type, "id": event.id, "cursor": str(Cursor.of(event))}
    return json.dumps({**head, **{name: value for name, value in facts.items() if name not in head}})


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > FACT_CHARS:
        return value[: FACT_CHARS - 1] + "…"
    return value


_current: Together[None, Cursor] = Together(lambda asked: dict.fromkeys(asked, store.current()))
