"""Stored receipts under another rule: whom it would have chosen."""

from __future__ import annotations

from uuid import UUID

from agentflow.agents.matching import Rule, rescore
from agentflow.governance.access import Principal
from agentflow.types import JSONObject

from . import selectors
from .models import RoutingReceipt

RECEIPTS_MAX = 1000


def replay(
    user: Principal, *, workspace_id: UUID, rule: Rule, execution_id: UUID | None = None, limit: int
) -> JSONObject:
    """The newest receipts that `user` may see, or those of one execution, and what would have changed.

    Raises:
        NotFound: `user` may not see the execution.
    """
    rows = RoutingReceipt.objects.filter(block__execution__workspace_id=workspace_id)
    if execution_id is not None:
        rows = rows.filter(block__execution=selectors.find(user, execution_id).pk)
    columns = ("block__execution", "block__block_id", "attempt", "agent_id", "receipt")
    looked = 0
    changes = []
    for execution, block_id, attempt, chosen, receipt in rows.order_by("-pk").values_list(*columns)[:limit]:
        if not receipt.get("candidates"):
            continue  # its agent was named
        looked += 1
        other = rescore(receipt, rule)
        if other != chosen:
            changes.append(
                {
                    "executionId": execution,
                    "blockId": block_id,
                    "attempt": attempt,
                    "chosen": chosen,
                    "wouldChoose": other,
                }
            )
    return {"receipts": looked, "changed": len(changes), "changes": changes, "rule": rule.as_json()}
