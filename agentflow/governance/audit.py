"""The record of who did what; written in the transaction of what it records."""

from __future__ import annotations

import json
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db import connection

from ..api import context
from ..types import JSONObject
from .access import Principal

SYSTEM = "system"

# By hand: every command writes an entry, and building this one INSERT anew takes longer than running it.
_ADD = """
INSERT INTO governance_auditentry (action, actor_id, actor_name, workspace_id, target_type, target_id,
  detail, request_id, channel)
VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s)
"""


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
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD,
            [
                action,
                None if person is None else person.pk,
                SYSTEM if person is None else person.get_username(),
                workspace_id,
                target_type,
                target_id,
                json.dumps(detail or {}),
                origin.request_id,
                origin.channel,
            ],
        )
