"""Many blocks that wait until an agent is fit again: asked for together, and woken in waves."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from agentflow.agents import registry
from executions.models import Execution, Place, Timer
from executions.services import reconcile, seeking, starting, ticking
from tests.executions.conftest import Start, block, drain, template
from tests.factories.executions import statuses
from tests.work import statements

LATER = {"function": "tests.builtins.record", "effect": "once"}


@pytest.fixture
def come(settings: Any, test_agents: None) -> Any:
    """Let an agent be there from now on."""

    def made(name: str) -> None:
        settings.AGENTFLOW_BUILTIN_AGENTS = {**settings.AGENTFLOW_BUILTIN_AGENTS, name: LATER}
        registry.forget()

    yield made
    registry.forget()


def waiting(start: Start, agent: str) -> Execution:
    return left_waiting([start(template(block("a", agentId=agent, recovery={"configuration": ["queue"]})))])[
        0
    ]


def more(of: Execution, count: int) -> list[Execution]:
    version, by = of.template_version, of.created_by
    assert by is not None
    return left_waiting([starting.start(version=version, by=by, input={}) for _ in range(count)])


def left_waiting(found: list[Execution]) -> list[Execution]:
    for execution in found:
        drain(execution)
        reconcile.look(execution.pk)
        assert statuses(execution) == {"a": "waiting_external"}
    return found


def news() -> int:
    return Timer.objects.filter(kind="news").count()


def test_many_that_wait_for_one_agent_cost_as_much_as_one_and_are_woken_in_waves(
    start: Start, come: Any
) -> None:
    runs, other = [waiting(start, "test.later")], waiting(start, "test.never")
    seeker = seeking.Seeker()
    seeker.look()
    few, _ = statements(seeker.look)
    runs += more(runs[0], 12)
    many, _ = statements(seeker.look)
    assert len(many) == len(few) == 3  # what is sought, and of each agent whether it is there
    assert news() == 0
    # None of them is looked at by itself for minutes.
    soonest = Timer.objects.filter(kind="check").order_by("due_at")[0]
    assert (soonest.due_at - timezone.now()).total_seconds() > 500

    come("test.later")
    assert seeker.look() == 1  # somebody tries it
    assert seeker.look() == 10
    assert news() == 11
    assert seeker.look() == 2  # those that are left: nobody is told twice
    assert seeker.look() == 0
    Timer.objects.filter(kind="news").delete()  # a clock that lost all it had told
    assert seeking.Seeker().look() == 1
    ticking.tick()
    for execution in runs:
        reconcile.look(execution.pk)
        drain(execution)
        assert execution.status == "completed"
    assert statuses(other) == {"a": "waiting_external"}
    assert Place.objects.count() == 1


def test_what_is_waited_for_is_found_by_its_index(start: Start) -> None:
    waiting(start, "test.later")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {seeking._SOUGHT}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert plan.count("place_seeks") >= 2
    assert "Seq Scan on executions_place" not in plan
