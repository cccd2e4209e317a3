"""What a person keeps about the inbox: named filters, and which questions were opened."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from agentflow.errors import Conflict, InvalidInput
from agentflow.governance.models import User

from ..models import Approval, SavedView, Seen

VIEWS_MAX = 20
NAME_CHARS = 60


class TooManyViews(Conflict):
    """There are 20 saved views already."""

    code = "too_many_views"
    remedy = "Remove one that you no longer use."


@transaction.atomic
def save_view(*, user: User, name: str, query: dict[str, str]) -> SavedView:
    """Keep a filter under a name; the same name again replaces it.

    Raises:
        InvalidInput: the name is empty or too long.
        TooManyViews: there is no room for another.
    """
    name = " ".join(name.split())
    if not 1 <= len(name) <= NAME_CHARS:
        raise InvalidInput(f"A view's name has 1 to {NAME_CHARS} characters.", pointer="/name")
    User.objects.select_for_update(no_key=True).get(pk=user.pk)  # two tabs cannot both take the last place
    views = SavedView.objects.filter(user=user)
    if not views.filter(name=name).exists() and views.count() >= VIEWS_MAX:
        raise TooManyViews()
    view, _ = SavedView.objects.update_or_create(user=user, name=name, defaults={"query": query})
    return view


def remove_view(*, user: User, view_id: int) -> None:
    """Gone is gone: twice is safe, and another person's is not touched."""
    SavedView.objects.filter(user=user, pk=view_id).delete()


def mark_seen(*, user: User, approval_id: UUID) -> None:
    """Note that `user` has opened a question; one that they may not see is left alone."""
    if Approval.objects.visible_to(user).filter(pk=approval_id).exists():
        Seen.objects.bulk_create([Seen(user=user, approval_id=approval_id)], ignore_conflicts=True)
