"""The state machine of one delivery, and the words that preferences are made of."""

from __future__ import annotations

from django.db.models import TextChoices

from agentflow.lifecycle import Lifecycle


class DeliveryState(TextChoices):
    PENDING = "pending"  # not tried yet; sent when `next_at` has come
    FAILED = "failed"  # tried in vain; tried again when `next_at` has come
    SENT = "sent"
    DEAD = "dead"  # given up; a person may send it again
    DROPPED = "dropped"  # nobody needs it any more: answered before it was sent, or the right is gone


D = DeliveryState

DELIVERY: Lifecycle[DeliveryState] = Lifecycle(
    {
        D.PENDING: {D.SENT, D.FAILED, D.DEAD, D.DROPPED},
        D.FAILED: {D.SENT, D.FAILED, D.DEAD, D.DROPPED},
        D.SENT: set(),
        D.DEAD: {D.PENDING},
        D.DROPPED: set(),
    }
)
OPEN = (D.PENDING, D.FAILED)


class Channel(TextChoices):
    EMAIL = "email"
    WEBHOOK = "webhook"
    SLACK = "slack"
    BROWSER = "browser"  # shown by an open inbox; nothing is sent


class LinkAction(TextChoices):
    """What an address in a mail does, and nothing else."""

    APPROVE = "approve"
    REJECT = "reject"


class Topic(TextChoices):
    """What an event is about, as people choose it."""

    REQUESTED = "requested"
    REMINDER = "reminder"
    ESCALATED = "escalated"
    DECIDED = "decided"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    COMMENTED = "commented"
    GIVEN_UP = "given_up"  # an execution: recovery, or a person, let it end as failed


# What waits for an answer: told to those who are asked, and urgent where the time is short.
ASKS = frozenset({Topic.REQUESTED, Topic.REMINDER, Topic.ESCALATED})

TOPICS: dict[str, Topic] = {
    "approval_requested": Topic.REQUESTED,
    "approval_delegated": Topic.REQUESTED,
    "approval_reassigned": Topic.REQUESTED,
    "approval_advanced": Topic.REQUESTED,  # one level agreed, the next is asked
    "approval_reminder": Topic.REMINDER,
    "approval_overdue": Topic.REMINDER,
    "approval_escalated": Topic.ESCALATED,
    "approval_responded": Topic.DECIDED,
    "approval_timeout": Topic.EXPIRED,
    "approval_cancelled": Topic.WITHDRAWN,
    "approval_commented": Topic.COMMENTED,
}


class Stakeholder(TextChoices):
    """Whom an execution concerns."""

    STARTER = "starter"  # who started it
    DECIDERS = "deciders"  # who answered one of its questions
    OPERATORS = "operators"  # who may operate in its workspace


class Digest(TextChoices):
    IMMEDIATELY = "immediately"
    HOURLY = "hourly"
    DAILY = "daily"
