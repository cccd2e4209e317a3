"""When nobody answers in time."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from executions.services import human, locking

from ..models import Approval
from ..states import APPROVAL, ApprovalStatus
from . import gate

S = ApprovalStatus


@transaction.atomic
def expire(*, subject: UUID, execution_id: UUID) -> None:
    """Close the approval `subject` unanswered and move its block on.

    Binds `executions.ports.approval_timeout`.  Late or twice is safe: whoever holds the execution's
    lock first decides, an answer that came before stands, and the timer goes with either.
    """
    execution = locking.lock(execution_id)
    approval = Approval.objects.select_for_update(no_key=True).filter(pk=subject).first()
    gate.drop_timers([subject])
    if approval is None:
        return
    moved = Approval.objects.filter(pk=subject, status__in=APPROVAL.leaving(S.EXPIRED)).update(
        status=S.EXPIRED, closed_at=Now(), version=F("version") + 1
    )
    if not moved:
        return
    approval.status = S.EXPIRED
    gate.tell("approval_timeout", approval)
    human.answered(
        execution=execution,
        block_pk=approval.block_execution_id,
        kind=approval.kind,
        approved=False,
        response=None,
        by=None,
        expired=True,
        approval_id=approval.pk,
    )
