"""People with open questions: one each that the engine asked, and copies of its rows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Person:
    pk: int
    workspace: UUID
    session: str


def crowd(count: int, each: int) -> list[Person]:
    """People with a workspace and `each` open questions of its own."""
    from django.contrib.sessions.backends.db import SessionStore
    from django.test import Client

    from agentflow.governance.models import User
    from agentflow.governance.roles import Role
    from agentflow.governance.services.workspaces import create_workspace, grant

    root = User.objects.create_user("bench", is_superuser=True)
    people = []
    for number in range(count):
        user = User.objects.create_user(f"approver-{number}")
        workspace = create_workspace(slug=f"w{number}", name=f"Workspace {number}", by=root)
        grant(user=user, role=Role.APPROVER, workspace=workspace, by=root)
        client = Client()
        client.force_login(user)
        session = client.session
        assert isinstance(session, SessionStore)
        people.append(Person(user.pk, workspace.pk, str(session.session_key)))
        _ask(workspace, root, each)
    _analyse()
    return people


def _ask(workspace: Any, by: Any, count: int) -> None:
    """One question asked by the engine, and copies of its rows."""
    from agentflow.workflow.parsing import parse
    from approvals.models import Approval
    from executions.services import starting
    from templates_app.services import authoring

    body = {
        "name": "Refund request",
        "blocks": [
            {"blockId": "look", "name": "Look up", "agentId": "builtin.echo"},
            {
                "blockId": "ask",
                "name": "Approve refund",
                "agentId": "builtin.echo",
                "dependencies": ["look"],
                "humanInLoop": {"type": "approval", "title": "Pay back?"},
            },
            {"blockId": "pay", "name": "Pay", "agentId": "builtin.echo", "dependencies": ["ask"]},
        ],
    }
    version = authoring.create_template(workspace_id=workspace.pk, by=by, definition=parse(body))
    execution = starting.start(version=version, by=by, input={})
    until = time.monotonic() + 60
    while not (asked := Approval.objects.filter(execution=execution.pk).first()):
        if time.monotonic() > until:
            raise RuntimeError("the engine did not ask")
        time.sleep(0.05)
    copies(asked.pk, execution.pk, count - 1)


def copies(approval: UUID, execution: UUID, count: int) -> None:
    """As many more like it, each with an execution of its own, later due by a minute each."""
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        runs = "executions_execution"
        cursor.execute(
            "CREATE TEMP TABLE copies AS SELECT n, gen_random_uuid() AS run FROM generate_series(1, %s) n",
            [count],
        )
        cursor.execute(
            f"INSERT INTO {runs} (id, {_columns(runs)}) SELECT c.run, {_columns(runs, 'e.')}"
            f" FROM {runs} e, copies c WHERE e.id = %s",
            [execution],
        )
        blocks = "executions_blockexecution"
        others = _columns(blocks, but=("execution_id",))
        cursor.execute(
            f"INSERT INTO {blocks} (execution_id, {others})"
            f" SELECT c.run, {_columns(blocks, 'b.', but=('execution_id',))} FROM {blocks} b, copies c"
            " WHERE b.execution_id = %s",
            [execution],
        )
        asked, own = "approvals_approval", ("execution_id", "block_execution_id", "respond_by", "request")
        cursor.execute(
            f"INSERT INTO {asked} (id, {', '.join(own)}, {_columns(asked, but=own)})"
            " SELECT gen_random_uuid(), c.run, b.id, a.respond_by + c.n * interval '1 minute',"
            " json_build_object('title', 'Pay back ' || c.n || '?'),"
            f" {_columns(asked, 'a.', but=own)} FROM {asked} a, copies c"
            f" JOIN {blocks} b ON b.execution_id = c.run AND b.block_id = 'ask' WHERE a.id = %s",
            [approval],
        )
        cursor.execute("DROP TABLE copies")


def _columns(table: str, alias: str = "", but: Iterable[str] = ()) -> str:
    """A table's columns that are neither its key nor computed."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = %s AND is_generated = 'NEVER' AND column_name <> 'id'"
            " ORDER BY ordinal_position",
            [table],
        )
        return ", ".join(f'{alias}"{name}"' for (name,) in cursor.fetchall() if name not in but)


def _analyse() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def open_questions() -> int:
    from approvals.models import Approval

    return Approval.objects.filter(status="pending").count()
