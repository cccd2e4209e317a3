"""A thread whose database connection was cut while it idled finds out at its next use, and goes on.

The server ends connections at a restart, a failover or by an operator's hand; the threads of a worker
notice nothing until they are given something to do.
"""

from __future__ import annotations

from datetime import timedelta

from django.db.models.functions import Now

from agentflow.events.models import ReceivedEvent
from executions import tasks
from executions.models import Execution, Timer
from executions.services import signals
from tests.cutting import cut

from .conftest import Start, block, template


def test_a_hint_for_a_run_that_the_worker_does_not_know_yet_is_followed(start: Start) -> None:
    execution = start(template(block("a")))
    cut()
    tasks.run_branch(str(execution.pk), "blocks")
    assert Execution.objects.get(pk=execution.pk).status == "completed"


def test_a_look_at_a_run_is_taken(start: Start) -> None:
    execution = start(template(block("a")))
    Timer.objects.filter(execution=execution).update(due_at=Now() - timedelta(seconds=60))
    cut()
    tasks.join(str(execution.pk))
    assert Timer.objects.get(execution=execution).tries == 1


def test_an_event_is_delivered(start: Start) -> None:
    execution = start(template(block("a")))
    signals.receive(workspace_id=execution.workspace_id, type="order.paid")
    received = ReceivedEvent.objects.get()
    cut()
    tasks.deliver(str(received.pk))
    assert ReceivedEvent.objects.get().delivered_at is not None
