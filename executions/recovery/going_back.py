"""The strategy `restart`: an execution that failed goes back to a recovery point by itself.

The failure that asks for it stops the run and leaves a timer, in one transaction.  Once the run has ended the
clock restarts it; a clock that dies leaves the timer.  Where somebody was quicker, cancelled or restarted it,
nothing is done.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from agentflow.errors import AgentflowError
from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject
from executions.engine.facts import Facts, facts_of
from executions.engine.run import Run, lock_row, raw_cursor
from executions.models import Timer, TimerKind
from executions.ports import given_up
from executions.services import restarting
from executions.services.restarting import RestartRequest
from executions.states import TERMINAL
from executions.states import ExecutionStatus as E

_WAIT = """
UPDATE executions_timer SET due_at = statement_timestamp() + interval '1 second' WHERE key = %(key)s
"""


def go_back(execution_id: UUID) -> None:
    """Restart a run that ended for it; wait for one that still ends."""
    facts = facts_of(execution_id)
    if facts is None:
        return
    with transaction.atomic():
        cursor = raw_cursor()
        gate = lock_row(cursor, execution_id)
        assert gate is not None
        run = Run(facts, cursor, gate)
        timer = Timer.objects.filter(execution=execution_id, kind=TimerKind.RECOVERY).first()
        if timer is None:
            return
        same = run.epoch == timer.tries
        if same and run.status not in TERMINAL:
            cursor.execute(_WAIT, {"key": timer.key})
            return
        timer.delete()
        if same and run.status is E.FAILED:
            _restart(facts, timer.progress)


def _restart(facts: Facts, point_id: int) -> None:
    request = RestartRequest(point_id=point_id, reason="recovery", spares_effects=True)
    try:
        with transaction.atomic():
            epoch = restarting.restart(execution_id=facts.execution_id, by=None, request=request)
    except AgentflowError as error:
        said: JSONObject = {"strategy": "restart", "recoveryPointId": point_id, "why": error.message}
        _tell(facts, "recovery_failed", Level.ERROR, said)
        if facts.simulation is None:
            given_up()(execution_id=facts.execution_id)  # nothing else mends it
    else:
        _tell(facts, "recovery_restarted", Level.WARNING, {"recoveryPointId": point_id, "epoch": epoch})


def _tell(facts: Facts, type: str, level: Level, payload: JSONObject) -> None:
    store.append(
        type=type,
        workspace_id=facts.workspace_id,
        execution_id=facts.execution_id,
        level=level,
        payload=payload,
    )
