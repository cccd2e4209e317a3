"""What operators say about choosing: pin, ban or prefer an agent."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from ...errors import NotFound
from ...governance import access, audit
from ...governance.access import Principal
from ...governance.models import User
from ...governance.roles import Permission
from ..models import Agent, AgentPolicy
from ..selectors import NoSuchAgent
from . import changing


class NoSuchPolicy(NotFound):
    """There is no such policy."""


@transaction.atomic
def set_policy(
    *,
    by: Principal,
    workspace_id: UUID,
    agent_id: str,
    kind: str,
    template_id: UUID | None = None,
    block_id: str = "",
    reason: str = "",
) -> AgentPolicy:
    """Pin, ban or prefer an agent: in a workspace, for a template or a block, in place of what was said.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        NoSuchAgent: the workspace has none of that name.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.filter(workspace_id=workspace_id, agent_id=agent_id).first()
    if agent is None:
        raise NoSuchAgent(agent_id=agent_id)
    author = by if isinstance(by, User) else None
    policy, _ = AgentPolicy.objects.update_or_create(
        agent=agent,
        template_id=template_id,
        block_id=block_id,
        defaults={"workspace_id": workspace_id, "kind": kind, "reason": reason, "created_by": author},
    )
    _told(policy, by=by, action="agent_policy.set")
    return policy


@transaction.atomic
def remove_policy(*, by: Principal, pk: UUID) -> None:
    """Take back what was said.

    Raises:
        NoSuchPolicy: absent, or in a workspace that `by` may not see.
        NotPermitted: `by` may not manage the workspace's agents.
    """
    policy = AgentPolicy.objects.visible_to(by).select_related("agent").filter(pk=pk).first()
    if policy is None:
        raise NoSuchPolicy
    access.require(by, Permission.MANAGE_AGENTS, policy.workspace_id)
    _told(policy, by=by, action="agent_policy.remove")
    policy.delete()


def _told(policy: AgentPolicy, *, by: Principal, action: str) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=policy.workspace_id,
        target_type="agent_policy",
        target_id=str(policy.pk),
        detail={
            "agentId": policy.agent.agent_id,
            "kind": policy.kind,
            "templateId": str(policy.template_id) if policy.template_id else None,
            "blockId": policy.block_id or None,
            "reason": policy.reason,
        },
    )
    changing.tell(policy.workspace_id, policy.agent.agent_id)
