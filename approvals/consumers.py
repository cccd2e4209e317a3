"""/ws/approvals: what happens to the questions of the workspaces where one may decide."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from agentflow.errors import NotPermitted
from agentflow.events import store
from agentflow.events.feed import EventFeed
from agentflow.events.reading import Readers, Source
from agentflow.governance import access
from agentflow.governance.roles import Permission


class Approvals(Source):
    """One subject for all workspaces: whoever follows several needs one order of what happens in them."""

    permission = Permission.DECIDE

    def watched(self, asked: Collection[tuple[int, str]]) -> Mapping[tuple[int, str], frozenset[UUID]]:
        held = access.workspaces_of({pk for pk, _ in asked}, self.permission)
        return {(pk, subject): held.get(pk, frozenset()) for pk, subject in asked}

    def news(self, places: Mapping[str, store.Cursor]) -> Mapping[str, store.Page]:
        return {subject: store.approvals(after=place) for subject, place in places.items()}

    def earlier(self, subject: str, workspace_ids: frozenset[UUID], after: store.Cursor) -> store.Page:
        return store.page(after=after, workspace_ids=workspace_ids)


class ApprovalsConsumer(EventFeed):
    readers = Readers(Approvals())
    subject = store.APPROVALS

    _was_welcome = False

    async def may_continue(self) -> bool:
        welcome = await super().may_continue()
        if not welcome and not self._was_welcome:
            raise NotPermitted("You may not decide approvals anywhere.")
        self._was_welcome = True
        return welcome
