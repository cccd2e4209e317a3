"""What templates need from the apps above them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol
from uuid import UUID

from agentflow.bus import Port
from agentflow.workflow.definition import Assignees


class ApprovalLevels(Protocol):
    """The names a block's `approvalLevel` may bear in a workspace, beside `user`.  Bound by approvals."""

    def known_levels(self, workspace_id: UUID) -> set[str]: ...

    def people(self, workspace_id: UUID, levels: Collection[str]) -> Mapping[str, frozenset[int]]:
        """Who may decide at each of these levels now, the absent left out."""

    def assigned(self, workspace_id: UUID, assignees: Assignees) -> tuple[frozenset[int], list[str]]:
        """Who of those named may decide now, the absent left out; and why names lead to nobody."""


approval_levels: Port[ApprovalLevels] = Port("templates_app.approval_levels")
