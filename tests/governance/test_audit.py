from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from agentflow.api import context
from agentflow.governance import audit, selectors
from agentflow.governance.models import AuditEntry
from agentflow.governance.roles import Role
from tests.factories.governance import UserFactory, WorkspaceFactory, member


def entry(**fields: object) -> AuditEntry:
    values = {
        "action": "test.done",
        "by": None,
        "workspace_id": None,
        "target_type": "test",
        "target_id": "1",
    }
    audit.record(**{**values, **fields})  # type: ignore[arg-type]  # fields of one call
    return AuditEntry.objects.latest("id")


def test_an_entry_says_who_what_where_and_by_which_way(db: None) -> None:
    workspace, user = WorkspaceFactory.create(), UserFactory.create()
    with context.origin(channel="api", request_id="request-1"):
        made = entry(by=user, workspace_id=workspace.pk, detail={"reason": "because"})
    assert (made.actor_id, made.actor_name) == (user.pk, user.username)
    assert (made.channel, made.request_id, made.detail) == ("api", "request-1", {"reason": "because"})
    assert entry().actor_name == "system"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE governance_auditentry SET actor_name = 'somebody else'",
        "DELETE FROM governance_auditentry",
    ],
)
def test_the_database_refuses_to_change_or_delete_an_entry(db: None, statement: str) -> None:
    made = entry()
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
        connection.cursor().execute(statement)
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
        AuditEntry.objects.filter(pk=made.pk).delete()
    assert AuditEntry.objects.get(pk=made.pk).actor_name == "system"


def test_an_entry_outlives_its_actor_and_its_workspace(db: None) -> None:
    workspace, user = WorkspaceFactory.create(), UserFactory.create()
    made = entry(by=user, workspace_id=workspace.pk)
    user.delete()
    workspace.delete()
    assert AuditEntry.objects.get(pk=made.pk).actor_name == user.username


@pytest.mark.django_db(transaction=True)
def test_an_entry_needs_a_transaction_and_vanishes_with_it() -> None:
    with pytest.raises(audit.NotInTransaction):
        entry()
    with transaction.atomic():
        entry()
        transaction.set_rollback(True)
    assert AuditEntry.objects.count() == 0


def test_roles_given_and_taken_are_on_record_and_only_administrators_read_it(db: None) -> None:
    workspace, foreign = WorkspaceFactory.create(), WorkspaceFactory.create()
    admin = member(workspace, Role.ADMIN)
    viewer = member(workspace, Role.VIEWER)
    member(foreign, Role.ADMIN)
    actions = selectors.audit_visible_to(admin).values_list("action", "workspace_id")
    assert set(actions) == {("workspace.create", workspace.pk), ("workspace.grant", workspace.pk)}
    assert not selectors.audit_visible_to(viewer).exists()
