from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentflow.governance import access
from agentflow.governance.models import AuditEntry, User, Workspace
from agentflow.governance.roles import Permission, Role
from tests.factories.governance import UserFactory, WorkspaceFactory, member

pytestmark = pytest.mark.django_db
LISTS = ["user", "workspace", "auditentry"]


def admin_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def root() -> User:
    return UserFactory.create(is_staff=True, is_superuser=True)


def fields(workspace: Workspace, **changed: Any) -> dict[str, Any]:
    values = {
        "name": workspace.name,
        "environment": workspace.environment,
        "egress_allow": "\n".join(workspace.egress_allow),
        **{role.value: "" for role in Role},
    }
    return {**values, **changed}


@pytest.mark.parametrize("kind", LISTS)
def test_pages_open_for_a_superuser_and_stay_shut_for_others(root: User, kind: str) -> None:
    workspace = WorkspaceFactory.create()
    address = f"/admin/governance/{kind}/"
    assert admin_of(root).get(address).status_code == 200
    assert Client().get(address).status_code == 302
    assert admin_of(member(workspace, Role.ADMIN)).get(address).status_code == 302


def test_a_staff_user_sees_only_their_own_workspaces(root: User) -> None:
    own, foreign = WorkspaceFactory.create(name="Ours"), WorkspaceFactory.create(name="Theirs")
    keeper = member(own, Role.ADMIN, is_staff=True)
    stranger = member(foreign, Role.VIEWER, username="stranger")
    client = admin_of(keeper)
    for kind in LISTS:
        text = client.get(f"/admin/governance/{kind}/").content.decode()
        assert "Theirs" not in text
        assert "stranger" not in text
    assert client.get(f"/admin/governance/workspace/{own.pk}/change/").status_code == 200
    assert client.get(f"/admin/governance/workspace/{foreign.pk}/change/").status_code == 302
    assert client.get(f"/admin/governance/user/{stranger.pk}/change/").status_code == 302
    foreign_entry = AuditEntry.objects.filter(workspace_id=foreign.pk).first()
    assert foreign_entry is not None
    assert client.get(f"/admin/governance/auditentry/{foreign_entry.pk}/change/").status_code == 302


def test_a_workspaces_admin_cannot_touch_accounts(root: User) -> None:
    own = WorkspaceFactory.create()
    keeper = member(own, Role.ADMIN, is_staff=True)
    colleague = member(own, Role.VIEWER)
    client = admin_of(keeper)
    assert client.get(f"/admin/governance/user/{colleague.pk}/password/").status_code == 403
    assert client.get("/admin/governance/user/add/").status_code == 403
    answer = client.post(f"/admin/governance/user/{keeper.pk}/change/", {"is_superuser": "on"})
    assert answer.status_code == 403
    assert not User.objects.get(pk=keeper.pk).is_superuser
    assert client.get("/admin/auth/group/").status_code == 403


def test_members_are_given_and_taken_by_name_and_it_is_on_record(root: User) -> None:
    workspace = WorkspaceFactory.create()
    goes, comes = member(workspace, Role.OPERATOR), UserFactory.create()
    data = fields(workspace, operator=comes.username, egress_allow="api.example.com\n *.example.org:8443 \n")
    address = f"/admin/governance/workspace/{workspace.pk}/change/"
    assert admin_of(root).post(address, data).status_code == 302
    workspace.refresh_from_db()
    assert workspace.egress_allow == ["api.example.com", "*.example.org:8443"]
    assert access.can(comes, Permission.OPERATE, workspace.pk)
    assert not access.can(goes, Permission.VIEW, workspace.pk)
    done = AuditEntry.objects.filter(actor_id=root.pk).values_list("action", "channel")
    assert {
        ("workspace.grant", "admin"),
        ("workspace.revoke", "admin"),
        ("workspace.change", "admin"),
    } <= set(done)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"egress_allow": "https://a.example"}, "a.example"), ({"viewer": "nobody-here"}, "nobody-here")],
)
def test_a_bad_line_is_named_and_nothing_is_saved(root: User, changed: dict[str, str], message: str) -> None:
    workspace = WorkspaceFactory.create()
    address = f"/admin/governance/workspace/{workspace.pk}/change/"
    answer = admin_of(root).post(address, fields(workspace, name="New name", **changed))
    assert answer.status_code == 200
    assert message in answer.content.decode()
    workspace.refresh_from_db()
    assert workspace.name != "New name"


def test_a_workspace_made_here_has_its_roles(root: User) -> None:
    keeper = UserFactory.create()
    new = Workspace(name="New", environment="production")
    data = {**fields(new), "slug": "new", "admin": keeper.username}
    assert admin_of(root).post("/admin/governance/workspace/add/", data).status_code == 302
    assert access.can(keeper, Permission.ADMINISTER, Workspace.objects.get(slug="new").pk)


def test_an_account_change_is_on_record_without_its_secret(root: User) -> None:
    user = UserFactory.create()
    data = {"password1": "a new long password", "password2": "a new long password"}
    assert admin_of(root).post(f"/admin/governance/user/{user.pk}/password/", data).status_code == 302
    entry = AuditEntry.objects.get(action="user.change")
    assert entry.target_id == str(user.pk)
    assert "a new long" not in str(entry.detail)


def test_a_group_for_a_ladder_keeps_its_members_and_roles_stay_out_of_it(root: User) -> None:
    WorkspaceFactory.create()
    user = UserFactory.create()
    data = {"name": "Finance", "members": user.username}
    assert admin_of(root).post("/admin/auth/group/add/", data).status_code == 302
    assert list(Group.objects.get(name="Finance").user_set.all()) == [user]
    assert "workspace:" not in admin_of(root).get("/admin/auth/group/").content.decode()


def test_the_audit_page_is_read_only_and_can_be_searched(root: User) -> None:
    workspace = WorkspaceFactory.create()
    entry = AuditEntry.objects.latest("id")
    client = admin_of(root)
    page = f"/admin/governance/auditentry/{entry.pk}/change/"
    assert client.get(page).status_code == 200
    assert client.post(page, {"action": "x"}).status_code == 403
    assert client.post(page.replace("change", "delete"), {"post": "yes"}).status_code == 403
    for query in ("q=workspace.create", "when=1d", "channel=system", f"workspace={workspace.pk}"):
        assert client.get(f"/admin/governance/auditentry/?{query}").status_code == 200


def test_lists_cost_the_same_however_long_they_are(root: User) -> None:
    client = admin_of(root)

    def queries(kind: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            client.get(f"/admin/governance/{kind}/")
        return len(captured)

    workspace = WorkspaceFactory.create()
    member(workspace, Role.VIEWER)
    few = {kind: queries(kind) for kind in LISTS}
    for _ in range(10):
        member(WorkspaceFactory.create(), Role.VIEWER, Role.AUTHOR)
    assert {kind: queries(kind) for kind in LISTS} == few


def test_a_role_is_on_record_once_and_a_form_saved_as_it_was_is_not(root: User) -> None:
    workspace = WorkspaceFactory.create()
    comes = UserFactory.create()
    url = f"/admin/governance/workspace/{workspace.pk}/change/"
    before = AuditEntry.objects.count()
    assert admin_of(root).post(url, fields(workspace)).status_code == 302
    assert AuditEntry.objects.count() == before
    assert admin_of(root).post(url, fields(workspace, approver=comes.username)).status_code == 302
    (entry,) = AuditEntry.objects.all()[: AuditEntry.objects.count() - before]
    assert (entry.target_type, entry.target_id, entry.channel) == ("user", str(comes.pk), "admin")
