"""What time does to a question: reminds, hands it to the next level, and ends it."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from executions.models import Execution
from executions.services import asking_again, human, locking

from ..models import Approval, DecisionKind, OnTimeout
from ..states import APPROVAL, ApprovalStatus
from . import climbing, gate, levels, releasing, swapping, times, trail

S = ApprovalStatus


@transaction.atomic
def expire(*, subject: UUID, execution_id: UUID) -> None:
    """Do what is due for the approval `subject`.  Binds `executions.ports.approval_timeout`.

    Late or twice is safe: whoever holds the execution's lock first decides, an answer that came before
    stands, and the timer goes with either.
    """
    execution = locking.lock(execution_id)
    approval = Approval.objects.select_for_update(no_key=True).filter(pk=subject).first()
    if approval is None or approval.status != S.PENDING:
        gate.drop_timers([subject])
        return
    now = times.clock()
    if approval.sample is not None and releasing.is_released(approval):
        releasing.release(execution, approval.sample, [approval])
    elif swapping.swapped(approval):
        asking_again.ask_anew_about(execution_id, approval.block_execution_id)
    elif times.rests(approval):
        times.rest(approval)
    elif swapping.brought_forward(approval):
        times.set_next_timer(approval, now)
    elif approval.respond_by > now:
        gate.tell("approval_reminder", approval, respondBy=approval.respond_by.isoformat())
        times.set_next_timer(approval, now)
    elif (above := levels.above(approval)) is not None:
        _escalate(approval, above)
    elif approval.on_timeout == OnTimeout.WAIT:
        gate.tell("approval_overdue", approval)
        times.rest(approval)
    else:
        _end(execution, approval)


def _escalate(approval: Approval, index: int) -> None:
    before = approval.level
    climbing.enter(approval, index)
    gate.tell("approval_escalated", approval, fromLevel=before)
    trail.record("escalate", approval, None, fromLevel=before, level=approval.level)


def _end(execution: Execution, approval: Approval) -> None:
    """Close it unanswered, and let the template's rule decide."""
    gate.drop_timers([approval.pk])
    decisions = {OnTimeout.APPROVE: DecisionKind.APPROVE, OnTimeout.REJECT: DecisionKind.REJECT}
    approval.decision = decisions.get(OnTimeout(approval.on_timeout), "")
    moved = Approval.objects.filter(pk=approval.pk, status__in=APPROVAL.leaving(S.EXPIRED)).update(
        status=S.EXPIRED, decision=approval.decision, closed_at=Now(), version=F("version") + 1
    )
    if not moved:
        return
    approval.status = S.EXPIRED
    gate.tell("approval_timeout", approval, decision=approval.decision)
    releasing.hold(execution, approval)
    human.answered(
        execution=execution,
        block_pk=approval.block_execution_id,
        kind=approval.kind,
        approved=approval.decision == DecisionKind.APPROVE,
        response=None,
        by=None,
        unanswered="" if approval.decision else human.EXPIRED,
        approval_id=approval.pk,
    )
    releasing.look(execution, approval, None)
