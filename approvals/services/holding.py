"""A question held for a change, and why one can no longer be changed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agentflow.errors import Conflict, NotFound
from agentflow.governance.models import User
from executions.models import Execution
from executions.services import locking

from ..models import Approval, DecisionKind
from ..states import STALE, ApprovalStatus

S = ApprovalStatus


class AlreadyDecided(Conflict):
    """Somebody has decided this already."""

    code = "already_decided"
    remedy = "Nothing is left to do; reload to see what was decided."


class AlreadyVoted(Conflict):
    """You have answered this before."""

    code = "already_voted"
    remedy = "Leave it to the others who are asked; reload to see what is still missing."


class Expired(Conflict):
    """The time to answer is over."""

    code = "approval_expired"
    remedy = "Nothing is left to do; reload to see what followed."


class Stale(Conflict):
    """What this showed has changed since, and is asked again."""

    code = "approval_stale"
    remedy = "Answer the question that took its place."


class Withdrawn(Conflict):
    """The question was withdrawn: nobody needs the answer any more."""

    code = "approval_cancelled"
    remedy = "Nothing is left to do; reload to see what followed."


def locked(approval_id: UUID, by: User) -> tuple[Execution, Approval]:
    """The execution and the approval, both held until the transaction ends.

    Raises:
        NotFound: there is no such approval, or `by` may not see it.
    """
    seen = Approval.objects.visible_to(by).filter(pk=approval_id).only("execution_id").first()
    if seen is None:
        raise NotFound("There is no such approval.", approval_id=str(approval_id))
    execution = locking.lock(seen.execution_id)
    approval = Approval.objects.select_for_update(no_key=True).get(pk=approval_id)
    approval.execution = execution
    return execution, approval


def opened(approval_id: UUID, by: User) -> Approval:
    """As `locked`, of a question that is open.

    Raises:
        NotFound: there is no such approval, or `by` may not see it.
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
    """
    _, approval = locked(approval_id, by)
    if approval.status != S.PENDING:
        raise closed(approval)
    return approval


def closed(approval: Approval) -> Conflict:
    """Why a question is no longer open, told so that the loser of a race knows what happened."""
    facts: dict[str, Any] = {"approval_id": str(approval.pk), "approval_status": approval.status}
    if approval.status == S.EXPIRED:
        return Expired(**facts)
    if approval.status == S.CANCELLED:
        successor = newer(approval)
        if successor is not None:
            return Stale(**facts, superseded_by=str(successor))
        return Withdrawn(**facts)
    assert approval.responder is not None  # a constraint of the table
    assert approval.responded_at is not None
    who = approval.responder.get_full_name() or approval.responder.get_username()
    at = approval.responded_at.isoformat(timespec="seconds")
    did = "sent this back" if approval.decision == DecisionKind.REWORK else f"{approval.status} this"
    facts |= {
        "decision": approval.decision,
        "decided_by": approval.responder.get_username(),
        "decided_at": at,
    }
    return AlreadyDecided(f"{who} {did} at {at}.", **facts)


def newer(approval: Approval) -> UUID | None:
    """The question that took the place of one that is stale."""
    if approval.reason != STALE:
        return None
    return Approval.objects.filter(supersedes=approval.pk).values_list("pk", flat=True).first()
