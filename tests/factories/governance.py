from __future__ import annotations

from typing import Any

from factory import Sequence
from factory.django import DjangoModelFactory, Password
from rest_framework.test import APIClient

from agentflow.api.authentication import access_token
from agentflow.governance.models import User, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import create_workspace, grant
from approvals.models import ApprovalPolicy

PASSWORD = "correct horse battery staple"


class UserFactory(DjangoModelFactory[User]):
    class Meta:
        model = User
        skip_postgeneration_save = True

    username = Sequence("user{}".format)
    password = Password(PASSWORD)


class WorkspaceFactory(DjangoModelFactory[Workspace]):
    """A workspace with its role groups, made as the product makes it.

    One person may start an execution and answer it, unless `strict_people` is said.
    """

    class Meta:
        model = Workspace

    slug = Sequence("workspace-{}".format)
    name = Sequence("Workspace {}".format)

    @classmethod
    def _create(cls, model_class: type[Workspace], *args: Any, **fields: Any) -> Workspace:
        strict_people = fields.pop("strict_people", False)
        workspace = create_workspace(by=None, **fields)
        if not strict_people:
            ApprovalPolicy.objects.create(workspace=workspace, own_requests=True, own_templates=True)
        return workspace


def member(workspace: Workspace, *roles: Role | str, **fields: Any) -> User:
    """A new user with the roles named."""
    user = UserFactory.create(**fields)
    for role in roles:
        grant(user=user, role=Role(role), workspace=workspace)
    return user


def client_of(user: User | None) -> APIClient:
    """A REST client that brings the user's access token, as a program would."""
    client = APIClient()
    if user is not None:
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {access_token(user)}")
    return client
