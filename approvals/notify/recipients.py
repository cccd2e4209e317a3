"""Whether a person may still be told what was planned for them."""

from __future__ import annotations

from agentflow.governance.models import User

from .. import selectors
from ..models import Approval


def may_still_see(user: User, approval: Approval, *, asked: bool) -> bool:
    """By their rights now; `asked`: they must also be among those who may answer."""
    rows = selectors.decidable_by(user) if asked else selectors.visible(user)
    return user.is_active and rows.filter(pk=approval.pk).exists()
