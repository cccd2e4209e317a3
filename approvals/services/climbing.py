"""From one level of a question to the next."""

from __future__ import annotations

from django.db.models import F
from django.db.models.functions import Now

from ..models import Approval
from . import levels, policies, times


def enter(approval: Approval, index: int) -> None:
    """Ask the level `index` from now on: its people, its quorum, its time; nobody has claimed it.

    The caller holds the question's row.
    """
    level = levels.levels_of(approval)[index]
    due = times.times(level, policies.policy_of(approval.workspace_id))
    Approval.objects.filter(pk=approval.pk).update(
        level_index=index,
        level_since=Now(),
        respond_by=due.respond_by,
        due_soon_at=due.due_soon_at,
        claimed_by=None,
        claimed_at=None,
        version=F("version") + 1,
        **levels.columns(level),
    )
    approval.refresh_from_db()
    levels.assign([approval])
    times.set_next_timer(approval, times.clock())
