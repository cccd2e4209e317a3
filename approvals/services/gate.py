"""Opening and withdrawing questions, on behalf of the engine and in its transactions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Now

from agentflow.events import store
from agentflow.types import JSONObject, JSONValue
from executions.models import BlockExecution, Timer, TimerKind
from executions.ports import Decision, HumanAsk
from executions.states import BlockStatus

from ..models import Approval, ApprovalKind
from ..states import APPROVAL, ApprovalStatus
from . import weighing

S = ApprovalStatus
TITLE_CHARS = 200  # of a title in an event: events are hints


def timer_key(approval_id: UUID) -> str:
    return f"{TimerKind.APPROVAL_TIMEOUT}:{approval_id}"


def content_hash(*, request: JSONObject, input_schema: JSONObject, version_hash: str, attempt: int) -> str:
    """SHA-256 over all that a person sees and what it stands for, as canonical JSON."""
    seen = {
        "request": request,
        "inputSchema": input_schema,
        "versionHash": version_hash,
        "attempt": attempt,
    }
    text = json.dumps(seen, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Gate:
    """Binds `executions.ports.human_gate`.  The caller holds the execution's lock."""

    def unasked(self) -> int:
        waiting = BlockExecution.objects.filter(
            status=BlockStatus.WAITING_HUMAN,
            execution__completed_at=None,
            execution__epoch=F("epoch"),
        )
        asked = Approval.objects.filter(block_execution=OuterRef("pk"), status=S.PENDING)
        return waiting.exclude(Exists(asked)).count()

    def open(self, asks: Sequence[HumanAsk]) -> None:
        """Ask all of these, each with its timer and its event."""
        if not asks:
            return
        weights = weighing.weigh([(ask.execution_id, ask.block_id) for ask in asks])
        approvals = Approval.objects.bulk_create(
            [_approval(ask, weights[ask.execution_id, ask.block_id]) for ask in asks]
        )
        Timer.objects.bulk_create(
            Timer(
                kind=TimerKind.APPROVAL_TIMEOUT,
                key=timer_key(approval.pk),
                execution_id=approval.execution_id,
                subject=approval.pk,
                due_at=_from_now(ask),
            )
            for approval, ask in zip(approvals, asks, strict=True)
        )
        store.append_many([_event("approval_requested", approval) for approval in approvals])
        _poke(approvals)

    def decisions(self, *, execution_id: UUID, epoch: int, idx: int) -> dict[int, Decision]:
        rows = BlockExecution.objects.filter(execution=execution_id, epoch=epoch, idx=idx)
        iterations = {
            origin or pk: iteration
            for pk, origin, iteration in rows.values_list("pk", "carried_from", "iteration")
        }
        answered = Approval.objects.filter(
            block_execution__in=list(iterations), status__in=[S.APPROVED, S.REJECTED]
        ).exclude(kind=ApprovalKind.FIX)
        return {
            iterations[approval.block_execution_id]: Decision(
                approval_id=approval.pk,
                content_hash=approval.content_hash,
                approved=approval.status == S.APPROVED,
                response=approval.response,
            )
            for approval in answered.order_by("closed_at").defer("request", "input_schema")
        }

    def content_hash(self, ask: HumanAsk) -> str:
        return _hash_of(ask)

    def carry(self, asks: Sequence[tuple[HumanAsk, Decision]]) -> None:
        """Each becomes an approval of its own, with the person and the moment of the one answered."""
        answered = Approval.objects.select_related("responder").in_bulk(
            [decision.approval_id for _, decision in asks]
        )
        approvals = Approval.objects.bulk_create(
            [_carried(ask, answered[decision.approval_id]) for ask, decision in asks]
        )
        store.append_many([_carried_event(approval) for approval in approvals])
        _poke(approvals)

    def cancel(self, *, execution_id: UUID, block_pks: Sequence[int] | None, reason: str) -> None:
        """Withdraw what is open; an answer that came first stands."""
        rows = Approval.objects.filter(execution_id=execution_id)
        if block_pks is not None:
            rows = rows.filter(block_execution_id__in=list(block_pks))
        withdrawn = withdraw(rows, reason=reason)
        if not withdrawn:
            return
        drop_timers([approval.pk for approval in withdrawn])
        store.append_many([_event("approval_cancelled", approval, reason=reason) for approval in withdrawn])
        _poke(withdrawn)


