"""The history checker: it passes what the engine did, and names what was forged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from django.db import connection, transaction

from agentflow.governance.models import User
from approvals.models import Approval
from approvals.services import responding
from executions.models import Execution
from executions.services import control, reconcile
from tests.history import check

from .conftest import Start, block, claim, drain, finish, lose_worker, template

Forge = Callable[[Execution], None]


@dataclass
class Ledger:
    """What the agents of a test wrote down."""

    calls: dict[str, int] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)


DEFINITION = template(
    block("first"),
    block("left", "first", humanInLoop={"type": "approval"}),
    block("right", "first", when="false"),
    block("last", "left", "right"),
)


@pytest.fixture
def ended(start: Start, author: User) -> Execution:
    """A good history: a guard, a pause, a person, a lost worker."""
    execution = _until_the_worker_is_lost(start, author)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    assert check([execution.pk], at_rest=True) == []
    return execution


@pytest.fixture
def running(start: Start, author: User) -> Execution:
    """The same in the middle, with a worker on `left`."""
    execution = _until_the_worker_is_lost(start, author)
    assert check([execution.pk]) == []
    return execution


def _until_the_worker_is_lost(start: Start, author: User) -> Execution:
    execution = start(DEFINITION)
    held = claim(execution)
    control.pause(execution_id=execution.pk, by=author)
    finish(execution, held, {})
    control.resume(execution_id=execution.pk, by=author)
    asked = Approval.objects.get(execution=execution)
    responding.respond(approval_id=asked.pk, by=author, approved=True)
    claim(execution)
    lose_worker(execution, "left")
    return execution


# -- forgeries -----------------------------------------------------------------


def sql(statement: str) -> Forge:
    """One statement past the triggers that keep versions and audit entries; `RUN` is the execution's id."""

    def forge(execution: Execution) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(statement.replace("RUN", f"'{execution.pk}'"))
            assert cursor.rowcount >= 1, "the forgery changed nothing"

    return forge


def block_row(changes: str, block_id: str) -> Forge:
    return sql(
        f"UPDATE executions_blockexecution SET {changes} WHERE execution_id = RUN AND block_id = '{block_id}'"
    )


LEFT = "(SELECT id FROM executions_blockexecution WHERE execution_id = RUN AND block_id = 'left')"
UNCOUNTED = sql(f"DELETE FROM executions_failurenote WHERE block = {LEFT}")


def attempt_of_left(statement: str) -> Forge:
    """A statement on the rescued attempt."""
    return sql(f"{statement} WHERE attempt = 1 AND block_id = {LEFT}")


def both(*forges: Forge) -> Forge:
    def forge(execution: Execution) -> None:
        for one in forges:
            one(execution)

    return forge


def event(status: str, block_id: str = "") -> str:
    """The condition for the one change to `status`, of a block or of the execution."""
    of = f"block_id = '{block_id}'" if block_id else "block_id IS NULL"
    return f"execution_id = RUN AND type LIKE '%_changed' AND {of} AND payload->>'status' = '{status}'"


def swapped(first: str, second: str) -> Forge:
    """Two changes in the other order."""
    pair = f"(SELECT * FROM events_event WHERE ({first}) OR ({second}))"
    return sql(
        "UPDATE events_event e SET block_id = o.block_id, payload = o.payload, type = o.type, at = o.at"
        f" FROM {pair} o, {pair} same WHERE e.id = same.id AND o.id <> same.id"
    )


AUDIT = "at, actor_id, actor_name, action, workspace_id, target_type, target_id, detail, request_id, channel"
AUDIT_COPY = f"INSERT INTO governance_auditentry ({AUDIT}) SELECT {AUDIT} FROM governance_auditentry"
QUESTION = ", ".join(
    f'"{field.column}"'
    for field in Approval._meta.concrete_fields
    if field.column not in {"id", "status", "decision"} and not field.null and not field.generated
)
ANSWER = "action = 'approval.respond' AND detail->>'executionId' = RUN"
VERSION = "id = (SELECT template_version_id FROM executions_execution WHERE id = RUN)"

