"""When the agent that a gated block would call is swapped, the open question is about another call.

Whoever changes an agent, or the rules for choosing one, makes the clock look at the questions concerned, in
the same transaction; an answer that comes before the clock is refused.  The clock looks at a new question
once, too, when nobody remembers an older agent any more: it may have been asked at that moment.
"""

from __future__ import annotations

from uuid import UUID

from django.db.models import F, Q
from django.db.models.functions import Now

from agentflow.agents import registry
from executions.engine.calling import ONE_OF
from executions.models import Timer
from executions.services import asking_again

from ..models import Approval
from ..states import ApprovalStatus
from . import holding

LOOK_S = registry.SECONDS_CACHED + 2
BROUGHT_FORWARD = 1  # in `Timer.progress`: of a question that is to be looked at before its time


def agents_changed(workspace_id: UUID, name: str) -> None:
    """Binds `agents.ports.agents_changed`: three statements however many questions there are."""
    named = Q(calls__contains=name) | Q(calls__startswith=ONE_OF)
    concerned = Approval.objects.filter(named, workspace=workspace_id, status=ApprovalStatus.PENDING)
    Timer.objects.filter(subject__in=concerned.exclude(calls="").values("pk"), due_at__gt=Now()).update(
        due_at=Now(), progress=F("progress").bitor(BROUGHT_FORWARD)
    )


def swapped(approval: Approval) -> bool:
    """Whether the block would call another agent now than when it was asked about."""
    return bool(approval.calls) and approval.calls != asking_again.calls_now(
        approval.execution_id, approval.block_id
    )


def require_same_agent(approval: Approval) -> None:
    """
    Raises:
        Stale: it will be asked again in a moment.
    """
    if swapped(approval):
        message = "The agent that this step would call was changed, and it is asked again."
        raise holding.Stale(message, approval_id=str(approval.pk), approval_status=approval.status)


def brought_forward(approval: Approval) -> bool:
    return (
        bool(approval.calls) and Timer.objects.filter(subject=approval.pk, progress=BROUGHT_FORWARD).exists()
    )
