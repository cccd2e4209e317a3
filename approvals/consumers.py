"""/ws/approvals: what happens to the questions of the workspaces where one may decide."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from channels.db import database_sync_to_async
from django.contrib.auth.base_user import AbstractBaseUser

from agentflow.errors import NotPermitted
from agentflow.events import store
from agentflow.events.feed import EventFeed
from agentflow.governance import access
from agentflow.governance.roles import Permission


class ApprovalsConsumer(EventFeed):
    """The rights are read together with the events: no event of a workspace outlasts the right to it."""

    _was_welcome = False

    async def may_continue(self) -> bool:
        welcome = bool(await database_sync_to_async(self._groups_now)())
        if not welcome and not self._was_welcome:
            raise NotPermitted("You may not decide approvals anywhere.")
        self._was_welcome = True
        return welcome

    def groups_now(self, user: AbstractBaseUser) -> Collection[str]:
        return [store.approvals_group(workspace_id) for workspace_id in _workspace_ids(user)]

    def look_after(self, user: AbstractBaseUser, cursor: store.Cursor) -> store.Page:
        return store.page(after=cursor, workspace_ids=_workspace_ids(user))


def _workspace_ids(user: AbstractBaseUser) -> list[UUID]:
    return list(access.workspaces(user, Permission.DECIDE).values_list("pk", flat=True))