def withdraw(rows: QuerySet[Approval], *, reason: str) -> list[Approval]:
    """Move the open ones among `rows` to cancelled; gives those that were moved."""
    leaving = APPROVAL.leaving(S.CANCELLED)
    moved = list(
        rows.filter(status__in=leaving)
        .order_by("pk")
        .select_for_update(no_key=True)
        .defer("request", "input_schema")
    )
    Approval.objects.filter(pk__in=[approval.pk for approval in moved], status__in=leaving).update(
        status=S.CANCELLED, closed_at=Now(), reason=reason, version=F("version") + 1
    )
    for approval in moved:
        approval.status = S.CANCELLED
    return moved


def drop_timers(approval_ids: Sequence[UUID]) -> None:
    Timer.objects.filter(key__in=[timer_key(approval_id) for approval_id in approval_ids]).delete()


def tell(type: str, approval: Approval, **facts: JSONValue) -> None:
    """Record an event of one approval and wake those who watch."""
    store.append_many([_event(type, approval, **facts)])
    _poke([approval])


def _approval(ask: HumanAsk, weight: weighing.Weight = weighing.ALONE) -> Approval:
    return Approval(
        workspace_id=ask.workspace_id,
        execution_id=ask.execution_id,
        block_execution_id=ask.block_pk,
        block_id=ask.block_id,
        block_name=ask.block_name or ask.block_id,
        attempt=ask.attempt,
        kind=ask.kind,
        level=ask.level,
        request=ask.request,
        input_schema=ask.input_schema,
        content_hash=_hash_of(ask),
        respond_by=_from_now(ask),
        holds=weight.holds,
        spent=weight.spent,
        pulled_s=weight.pulled_s,
    )


def _hash_of(ask: HumanAsk) -> str:
    return content_hash(
        request=ask.request,
        input_schema=ask.input_schema,
        version_hash=ask.version_hash,
        attempt=ask.attempt,
    )


def _carried(ask: HumanAsk, answered: Approval) -> Approval:
    approval = _approval(ask)
    approval.status = answered.status
    approval.responder = answered.responder
    approval.response = answered.response
    approval.decision = answered.decision
    approval.comments = answered.comments
    approval.responded_at = answered.responded_at
    approval.carried_from = answered.carried_from or answered.pk
    approval.closed_at = Now()
    return approval


def _carried_event(approval: Approval) -> store.NewEvent:
    assert approval.responder is not None  # a constraint of the table
    return _event(
        "approval_carried",
        approval,
        approved=approval.status == S.APPROVED,
        approver=approval.responder.get_username(),
        carriedFrom=str(approval.carried_from),
    )


def _from_now(ask: HumanAsk) -> CombinedExpression:
    return Now() + timedelta(milliseconds=ask.timeout_ms)


def _event(type: str, approval: Approval, **facts: JSONValue) -> store.NewEvent:
    """The facts that every approval event carries: enough to update a list, never what was asked."""
    payload: JSONObject = {
        "approvalId": str(approval.pk),
        "kind": approval.kind,
        "level": approval.level,
        "status": str(approval.status),
        "blockName": approval.block_name[:TITLE_CHARS],
        **facts,
    }
    return store.NewEvent(
        type=type,
        workspace_id=approval.workspace_id,
        execution_id=approval.execution_id,
        block_id=approval.block_id,
        payload=payload,
    )


def _poke(approvals: Sequence[Approval]) -> None:
    for execution_id in {approval.execution_id for approval in approvals}:
        store.poke(execution_id=execution_id)
    for workspace_id in {approval.workspace_id for approval in approvals}:
        store.poke(workspace_id=workspace_id)
