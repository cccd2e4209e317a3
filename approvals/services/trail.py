"""What is done to a question, on the audit record."""

from __future__ import annotations

from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONValue

from ..models import Approval


def record(action: str, approval: Approval, by: User | None, **facts: JSONValue) -> None:
    audit.record(
        action=f"approval.{action}",
        by=by,
        workspace_id=approval.workspace_id,
        target_type="approval",
        target_id=str(approval.pk),
        detail={"executionId": str(approval.execution_id), "blockId": approval.block_id, **facts},
    )
