"""The statements of every run, planned before the first run comes.

A connection plans a statement when it first meets it, and that takes longer than running it: without
this each thread of a worker that has just begun would be several times slower in its first two runs.
"""

from __future__ import annotations

from threading import Barrier, BrokenBarrierError
from typing import Any
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction

from agentflow.conf import LIMITS

from . import statements
from .facts import facts_of
from .frontier import WINDOW
from .rows import int_array
from .run import raw_cursor

log = structlog.get_logger(__name__)

NOBODY = UUID(int=0)
TOGETHER_S = 10.0


class WarmUp:
    """What each of so many threads does once.  None does it twice: they wait until all have begun."""

    def __init__(self, threads: int) -> None:
        self._all_here = Barrier(threads, timeout=TOGETHER_S)

    def __call__(self) -> None:
        try:
            self._all_here.wait()
            plan_statements()
        except BrokenBarrierError:
            log.info("not_warmed_up", reason="the threads were busy at once")
        except (DatabaseError, InterfaceError) as error:
            log.warning("not_warmed_up", error=str(error))
            connection.close()


def plan_statements() -> None:
    """Let this thread's connection plan what every run needs, on a run that does not exist."""
    for _ in range(2):  # it is planned for good when it is met again
        facts_of(NOBODY)
    with transaction.atomic():  # which ends in order: who rolls back forgets what was planned
        cursor = raw_cursor()
        for statement, values in _statements():
            everywhere = {"execution": NOBODY, "workspace": NOBODY, "epoch": 1, "walker": NOBODY}
            cursor.execute(statement, {**everywhere, **values}, prepare=True)


def _statements() -> list[tuple[str, dict[str, Any]]]:
    nothing = int_array(())
    settled = dict.fromkeys(
        ("ids", "idxs", "attempts", "todos", "preds", "succs", "traits", "sinks"), nothing
    )
    more = {"outputs": ["{}"], "inputs": [None], "agents": [""], "began": [0.0], "ended": [0.0]}
    claim = {
        "want": 1,
        "from_idx": 0,
        "from_iteration": 0,
        "enough": 1,
        "all_fast": False,
        "fast": nothing,
        "lease": LIMITS.lease_s,
        "newcomer": True,
        "places": 1,
    }
    return [
        (statements.GATE, {}),
        (statements.BEGIN, {"partial": nothing}),
        (statements.CLAIM, {**claim, "window": None}),
        (statements.CLAIM, {**claim, "window": WINDOW}),
        (statements.OUTPUTS, {"idxs": nothing}),
        (statements.SETTLE_AND_CLAIM, {**settled, **more, "want": 1, "lease": LIMITS.lease_s}),
        (statements.FINISH, {"status": "completed", "error": None, "level": 20, "payload": "{}"}),
    ]
