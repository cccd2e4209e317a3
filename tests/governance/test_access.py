from __future__ import annotations

import uuid

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agentflow.errors import InvalidInput, NotFound, NotPermitted
from agentflow.governance import access
from agentflow.governance.models import Workspace
from agentflow.governance.roles import Permission, Role
from agentflow.governance.services.workspaces import grant, revoke
from tests.factories.governance import UserFactory, WorkspaceFactory, member

# The role table of the product, written out once more on purpose.
TABLE: dict[str, set[str]] = {
    "viewer": {"view_workspace"},
    "author": {"view_workspace", "author_templates"},
    "operator": {"view_workspace", "operate_executions", "manage_agents"},
    "approver": {"view_workspace", "decide_approvals"},
    "admin": {
        "view_workspace",
        "author_templates",
        "operate_executions",
        "manage_agents",
        "decide_approvals",
        "administer_workspace",
    },
}
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("permission", Permission)
def test_a_role_may_do_what_the_table_says_and_only_in_its_workspace(
    role: Role, permission: Permission
) -> None:
    own, foreign = WorkspaceFactory.create(), WorkspaceFactory.create()
    user = member(own, role)
    assert access.can(user, permission, own.pk) is (permission.value in TABLE[role.value])
    assert user.has_perm(permission.value, own) is (permission.value in TABLE[role.value])
    assert not access.can(user, permission, foreign.pk)


@pytest.mark.parametrize("permission", Permission)
def test_superusers_may_everything_and_inactive_and_anonymous_users_nothing(permission: Permission) -> None:
    workspace = WorkspaceFactory.create()
    assert access.can(UserFactory.create(is_superuser=True), permission, workspace.pk)
    assert not access.can(UserFactory.create(is_superuser=True, is_active=False), permission, workspace.pk)
    assert not access.can(member(workspace, Role.ADMIN, is_active=False), permission, workspace.pk)
    assert not access.can(AnonymousUser(), permission, workspace.pk)


def test_a_foreign_workspace_and_an_absent_one_look_the_same() -> None:
    foreign = WorkspaceFactory.create()
    user = member(WorkspaceFactory.create(), Role.ADMIN)
    messages = set()
    for workspace_id in (foreign.pk, uuid.uuid4()):
        with pytest.raises(NotFound) as refusal:
            access.require(user, Permission.OPERATE, workspace_id)
        messages.add(refusal.value.message)
    assert len(messages) == 1


def test_a_workspace_that_is_visible_but_not_permitted_says_so() -> None:
    workspace = WorkspaceFactory.create()
    with pytest.raises(NotPermitted):
        access.require(member(workspace, Role.VIEWER), Permission.OPERATE, workspace.pk)


def test_a_right_given_to_one_person_counts_beside_the_roles() -> None:
    from guardian.shortcuts import assign_perm

    workspace = WorkspaceFactory.create()
    user = member(workspace, Role.VIEWER)
    assign_perm(Permission.DECIDE.value, user, workspace)
    assert access.can(user, Permission.DECIDE, workspace.pk)
    assert not access.can(user, Permission.OPERATE, workspace.pk)


def test_granting_twice_is_one_grant_and_revoking_takes_the_right_away() -> None:
    workspace = WorkspaceFactory.create()
    user = member(workspace, Role.OPERATOR, Role.OPERATOR)
    assert user.groups.count() == 1
    revoke(user=user, role=Role.OPERATOR, workspace=workspace)
    revoke(user=user, role=Role.OPERATOR, workspace=workspace)
    assert not access.can(user, Permission.VIEW, workspace.pk)


def test_listing_workspaces_is_one_query_however_many_there_are() -> None:
    user = UserFactory.create()

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert list(access.workspaces(user, Permission.OPERATE)) is not None
        return len(captured)

    for _ in range(3):
        grant(user=user, role=Role.OPERATOR, workspace=WorkspaceFactory.create())
    few = queries()
    for _ in range(20):
        grant(user=user, role=Role.OPERATOR, workspace=WorkspaceFactory.create())
    assert queries() == few == 1
    assert access.workspaces(user, Permission.OPERATE).count() == 23
    assert Workspace.objects.filter(pk__in=access.workspaces(user, Permission.ADMINISTER)).count() == 0


def test_the_workspace_may_be_left_out_by_a_member_of_one() -> None:
    workspace = WorkspaceFactory.create()
    user = member(workspace, Role.OPERATOR)
    assert access.chosen(user, Permission.OPERATE, None) == workspace.pk
    with pytest.raises(NotPermitted):
        access.chosen(user, Permission.AUTHOR, None)
    grant(user=user, role=Role.VIEWER, workspace=WorkspaceFactory.create())
    with pytest.raises(InvalidInput) as refusal:
        access.chosen(user, Permission.OPERATE, None)
    assert refusal.value.pointer == "/workspaceId"


def test_the_workspaces_of_many_are_what_each_is_told_alone() -> None:
    first, second = WorkspaceFactory.create(), WorkspaceFactory.create()
    people = [
        member(first, Role.APPROVER),
        member(first, Role.VIEWER),
        member(second, Role.ADMIN),
        UserFactory.create(),
        UserFactory.create(is_superuser=True),
        UserFactory.create(is_superuser=True, is_active=False),
    ]
    grant(user=people[0], role=Role.APPROVER, workspace=second, by=None)
    many = access.workspaces_of([person.pk for person in people], Permission.DECIDE)
    for person in people:
        alone = access.workspaces(person, Permission.DECIDE).values_list("pk", flat=True)
        assert many.get(person.pk, frozenset()) == frozenset(alone)
