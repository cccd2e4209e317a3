"""A workspace with a person in each role, and one in another workspace."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from tests.factories.governance import WorkspaceFactory, member

URL = "/api/v1/executions"


@dataclass(frozen=True)
class Team:
    workspace: Workspace
    viewer: User
    author: User
    operator: User
    approver: User
    admin: User
    stranger: User  # a viewer, author and operator elsewhere


def make_team() -> Team:
    workspace = WorkspaceFactory.create()
    people = {role.value: member(workspace, role) for role in Role}
    stranger = member(WorkspaceFactory.create(), Role.ADMIN)
    return Team(workspace=workspace, stranger=stranger, **people)


@pytest.fixture
def team(db: None) -> Team:
    return make_team()
