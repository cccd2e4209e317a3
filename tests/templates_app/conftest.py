"""One workspace with a person in each role, and a stranger in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from rest_framework.test import APIClient

from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from tests.factories.governance import WorkspaceFactory, client_of, member

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
    workspace = WorkspaceFactory.create(slug=slug)
    people = {role.value: member(workspace, role, username=f"{slug}-{role.value}") for role in Role}
    return Team(workspace=workspace, **people)


@pytest.fixture
def team(db: None) -> Team:
    return make_team("acme")


@pytest.fixture
def strangers(db: None) -> Team:
    return make_team("other")


@pytest.fixture
def author(team: Team) -> APIClient:
    return client_of(team.author)


def body(*blocks: JSONObject, **fields: Any) -> JSONObject:
    return {"name": "Refund", **fields, "blocks": list(blocks) or [{"blockId": "pay"}]}
