"""/ws/executions/{id}: what happens in one execution."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from agentflow.events import store
from agentflow.events.feed import EventFeed
from agentflow.events.reading import Readers, Source
from agentflow.governance import access
from agentflow.governance.roles import Permission

from .models import Execution


class Executions(Source):
    """Each execution is a subject; all that are due are read in one statement."""

    permission = Permission.VIEW

    def watched(self, asked: Collection[tuple[int, str]]) -> Mapping[tuple[int, str], frozenset[UUID]]:
        ids = {store.execution_of(subject) for _, subject in asked}
        workspaces = dict(Execution.objects.filter(pk__in=ids).values_list("pk", "workspace_id"))
        held = access.workspaces_of({pk for pk, _ in asked}, self.permission, set(workspaces.values()))
        return {
            (pk, subject): held.get(pk, frozenset()) & {workspaces.get(store.execution_of(subject))}
            for pk, subject in asked
        }

    def news(self, places: Mapping[str, store.Cursor]) -> Mapping[str, store.Page]:
        pages = store.of_executions({store.execution_of(name): place for name, place in places.items()})
        return {store.execution_name(execution_id): page for execution_id, page in pages.items()}

    def earlier(self, subject: str, workspace_ids: frozenset[UUID], after: store.Cursor) -> store.Page:
        return store.page(after=after, execution_id=store.execution_of(subject))


class ExecutionConsumer(EventFeed):
    """Every event of the execution in the address, logs included, for whoever may see it."""

    readers = Readers(Executions())

    @property
    def execution_id(self) -> UUID:
        found: UUID = self.scope["url_route"]["kwargs"]["execution_id"]
        return found

    @property
    def subject(self) -> str:
        return store.execution_name(self.execution_id)

    @property
    def previews(self) -> str:
        return store.previews_group(self.execution_id)
