"""A workspace with approvers, those who only look on, and a stranger."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from tests.factories.governance import WorkspaceFactory, member

URL = "/api/v1/approvals"


@dataclass(frozen=True)
class Office:
    workspace: Workspace
    approver: User
    colleague: User  # an approver too
    viewer: User
    operator: User
    admin: User
    stranger: User  # an approver elsewhere


def make_office() -> Office:
    workspace = WorkspaceFactory.create()
    return Office(
        workspace=workspace,
        approver=member(workspace, Role.APPROVER),
        colleague=member(workspace, Role.APPROVER),
        viewer=member(workspace, Role.VIEWER),
        operator=member(workspace, Role.OPERATOR),
        admin=member(workspace, Role.ADMIN),
        stranger=member(WorkspaceFactory.create(), Role.APPROVER),
    )


@pytest.fixture
def office(db: None) -> Office:
    return make_office()