FORGED_ENDS: dict[str, tuple[str, Forge]] = {
    "a block is gone": (
        "I1",
        sql("DELETE FROM executions_blockexecution WHERE execution_id = RUN AND block_id = 'right'"),
    ),
    "its first change is not the first": (
        "I2",
        sql(f"DELETE FROM events_event WHERE {event('pending')}"),
    ),
    "a change was never recorded": (
        "I2",
        sql(f"DELETE FROM events_event WHERE {event('completed', 'last')}"),
    ),
    "a settled block has another reason": ("I3", block_row("reason = 'guard'", "last")),
    "a settled block ended later": ("I3", block_row("completed_at = completed_at + interval '1 s'", "last")),
    "it ended at another time": (
        "I3",
        sql("UPDATE executions_execution SET completed_at = now() + interval '1 s' WHERE id = RUN"),
    ),
    "an attempt is missing": ("I4", both(attempt_of_left("DELETE FROM executions_blockattempt"), UNCOUNTED)),
    "two outcomes were accepted": (
        "I4",
        both(attempt_of_left("UPDATE executions_blockattempt SET outcome = 'ok'"), UNCOUNTED),
    ),
    "a result of a call that never was": (
        "I4",
        sql(
            "INSERT INTO executions_lateresult (block_id, attempt, at) SELECT id, 9, now()"
            " FROM executions_blockexecution WHERE execution_id = RUN AND block_id = 'left'"
        ),
    ),
    "an unknown effect was repeated unasked": ("I5", block_row("effect = 'once'", "left")),
    "a block began before its predecessor had ended": (
        "I6",
        attempt_of_left("UPDATE executions_blockattempt SET started_at = started_at - interval '1 hour'"),
    ),
    "a block opened before its predecessor had ended": (
        "I6",
        swapped(event("completed", "first"), event("waiting_human", "left")),
    ),
    "a block started in a pause": ("I10", swapped(event("paused"), event("running", "first"))),
    "a skip has no reason": (
        "I7",
        both(
            block_row("reason = ''", "right"),
            sql(f"UPDATE events_event SET payload = payload - 'reason' WHERE {event('skipped', 'right')}"),
        ),
    ),
    "it has failed although nothing did": (
        "I7",
        both(
            sql("UPDATE executions_execution SET status = 'failed' WHERE id = RUN"),
            sql(
                'UPDATE events_event SET payload = \'{"status": "failed"}\''
                f" WHERE type = 'execution_changed' AND {event('completed')}"
            ),
        ),
    ),
    "a timer is left": (
        "I8",
        sql(
            "INSERT INTO executions_timer (kind, key, due_at, tries, progress, execution_id)"
            " VALUES ('check', 'check:left', now(), 0, 0, RUN)"
        ),
    ),
    "what was asked is another question": (
        "I9",
        sql(
            "UPDATE approvals_approval SET request = (request::jsonb - 'facts')::json"
            " WHERE execution_id = RUN"
        ),
    ),
    "the answer was another": (
        "I9",
        sql(
            "UPDATE governance_auditentry SET detail = jsonb_set(detail, '{approved}', 'false')"
            f" WHERE {ANSWER}"
        ),
    ),
    "it was decided twice": (
        "I9",
        sql(
            "INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)"
            " SELECT workspace_id, execution_id, block_id, type, level, payload FROM events_event"
            " WHERE execution_id = RUN AND type = 'approval_responded'"
        ),
    ),
    "the definition is another": (
        "I11",
        sql(
            "UPDATE templates_app_templateversion SET definition = jsonb_set(definition::jsonb,"
            f" '{{name}}', '\"other\"') WHERE {VERSION}"
        ),
    ),
    "it was started with another version": (
        "I11",
        sql(
            "UPDATE governance_auditentry SET detail = jsonb_set(detail, '{version}', '7')"
            " WHERE action = 'execution.start' AND target_id = RUN"
        ),
    ),
    "a block is not the version's": ("I11", block_row("block_id = 'other'", "last")),
    "a pause that nobody is known to have asked for": (
        "I12",
        sql("DELETE FROM governance_auditentry WHERE action = 'execution.pause' AND target_id = RUN"),
    ),
    "an answer recorded twice": ("I12", sql(f"{AUDIT_COPY} WHERE {ANSWER}")),
    "an event of another workspace": (
        "I12",
        sql(
            f"UPDATE events_event SET workspace_id = '{uuid4()}' WHERE id ="
            f" (SELECT min(id) FROM events_event WHERE {event('completed', 'last')})"
        ),
    ),
}

