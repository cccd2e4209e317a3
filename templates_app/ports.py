"""What templates need from the apps above them."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from agentflow.bus import Port


class ApprovalLevels(Protocol):
    """The names a block's `approvalLevel` may bear in a workspace, beside `user`.  Bound by approvals."""

    def known_levels(self, workspace_id: UUID) -> set[str]: ...


approval_levels: Port[ApprovalLevels] = Port("templates_app.approval_levels")
