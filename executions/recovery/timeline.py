"""The self-healing flow of an execution, from its rows: one entry for each failure about which was decided.

error, classification, alternatives, restored state, strategy, result: in this order each entry tells them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from agentflow.types import JSONObject
from executions.incidents import reads
from executions.models import AttemptOutcome, BlockAttempt, BlockExecution, Execution, RoutingReceipt
from executions.states import BlockStatus

ALTERNATIVES = 5
BLOCK_AGAIN = frozenset({"retry", "reassign", "queue"})


def decided(execution: Execution, block_id: str | None = None) -> QuerySet[BlockAttempt]:
    """The failed attempts of an execution, in all its epochs, the oldest first."""
    rows = BlockAttempt.objects.filter(block__execution=execution, failure__has_key="recovery")
    if block_id is not None:
        rows = rows.filter(block__block_id=block_id)
    return rows.select_related("block").order_by("ended_at", "pk")


def entries(attempts: Sequence[BlockAttempt]) -> list[JSONObject]:
    """These failures with what came of them, in three queries for any number."""
    blocks = {attempt.block_id for attempt in attempts}
    after = _After.of(blocks)
    return [_entry(attempt, after) for attempt in attempts]


@dataclass(frozen=True, slots=True)
class _After:
    """What is known of the blocks beside their failures."""

    outcomes: Mapping[int, Mapping[int, str]]
    receipts: Mapping[tuple[int, int], RoutingReceipt]
    incidents: Mapping[int, UUID]

    @classmethod
    def of(cls, blocks: Collection[int]) -> _After:
        outcomes: dict[int, dict[int, str]] = defaultdict(dict)
        for block, attempt, outcome in BlockAttempt.objects.filter(block__in=blocks).values_list(
            "block_id", "attempt", "outcome"
        ):
            outcomes[block][attempt] = outcome
        receipts = RoutingReceipt.objects.filter(block__in=blocks)
        by_attempt = {(each.block_id, each.attempt): each for each in receipts}
        return cls(outcomes, by_attempt, reads.of_blocks(blocks))


def _entry(attempt: BlockAttempt, after: _After) -> JSONObject:
    block, failure = attempt.block, attempt.failure or {}
    recovery = failure.get("recovery") or {}
    return {
        "at": attempt.ended_at,
        "blockId": block.block_id,
        "item": block.iteration or None,
        "epoch": block.epoch,
        "attempt": attempt.attempt,
        "injected": (attempt.injected or {}).get("fault"),
        "error": {
            "code": failure.get("code", ""),
            "message": failure.get("message", ""),
            "agentId": attempt.agent_id or None,
        },
        "classification": {
            "kind": failure.get("kind", ""),
            "cause": recovery.get("cause", ""),
            "outcomeUnknown": bool(failure.get("outcomeUnknown")),
            "rule": recovery.get("rule"),
        },
        "alternatives": _alternatives(attempt, after),
        "restoredState": _restored(block, recovery),
        "strategy": {
            "name": recovery.get("strategy", ""),
            "agentId": recovery.get("agentId"),
            "afterSeconds": recovery.get("afterSeconds"),
            "passed": recovery.get("passed", []),
            "learned": recovery.get("learned"),
        },
        "result": _result(attempt, block, after, recovery.get("strategy", "")),
        "incidentId": after.incidents.get(block.pk),
    }


def _alternatives(attempt: BlockAttempt, after: _After) -> list[JSONObject]:
    """Who could have been called next, as the next attempt's receipt tells."""
    receipt = after.receipts.get((attempt.block_id, attempt.attempt + 1))
    if receipt is None:
        return []
    found = [each["agentId"] for each in receipt.receipt.get("candidates") or ()]
    named = found or [receipt.agent_id]
    left_out = receipt.receipt.get("filteredOut") or ()
    return [
        *(
            {"agentId": name, "chosen": name == receipt.agent_id, "why": None}
            for name in named[:ALTERNATIVES]
        ),
        *(
            {"agentId": each["agentId"], "chosen": False, "why": each["reason"]}
            for each in left_out[:ALTERNATIVES]
        ),
    ]


def _restored(block: BlockExecution, recovery: JSONObject) -> JSONObject | None:
    """What the work goes on from; None: it does not go on by itself."""
    strategy = recovery.get("strategy")
    if strategy in BLOCK_AGAIN:
        return {"of": "block", "recoveryPointId": None}
    if strategy == "restart":
        return {"of": "execution", "recoveryPointId": recovery.get("recoveryPointId")}
    return None


def _result(attempt: BlockAttempt, block: BlockExecution, after: _After, strategy: str) -> JSONObject:
    """`recovered`, `failed_again`, `waiting`, `by_hand`, `ended` or, of what a restart left, `restarted`."""
    later = {n: how for n, how in after.outcomes[block.pk].items() if n > attempt.attempt}
    following = min(later, default=None)
    told: dict[str, Any] = {"attempt": following, "blockStatus": block.status}
    if following is not None:
        ok = later[following] in (AttemptOutcome.OK, AttemptOutcome.WAITED)
        return {"status": "recovered" if ok else "failed_again", **told}
    if strategy == "restart":
        return {"status": "restarted", **told}
    settled = block.completed_at is not None
    if settled and strategy == "ask":
        return {"status": "by_hand", **told}
    if settled or block.status == BlockStatus.CANCELLED:
        return {"status": "ended", **told}
    return {"status": "waiting", **told}
