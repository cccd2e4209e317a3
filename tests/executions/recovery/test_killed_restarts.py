"""A restart that recovery decided on is carried out once, whichever process dies between which two lines.

The database ends the connection in the middle of the statement that is named, as when its process is killed:
what the transaction had done so far is gone, and the process does nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection
from django.db.models.functions import Now

from agentflow.agents.calls import Failed
from agentflow.workflow.failures import Failure, FailureKind
from executions.engine.judging import judge
from executions.engine.turns import take_turn
from executions.models import Execution, Timer
from executions.recovery.reading import Reader
from executions.services import reconcile, ticking
from tests import builtins

from ..conftest import Start, claim, drain, facts, finish, lose_worker
from .test_strategies import going_back, told

AT_COMMIT = "CREATE CONSTRAINT TRIGGER killer AFTER {} ON {} DEFERRABLE INITIALLY DEFERRED"
AT_ONCE = "CREATE TRIGGER killer AFTER {} ON {}"

TIMER = ("INSERT", "executions_timer", "NEW.kind = 'recovery'")
STOPPED = ("UPDATE", "executions_execution", "NEW.status = 'failed'")
TAKEN = ("DELETE", "executions_timer", "OLD.kind = 'recovery'")
BEGUN = ("UPDATE", "executions_execution", "NEW.epoch = 2")
TOLD = ("INSERT", "events_event", "NEW.type = 'recovery_restarted'")


@contextmanager
def killed(trigger: str, moment: tuple[str, str, str]) -> Iterator[None]:
    """What is done in here dies at this moment."""
    event, table, when = moment
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION kill() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        cursor.execute(f"{trigger.format(event, table)} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION kill()")
    with pytest.raises(DatabaseError):
        yield
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION kill() CASCADE")


def restarted_once(execution: Execution) -> None:
    for _ in range(2):
        Timer.objects.filter(execution=execution).update(due_at=Now())
        ticking.tick()
        drain(execution)
    assert (execution.status, execution.epoch) == ("failed", 2)  # it is restarted once, and fails again
    assert builtins.calls.count(None) <= 1  # what had settled at the point was not done again
    assert len(told(execution, "recovery_restarted")) == 1
    assert not execution.timers.filter(kind="recovery").exists()


@pytest.mark.parametrize(("trigger", "moment"), [(AT_ONCE, TIMER), (AT_ONCE, STOPPED), (AT_COMMIT, TIMER)])
def test_a_worker_that_dies_while_it_decides_has_decided_nothing(
    start: Start, trigger: str, moment: tuple[str, str, str]
) -> None:
    execution = start(going_back(), input={"n": 1})
    for _ in range(2):
        finish(execution, claim(execution), {})
    held, known = claim(execution), facts(execution)
    crashed = Failed(Failure(FailureKind.AGENT, "agent_crashed", "it broke"))
    change = judge(known.plan[held.idx], held, crashed, scope=dict, healing=Reader(known))
    with killed(trigger, moment):
        take_turn(known, uuid4(), [change], want=0)
    execution.refresh_from_db()
    assert (execution.status, execution.epoch) == ("running", 1)
    assert not execution.timers.filter(kind="recovery").exists()
    lose_worker(execution, "c")
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.timers.filter(kind="recovery").count() == 1
    restarted_once(execution)


@pytest.mark.parametrize(
    ("trigger", "moment"),
    [(AT_ONCE, TAKEN), (AT_ONCE, BEGUN), (AT_ONCE, TOLD), (AT_COMMIT, TOLD)],
)
def test_a_clock_that_dies_leaves_the_restart_to_the_next(
    start: Start, trigger: str, moment: tuple[str, str, str]
) -> None:
    execution = start(going_back(), input={"n": 1})
    drain(execution)
    with killed(trigger, moment):
        ticking.tick()
    execution.refresh_from_db()
    assert (execution.status, execution.epoch) == ("failed", 1)
    assert execution.timers.filter(kind="recovery").count() == 1
    restarted_once(execution)
