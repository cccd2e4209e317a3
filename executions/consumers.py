"""/ws/executions/{id}: what happens in one execution."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from channels.db import database_sync_to_async
from django.contrib.auth.base_user import AbstractBaseUser

from agentflow.events import store
from agentflow.events.feed import EventFeed

from .models import Execution


class ExecutionConsumer(EventFeed):
    """Every event of the execution in the address, logs included, for whoever may see it."""

    @property
    def execution_id(self) -> UUID:
        found: UUID = self.scope["url_route"]["kwargs"]["execution_id"]
        return found

    async def may_continue(self) -> bool:
        return bool(await database_sync_to_async(self._groups_now)())

    def groups_now(self, user: AbstractBaseUser) -> Collection[str]:
        visible = Execution.objects.visible_to(user).filter(pk=self.execution_id).exists()
        return [store.execution_group(self.execution_id)] if visible else []

    def look_after(self, user: AbstractBaseUser, cursor: store.Cursor) -> store.Page:
        if not self.groups_now(user):
            return store.Page([], unsettled=False)
        return store.page(after=cursor, execution_id=self.execution_id)
