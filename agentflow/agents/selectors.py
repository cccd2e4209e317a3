"""Reads about agents and scripts, of what the user may see."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q, QuerySet

from ..errors import NotFound
from ..governance.access import Principal
from .models import Agent, Script


class NoSuchAgent(NotFound):
    """There is no such agent."""


class NoSuchScript(NotFound):
    """There is no such script."""


def agents(
    user: Principal,
    *,
    workspace_id: UUID | None = None,
    search: str = "",
    tool_type: str | None = None,
    capability: str | None = None,
    enabled: bool | None = None,
) -> QuerySet[Agent]:
    """Agents in the order of their names, narrowed by what is given."""
    rows = Agent.objects.visible_to(user).order_by("agent_id", "pk")
    if workspace_id:
        rows = rows.filter(workspace_id=workspace_id)
    for word in search.split()[:8]:
        rows = rows.filter(
            Q(agent_id__icontains=word) | Q(name__icontains=word) | Q(description__icontains=word)
        )
    if tool_type:
        rows = rows.filter(tool_type=tool_type)
    if capability:
        rows = rows.filter(capabilities__contains=[capability])
    if enabled is not None:
        rows = rows.filter(enabled=enabled)
    return rows


def agent(user: Principal, pk: UUID) -> Agent:
    """
    Raises:
        NoSuchAgent: absent, or in a workspace the user may not see.
    """
    found = Agent.objects.visible_to(user).filter(pk=pk).first()
    if found is None:
        raise NoSuchAgent
    return found


def scripts(user: Principal, *, workspace_id: UUID | None = None, search: str = "") -> QuerySet[Script]:
    rows = Script.objects.visible_to(user).order_by("name", "pk")
    if workspace_id:
        rows = rows.filter(workspace_id=workspace_id)
    for word in search.split()[:8]:
        rows = rows.filter(Q(name__icontains=word) | Q(description__icontains=word))
    return rows


def script(user: Principal, pk: UUID) -> Script:
    """
    Raises:
        NoSuchScript: absent, or in a workspace the user may not see.
    """
    found = Script.objects.visible_to(user).filter(pk=pk).first()
    if found is None:
        raise NoSuchScript
    return found
