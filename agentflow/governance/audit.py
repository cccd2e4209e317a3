"""The record of who did what; written in the transaction of what it records."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db import connection

from ..api import context
from ..types import JSONObject
from .access import Principal
from .models import AuditEntry

SYSTEM = "system"


class NotInTransaction(RuntimeError):
    """An audit entry must commit or vanish with the change it describes."""


def record(
    *,
    action: str,
    by: Principal | None,
    workspace_id: UUID | None,
    target_type: str,
    target_id: str,
    detail: JSONObject | None = None,
) -> None:
    """Add one entry.  `by=None` is the system itself (a timer, a recovery).

    Raises:
        NotInTransaction: called outside `transaction.atomic`.
    """
    if not connection.in_atomic_block:
        raise NotInTransaction(NotInTransaction.__doc__)
    person = None if by is None or isinstance(by, AnonymousUser) else by
    origin = context.current()
    AuditEntry.objects.create(
        action=action,
        actor_id=None if person is None else person.pk,
        actor_name=SYSTEM if person is None else person.get_username(),
        workspace_id=workspace_id,
        target_type=target_type,
        target_id=target_id,
        detail=detail or {},
        request_id=origin.request_id,
        channel=origin.channel,
    )
