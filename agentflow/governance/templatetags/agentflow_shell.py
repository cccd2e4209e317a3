"""What the pages' top bar says about the user's workspaces."""

from __future__ import annotations

from django import template

from ..access import Principal, workspaces

register = template.Library()


@register.filter
def workspace_label(user: Principal) -> str:
    """The name of the user's workspace, or how many there are."""
    names = list(workspaces(user).values_list("name", flat=True)[:100])
    return names[0] if len(names) == 1 else f"{len(names)} workspaces"
