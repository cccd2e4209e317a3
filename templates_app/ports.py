"""What templates need from the apps above them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol
from uuid import UUID

from agentflow.bus import Port
from agentflow.workflow.definition import Assignees
from agentflow.workflow.health import Health

from .models import Template


class ApprovalLevels(Protocol):
    """The names a block's `approvalLevel` may bear in a workspace, beside `user`.  Bound by approvals."""

    def known_levels(self, workspace_id: UUID) -> set[str]: ...

    def people(
        self, workspace_id: UUID, levels: Collection[str], *, absent: bool = False
    ) -> Mapping[str, frozenset[int]]:
        """Who may decide at each of these levels now, the absent left out unless wanted too."""

    def assigned(
        self, workspace_id: UUID, assignees: Assignees, *, absent: bool = False
    ) -> tuple[frozenset[int], list[str]]:
        """Who of those named may decide now, the absent as in `people`; and why names lead to nobody."""

    def deputy_loops(self, workspace_id: UUID) -> list[tuple[int, ...]]:
        """People who stand in for each other at the same time, now or later: nobody answers for them."""

    def author_may_pass(self, workspace_id: UUID) -> bool:
        """Whether who wrote a version may pass the only gate that it has."""


class TemplateHealth(Protocol):
    """How well a template's executions go.  Bound by executions."""

    def __call__(self, template: Template) -> Health: ...


template_health: Port[TemplateHealth] = Port("templates_app.template_health")
approval_levels: Port[ApprovalLevels] = Port("templates_app.approval_levels")
