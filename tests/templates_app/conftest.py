"""One workspace with a person in each role, and a stranger in another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from rest_framework.test import APIClient

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import create_workspace, grant
from agentflow.types import JSONObject

URL = "/api/v1/templates"


@dataclass(frozen=True)
class Team:
    workspace: Workspace
    viewer: User
    author: User
    operator: User
    approver: User
    admin: User


def make_team(slug: str) -> Team:
    workspace = create_workspace(slug=slug, name=slug.title(), by=None)
    people = {}
    for role in Role:
        people[role.value] = User.objects.create_user(f"{slug}-{role.value}")
        grant(user=people[role.value], role=role, workspace=workspace)
    return Team(workspace=workspace, **people)


@pytest.fixture
def team(db: None) -> Team:
    return make_team("acme")


@pytest.fixture
def strangers(db: None) -> Team:
    return make_team("other")


ClientOf = Callable[[User], APIClient]


@pytest.fixture
def client_of() -> ClientOf:
    def signed_in(user: User) -> APIClient:
        client = APIClient()
        client.force_login(user)
        return client

    return signed_in


@pytest.fixture
def author(team: Team, client_of: ClientOf) -> APIClient:
    return client_of(team.author)


def body(*blocks: JSONObject, **fields: Any) -> JSONObject:
    return {"name": "Refund", **fields, "blocks": list(blocks) or [{"blockId": "pay"}]}
