"""Closing an agent's circuit by hand."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from ...errors import Unavailable
from ...governance import access, audit
from ...governance.access import Principal
from ...governance.roles import Permission
from .. import circuit
from ..circuit import CircuitState
from ..models import Agent
from ..selectors import NoSuchAgent


class CircuitsAway(Unavailable):
    """Valkey does not answer, so there is nothing to reset: all circuits count as closed."""

    code = "circuits_away"
    remedy = "Try again once Valkey is back."


@transaction.atomic
def reset_circuit(*, by: Principal, pk: UUID, workspace_id: UUID, reason: str = "") -> CircuitState:
    """Let an agent be called again; safe to repeat.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        CircuitsAway: nobody answers.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:
        raise NoSuchAgent
    before = circuit.state_of(agent)
    audit.record(
        action="agent.reset_circuit",
        by=by,
        workspace_id=workspace_id,
        target_type="agent",
        target_id=str(pk),
        detail={
            "agentId": agent.agent_id,
            "was": before.state,
            "why": before.why,
            **({"reason": reason} if reason else {}),
        },
    )
    if not circuit.reset(workspace_id, agent.agent_id):
        raise CircuitsAway
    return circuit.state_of(agent)
