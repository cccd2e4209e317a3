"""What operators said about choosing in a workspace, read together and kept for a moment."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from ..governance.models import Workspace
from .matching import Policies
from .models import AgentPolicy, PolicyKind
from .registry import cached


@dataclass(frozen=True, slots=True)
class Rules:
    environment: str = ""
    explore: bool = False
    stated: tuple[tuple[str, str, UUID | None, str], ...] = ()  # kind, agentId, template, blockId

    def for_purpose(self, template_id: UUID | None, block_id: str) -> Policies:
        """Those for the workspace, its template and its block together; a ban counts before a pin."""
        by_kind: dict[str, set[str]] = {kind: set() for kind in PolicyKind.values}
        for kind, agent_id, template, block in self.stated:
            if template in (None, template_id) and block in ("", block_id):
                by_kind[kind].add(agent_id)
        return Policies(
            pinned=frozenset(by_kind[PolicyKind.PIN]),
            banned=frozenset(by_kind[PolicyKind.BAN]),
            preferred=frozenset(by_kind[PolicyKind.PREFER]),
        )


def of(workspace_id: UUID) -> Rules:
    return cached(("policies", workspace_id), lambda: _load(workspace_id))


def _load(workspace_id: UUID) -> Rules:
    found = Workspace.objects.filter(pk=workspace_id).values_list("environment", "explore_agents").first()
    stated = AgentPolicy.objects.filter(workspace_id=workspace_id).values_list(
        "kind", "agent__agent_id", "template_id", "block_id"
    )
    environment, explore = found or ("", False)
    return Rules(environment, explore, tuple(stated))
