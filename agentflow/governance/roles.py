"""The five roles of a workspace and what each may do there."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Permission(StrEnum):
    """What a person may do in one workspace; the value is the codename guardian stores."""

    VIEW = "view_workspace"  # read templates, executions, logs, agents
    AUTHOR = "author_templates"  # write, validate, publish templates; simulate
    OPERATE = "operate_executions"  # start, pause, resume, cancel, restart, repair
    MANAGE_AGENTS = "manage_agents"  # agents, triggers, subscriptions
    DECIDE = "decide_approvals"  # answer approvals that are assigned to one
    ADMINISTER = "administer_workspace"  # members, roles, policies, secrets, retention, audit


class Role(StrEnum):
    VIEWER = "viewer"
    AUTHOR = "author"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    @property
    def label(self) -> str:
        return self.value.capitalize()


GRANTS: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.VIEWER: frozenset({Permission.VIEW}),
        Role.AUTHOR: frozenset({Permission.VIEW, Permission.AUTHOR}),
        Role.OPERATOR: frozenset({Permission.VIEW, Permission.OPERATE, Permission.MANAGE_AGENTS}),
        Role.APPROVER: frozenset({Permission.VIEW, Permission.DECIDE}),
        Role.ADMIN: frozenset(Permission),
    }
)

ROLE_CHOICES = [(role.value, role.label) for role in Role]
