"""The state machine of a proposal."""

from __future__ import annotations

from django.db.models import TextChoices

from agentflow.lifecycle import Lifecycle


class ProposalState(TextChoices):
    OPEN = "open"  # a person accepts or dismisses it
    ACCEPTED = "accepted"  # a draft version has it
    DISMISSED = "dismissed"  # it is not made again for a month
    WITHDRAWN = "withdrawn"  # its evidence is gone, or a newer version needs it no more


S = ProposalState

PROPOSAL: Lifecycle[ProposalState] = Lifecycle(
    {
        S.OPEN: {S.ACCEPTED, S.DISMISSED, S.WITHDRAWN},
        S.ACCEPTED: set(),
        S.DISMISSED: set(),
        S.WITHDRAWN: set(),
    }
)
