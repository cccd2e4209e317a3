"""What a message makes a worker do.  Delivered twice, or for nothing, each finds nothing to do."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from celery import shared_task
from celery.signals import worker_shutting_down

log = structlog.get_logger(__name__)


@worker_shutting_down.connect
def _finish_and_take_nothing_more(**kwargs: Any) -> None:
    from executions.engine.watch import watch

    watch.leave()


@shared_task(ignore_result=False)  # members of a chord are counted by their results
def run_branch(execution_id: str, queue: str) -> None:
    """Walk one branch.  Never raises: a chord with a failed member would not fire."""
    from executions.engine.walker import walk

    try:
        walk(UUID(execution_id))
    except Exception:
        log.exception("walk_failed", execution_id=execution_id)


@shared_task
def join(execution_id: str) -> None:
    """Look at the run once all members of a fork are done.  A net: every walker advances by itself."""
    from executions.services import reconcile

    try:
        reconcile.look(UUID(execution_id))
    except Exception:
        log.exception("look_failed", execution_id=execution_id)
