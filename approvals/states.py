"""The state machine of one question to people."""

from __future__ import annotations

from django.db.models import TextChoices

from agentflow.lifecycle import Lifecycle


class ApprovalStatus(TextChoices):
    PENDING = "pending"  # an answer, its timer or the end of its block moves it on
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"  # nobody answered in time
    CANCELLED = "cancelled"  # withdrawn: nobody needs the answer any more


# Why a question was withdrawn, where somebody wants to know.
STALE = "stale"  # what it showed is no more, and it was asked again
BY_OPERATOR = "withdrawn"

S = ApprovalStatus

APPROVAL: Lifecycle[ApprovalStatus] = Lifecycle(
    {
        S.PENDING: {S.APPROVED, S.REJECTED, S.EXPIRED, S.CANCELLED},
        S.APPROVED: set(),
        S.REJECTED: set(),
        S.EXPIRED: set(),
        S.CANCELLED: set(),
    }
)
