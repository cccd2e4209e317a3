"""A thread whose database connection was cut while it idled finds out at its next use, and goes on.

The server ends connections at a restart, a failover or by an operator's hand; the threads of a worker
notice nothing until they are given something to do.
"""

from __future__ import annotations

from datetime import timedelta
from threading import Event
from unittest import mock

import psycopg
import pytest
from django.db.models.functions import Now

from agentflow.agents import registry
from agentflow.events.models import ReceivedEvent
from executions import tasks
from executions.engine.walker import walk
from executions.models import Execution, Timer
from executions.services import signals
from tests.cutting import cut
from tests.factories.agents import AgentFactory
from tests.waiting import until

from .conftest import Start, block, row, template
from .test_callers import Held
from .test_callers import held as held
from .test_callers import open_callers as open_callers


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


@pytest.mark.usefixtures("open_callers")
def test_who_has_a_claim_looks_up_whether_its_agent_waits_for_others(start: Start, held: Held) -> None:
    execution = start(template(block("a", agentId="outside", effect="pure")))
    workspace = execution.workspace
    workspace.egress_allow = [held.server.allowed]
    workspace.save()
    AgentFactory.create(
        workspace=workspace, agent_id="outside", tool_type="API", configuration={"url": held.server.url("/")}
    )
    registry.forget()
    held.gate.set()
    commit, cuts = psycopg.Connection.commit, Event()

    def and_cut(connection: psycopg.Connection) -> None:
        commit(connection)
        if not cuts.is_set():  # the claim is made
            cuts.set()
            cut()

    with mock.patch.object(psycopg.Connection, "commit", and_cut):
        walk(execution.pk)
    until(lambda: Execution.objects.get(pk=execution.pk).status == "completed", why="the call to come back")
    assert held.calls == 1
    assert row(execution, "a").attempt == 1
