"""Hints: messages that say "there may be work in this run".

A hint carries ids only.  If it is lost, doubled or late the rows decide, and the clock sends it again
(docs/decisions/0004).  So publishing never blocks a caller and never raises: while the broker does
not answer, hints are left to the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import structlog
from celery import chord, current_app, group
from django.db import transaction

log = structlog.get_logger(__name__)

QUEUE = "blocks"
CONTROL = "control"
CANARY_EXPIRES_S = 60
_QUIET_S = 2.0  # after a failed publish nothing is tried for this long

_silent_until = 0.0


def _publish(send: Callable[[], object]) -> bool:
    global _silent_until
    if time.monotonic() < _silent_until:
        return False
    try:
        send()
    except Exception as error:  # noqa: BLE001  # whichever family: a hint may fail
        _silent_until = time.monotonic() + _QUIET_S
        log.warning("hint_not_sent", error=repr(error))
        return False
    return True


def hint(execution_id: UUID, walkers: int = 1) -> None:
    """Ask for walkers.  Several are a chord whose body looks at the run once all of them are done."""
    if walkers <= 0:
        return
    one = current_app.signature(
        "executions.tasks.run_branch", args=(str(execution_id), QUEUE), immutable=True, queue=QUEUE
    )
    if walkers == 1:
        _publish(lambda: one.apply_async(retry=False, ignore_result=True))
        return
    body = current_app.signature(
        "executions.tasks.join", args=(str(execution_id),), immutable=True, queue=CONTROL
    )
    _publish(lambda: chord(group(one.clone() for _ in range(walkers)), body).apply_async(retry=False))


def look_at(execution_id: UUID) -> None:
    """Ask for one look at a run: its children, its leases, its end."""
    body = current_app.signature(
        "executions.tasks.join", args=(str(execution_id),), immutable=True, queue=CONTROL
    )
    _publish(lambda: body.apply_async(retry=False, ignore_result=True))


def on_commit_deliver(received: UUID) -> None:
    """Ask for an event to be brought to the blocks that wait for it."""
    body = current_app.signature(
        "executions.tasks.deliver", args=(str(received),), immutable=True, queue=CONTROL
    )
    transaction.on_commit(
        lambda: _publish(lambda: body.apply_async(retry=False, ignore_result=True)), robust=True
    )


def canary(queue: str) -> bool:
    """A message of a worker to itself.  True: the broker has taken it."""
    return _publish(
        lambda: current_app.send_task(
            "executions.tasks.canary", queue=queue, retry=False, ignore_result=True, expires=CANARY_EXPIRES_S
        )
    )


def on_commit_hint(execution_id: UUID, walkers: int = 1) -> None:
    transaction.on_commit(lambda: hint(execution_id, walkers), robust=True)


def on_commit_look_at(execution_id: UUID) -> None:
    transaction.on_commit(lambda: look_at(execution_id), robust=True)
