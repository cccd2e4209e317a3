"""What a message makes a worker do.  Delivered twice, or for nothing, each finds nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from celery import shared_task
from celery.signals import (
    celeryd_after_setup,
    task_received,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from django.db import DatabaseError, InterfaceError, connection

from agentflow.patience import patiently
from executions.lanes import LANES, QUEUE
from executions.tallies import Tally, tallies

if TYPE_CHECKING:
    from executions.processes import WorkerPulse

log = structlog.get_logger(__name__)


_pulse: WorkerPulse | None = None


@celeryd_after_setup.connect
def _listen_to_oneself(sender: str, instance: Any, **kwargs: Any) -> None:
    """Consume a queue of one's own, and the lanes, beside the named ones and through the same consumer."""
    from executions.engine.callers import callers
    from executions.processes import WorkerPulse, canary_queue, look_up_by_key, plan_statements_once

    plan_statements_once()
    look_up_by_key()
    if "thread" in str(instance.pool_cls):
        callers.begin()
    global _pulse
    queues = instance.app.amqp.queues
    _pulse = WorkerPulse(queues=list(queues.consume_from), name=sender, threads=instance.concurrency)
    queues.select_add(canary_queue(_pulse.id))
    if QUEUE in queues.consume_from:
        for lane in LANES:
            queues.select_add(queues.new_missing(lane))


@worker_ready.connect
def _begin(sender: Any, **kwargs: Any) -> None:
    from executions.services import losses

    if _pulse is not None:
        _pulse.start()
    try:
        losses.worker_began()
    except (DatabaseError, InterfaceError) as error:  # their checks come in their time
        log.warning("runs_not_looked_at", error=str(error))
    finally:
        connection.close()
    _warm_up(sender.pool)


def _warm_up(pool: Any) -> None:
    """Have each thread of the pool make its first steps before it is given work."""
    from executions.engine.warming import WarmUp

    if hasattr(pool, "executor"):
        warm_up = WarmUp(pool.limit)
        for _ in range(pool.limit):
            pool.apply_async(warm_up, callback=lambda _: None)


@task_received.connect
def _heard(**kwargs: Any) -> None:
    if _pulse is not None:
        _pulse.canary.heard()


@worker_shutting_down.connect
def _finish_and_take_nothing_more(**kwargs: Any) -> None:
    from executions.engine.watch import watch

    if _pulse is not None:
        _pulse.stop()
    watch.leave()


@worker_shutdown.connect
def _wait_for_callers(**kwargs: Any) -> None:
    from executions.engine.callers import callers

    callers.end()


@shared_task
def deliver(received: str) -> None:
    """Bring an event to the blocks that wait for it.  The clock does so, too, if this is lost."""
    from executions.services import signals

    try:
        patiently(lambda _: signals.deliver(UUID(received)), received=received)
    except Exception:
        log.exception("delivery_failed", received=received)


@shared_task
def canary() -> None:
    """Nothing: that it was received is all there is to it."""


@shared_task(ignore_result=False)
def probe(sent: str) -> str:
    """Give back what was sent: the doctor's question whether anybody serves a queue."""
    return sent


@shared_task(ignore_result=False)  # members of a chord are counted by their results
def run_branch(execution_id: str, queue: str) -> None:
    """Walk one branch.  Never raises: a chord with a failed member would not fire."""
    from executions.engine.walker import walk

    tallies.add(Tally.WALKS)
    try:
        if not walk(UUID(execution_id)):
            tallies.add(Tally.IDLE_WALKS)
    except Exception:
        log.exception("walk_failed", execution_id=execution_id)


@shared_task
def join(execution_id: str, counted: bool = False) -> None:
    """Look at the run once all members of a fork are done.  A net: every walker advances by itself."""
    from executions.services import reconcile

    if counted:
        tallies.add(Tally.JOINS)
    try:
        patiently(lambda _: reconcile.look(UUID(execution_id)), execution_id=execution_id)
    except Exception:
        log.exception("look_failed", execution_id=execution_id)
