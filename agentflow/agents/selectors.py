"""Reads about agents and scripts, of what the user may see."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q, QuerySet

from ..errors import NotFound
from ..governance.access import Principal
from .models import Agent, AgentSource, AgentVersion, Script, ScriptVersion
from .warning_models import AgentWarning


class NoSuchAgent(NotFound):
    """There is no such agent."""


class NoSuchSource(NotFound):
    """There is no such source of agents."""


class NoSuchScript(NotFound):
    """There is no such script."""


def agents(
    user: Principal,
    *,
    workspace_id: UUID | None = None,
    search: str = "",
    tool_type: str | None = None,
    capability: str | None = None,
    tag: str | None = None,
    health: str | None = None,
    source_id: UUID | None = None,
    environment: str | None = None,
    enabled: bool | None = None,
    drifts: bool | None = None,
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
        rows = rows.filter(capabilities__contains=[{"name": capability}])
    if tag:
        rows = rows.filter(capabilities__contains=[{"tags": [tag]}])
    if health:
        rows = rows.filter(health=health)
    if source_id:
        rows = rows.filter(source_id=source_id)
    if environment:
        rows = rows.filter(environment__in=("", environment))
    if enabled is not None:
        rows = rows.filter(enabled=enabled)
    if drifts is not None:
        rows = rows.filter(drifting()) if drifts else rows.exclude(drifting())
    return rows


def drifting() -> Q:
    """Agents of which an early warning stands."""
    return Q(pk__in=AgentWarning.objects.filter(ended_at=None).values("agent"))


def agent(user: Principal, pk: UUID) -> Agent:
    """
    Raises:
        NoSuchAgent: absent, or in a workspace the user may not see.
    """
    found = Agent.objects.visible_to(user).filter(pk=pk).first()
    if found is None:
        raise NoSuchAgent
    return found


def versions(user: Principal, pk: UUID) -> QuerySet[AgentVersion]:
    """All versions of an agent, the newest first.

    Raises:
        NoSuchAgent: as `agent`.
    """
    return agent(user, pk).versions.order_by("-number")


def sources(
    user: Principal, *, workspace_id: UUID | None = None, kind: str | None = None, search: str = ""
) -> QuerySet[AgentSource]:
    rows = AgentSource.objects.visible_to(user).order_by("name", "pk")
    if workspace_id:
        rows = rows.filter(workspace_id=workspace_id)
    if kind:
        rows = rows.filter(kind=kind)
    for word in search.split()[:8]:
        rows = rows.filter(Q(name__icontains=word) | Q(url__icontains=word))
    return rows


def source(user: Principal, pk: UUID) -> AgentSource:
    """
    Raises:
        NoSuchSource: absent, or in a workspace the user may not see.
    """
    found = AgentSource.objects.visible_to(user).filter(pk=pk).first()
    if found is None:
        raise NoSuchSource
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


def script_versions(user: Principal, pk: UUID) -> QuerySet[ScriptVersion]:
    """All versions of a script, the newest first.

    Raises:
        NoSuchScript: as `script`.
    """
    return script(user, pk).versions.order_by("-number")


def script_version(user: Principal, pk: UUID, number: int) -> ScriptVersion:
    """
    Raises:
        NoSuchScript: as `script`, or without a version of that number.
    """
    found = script_versions(user, pk).filter(number=min(number, 2**31 - 1)).first()
    if found is None:
        raise NoSuchScript
    return found
