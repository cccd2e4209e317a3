"""What the pages of agents need from the apps above them: who calls an agent, and from where."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ..bus import Port
from .models import Agent


@dataclass(frozen=True, slots=True)
class Caller:
    """A block that calls an agent, or waits until it may."""

    url: str  # of its execution's page
    template: str
    block_id: str
    held: bool
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An ended call.  `outcome` is ok, error or what became of it else; `code` its failure's."""

    url: str
    template: str
    block_id: str
    number: int
    outcome: str
    code: str
    message: str
    ms: float
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """The newest version of a template that names an agent, or asks for what it can do."""

    url: str
    name: str
    number: int
    named: bool
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Purpose:
    """A template that a policy may be for, and the blocks of its newest version that name no agent."""

    template_id: UUID
    name: str
    workspace_id: UUID
    workspace: str
    choosing: tuple[str, ...]


class AgentUses(Protocol):
    """Bound by executions.  Each answers in a bounded number of queries, over a bounded number of rows."""

    def load(self, agent: Agent) -> tuple[int, int]:
        """How many calls are at work, and how many blocks wait."""

    def callers(self, agent: Agent, limit: int) -> Sequence[Caller]:
        """Those at work, then those that wait, the next first."""

    def attempts(self, agent: Agent, limit: int) -> Sequence[Attempt]:
        """The newest first."""

    def templates(self, agent: Agent, capabilities: Collection[str], limit: int) -> Sequence[TemplateUse]: ...

    def budget(self, agent: Agent) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Of today: what was used up by unit, and what is allowed by part (tokens, cost)."""

    def purposes(self, workspace_ids: Collection[UUID], limit: int) -> Sequence[Purpose]:
        """Templates in use, by name."""


agent_uses: Port[AgentUses] = Port("agents.uses")
# Of a workspace and the name of an agent or script, or no name for any; in the transaction of the change.
agents_changed: Port[Callable[[UUID, str], None]] = Port("agents.changed")