FORGED_MIDDLES: dict[str, tuple[str, Forge]] = {
    "nobody looks at it": (
        "I8",
        sql("DELETE FROM executions_timer WHERE execution_id = RUN AND kind = 'check'"),
    ),
    "its timer is far away": (
        "I8",
        sql("UPDATE executions_timer SET due_at = now() + interval '1 hour' WHERE execution_id = RUN"),
    ),
    "nobody has the lease of a call": (
        "I8",
        block_row("lease_expires_at = NULL, lease_owner = NULL", "left"),
    ),
    "a block waits for more than there is": ("I8", block_row("todo = todo + 1", "last")),
    "it waits for one end too many": (
        "I8",
        sql("UPDATE executions_execution SET open_sinks = open_sinks + 1 WHERE id = RUN"),
    ),
    "an open question of a block that does not wait": (
        "I9",
        sql(
            f"INSERT INTO approvals_approval (id, status, decision, {QUESTION})"
            f" SELECT gen_random_uuid(), 'pending', '', {QUESTION} FROM approvals_approval"
            " WHERE execution_id = RUN"
        ),
    ),
    "too many walkers": ("I10", sql("UPDATE executions_execution SET max_parallel = 0 WHERE id = RUN")),
    "it is deeper than allowed": ("I10", sql("UPDATE executions_execution SET depth = 9 WHERE id = RUN")),
}


def test_each_forged_end_is_named_and_nothing_else(ended: Execution) -> None:
    assert {what: named(ended, forge) for what, (_, forge) in FORGED_ENDS.items()} == {
        what: {invariant} for what, (invariant, _) in FORGED_ENDS.items()
    }
    assert check([ended.pk], at_rest=True) == []


def test_each_forged_state_on_the_way_is_named_and_nothing_else(running: Execution) -> None:
    assert {what: named(running, forge) for what, (_, forge) in FORGED_MIDDLES.items()} == {
        what: {invariant} for what, (invariant, _) in FORGED_MIDDLES.items()
    }
    assert check([running.pk]) == []


def named(execution: Execution, forge: Forge) -> set[str]:
    """What the checker says of a forgery, which is taken back."""
    with transaction.atomic():
        forge(execution)
        found = {violation.invariant for violation in check([execution.pk])}
        transaction.set_rollback(True)
    return found


def test_an_execution_that_is_gone_isnamed(ended: Execution) -> None:
    assert [v.invariant for v in check([ended.pk, uuid4()])] == ["I1"]


def test_what_is_still_at_work_is_named_when_it_should_rest(running: Execution) -> None:
    assert check([running.pk]) == []
    assert [v.invariant for v in check([running.pk], at_rest=True)] == ["I1"]


def test_the_agents_ledger_is_held_against_the_rows(ended: Execution) -> None:
    block_row("effect = 'keyed'", "left")(ended)
    key = f"{ended.pk}:left:0:0"

    def found(calls: dict[str, int], effects: dict[str, int]) -> list[str]:
        return [violation.invariant for violation in check([ended.pk], ledger=Ledger(calls, effects))]

    assert found({key: 2}, {key: 1}) == []
    assert found({key: 2}, {key: 2}) == ["I5"]  # done twice
    assert found({key: 1}, {}) == ["I5"]  # completed and never done
    assert found({key: 1, f"{ended.pk}:left:0:7": 1}, {key: 1}) == ["I5"]  # a key that no row has


def test_the_changes_of_items_tell_which_item_was_cancelled(start: Start, author: User) -> None:
    items = {"items": "[1, 2, 3]", "maxConcurrency": 2}
    execution = start(template(block("each", forEach=items), block("last", "each")))
    claim(execution)
    control.cancel(execution_id=execution.pk, by=author)
    assert check([execution.pk]) == []
