"""/ws/approvals: what happens to the questions of the workspaces where one may decide."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from agentflow.api.sharing import Together
from agentflow.errors import NotPermitted
from agentflow.events import store
from agentflow.events.feed import EventFeed, Look
from agentflow.governance import access
from agentflow.governance.roles import Permission


class ApprovalsConsumer(EventFeed):
    """The rights are read together with the events: no event of a workspace outlasts the right to it.

    All sockets of a process that look in the same moment share the look.
    """

    _was_welcome = False

    async def may_continue(self) -> bool:
        welcome = bool(await _rights.ask(self.user.pk))
        if not welcome and not self._was_welcome:
            raise NotPermitted("You may not decide approvals anywhere.")
        self._was_welcome = True
        return welcome

    async def groups_wanted(self) -> frozenset[str]:
        return _groups(await _rights.ask(self.user.pk))

    async def look(self, cursor: store.Cursor) -> Look:
        return await _looks.ask((self.user.pk, cursor))


def _look_at_rights(user_pks: Sequence[int]) -> dict[int, frozenset[UUID]]:
    held = access.workspaces_of(user_pks, Permission.DECIDE)
    return {pk: held.get(pk, frozenset()) for pk in user_pks}


def _look_at_events(asked: Sequence[tuple[int, store.Cursor]]) -> dict[tuple[int, store.Cursor], Look]:
    """Each person's rights, then one page per place and set of workspaces."""
    held = _look_at_rights(sorted({pk for pk, _ in asked}))
    pages: dict[tuple[frozenset[UUID], store.Cursor], store.Page] = {}
    for pk, cursor in asked:
        if (held[pk], cursor) not in pages:
            pages[held[pk], cursor] = (
                store.page(after=cursor, workspace_ids=held[pk])
                if held[pk]
                else store.Page([], unsettled=False)
            )
    return {(pk, cursor): Look(pages[held[pk], cursor], _groups(held[pk])) for pk, cursor in asked}


def _groups(workspace_ids: frozenset[UUID]) -> frozenset[str]:
    return frozenset(map(store.approvals_group, workspace_ids))


_rights = Together(_look_at_rights)
_looks = Together(_look_at_events)
