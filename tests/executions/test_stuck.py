"""Executions that stand still: when they do, what is told of it, and how well an execution is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agentflow.events.models import Event
from agentflow.governance.roles import Role
from executions import doctor, stuck
from executions.condition import ExecutionFacts, of_facts
from executions.explain import Reason
from executions.models import BlockExecution, Execution, Timer
from executions.services import reconcile
from executions.stuck import Wait, overdue_at, verdict
from tests.factories.governance import WorkspaceFactory, client_of, member
from tests.work import statements

from .conftest import Start, block, drain, template

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def wait(status: str = "running", reason: str = "", **more: Any) -> Wait:
    return Wait("a", status, reason, **{"since": NOON, "until": None, **more})


@pytest.mark.parametrize(
    ("waits", "overdue"),  # in seconds after the run last moved
    [
        (wait("ready"), 300),  # no worker takes it
        (wait("ready", until=at(3600)), 3900),  # a backoff, or the budget of the next day
        (wait("waiting_external", "timer", until=at(86_400)), 86_460),  # not before its date
        (wait("waiting_external", "event"), None),
        (wait("waiting_external", "event", until=at(100)), 160),
        (wait("waiting_external", "agent", until=at(3600)), 3660),
        (wait("waiting_external", "child"), None),
        (wait("waiting_human"), None),
        (wait("waiting_human", until=at(7200)), 7200),  # a question is late once its time is over
        (wait(), None),
        (wait(usual_s=1), 60),
        (wait(usual_s=100), 200),
        (wait(usual_s=100, limit_s=30), 90),
        (wait("waiting_external", "callback", usual_s=500, until=at(900)), 900),
    ],
)
def test_a_wait_is_as_it_should_be_up_to_a_moment(waits: Wait, overdue: float | None) -> None:
    assert overdue_at(waits, NOON) == (None if overdue is None else at(overdue))


def test_a_run_is_stuck_when_a_wait_is_overdue_and_nothing_moves() -> None:
    late, date = wait(usual_s=100), wait("waiting_external", "timer", until=at(9000))
    assert verdict([late, date], NOON, at(199)) == stuck.Verdict(False, at(200))
    assert verdict([late, date], NOON, at(200)) == stuck.Verdict(True, at(200), (late,))
    assert not verdict([late, date], at(190), at(200)).stuck  # others go on
    assert verdict([late, date], at(190), at(250)).stuck
    assert verdict([wait("waiting_human")], NOON, at(1e6)) == stuck.Verdict(False)
    assert not verdict([], NOON, at(299)).stuck
    assert verdict([], NOON, at(300)).stuck  # open, and nothing in it is


# -- as rows -------------------------------------------------------------------


def pass_time(execution: Execution, seconds: float) -> None:
    """Let everything that was seen of the run be so long ago."""
    earlier = timedelta(seconds=seconds)
    Timer.objects.filter(execution=execution).update(moved_at=F("moved_at") - earlier)
    BlockExecution.objects.filter(execution=execution).update(
        started_at=F("started_at") - earlier, available_at=F("available_at") - earlier
    )


def stuck_at(execution: Execution) -> datetime | None:
    found: datetime | None = Timer.objects.get(key=f"check:{execution.pk}").stuck_at
    return found


def told(execution: Execution) -> list[str]:
    kinds = ("execution_stuck", "execution_moves")
    rows = Event.objects.filter(execution_id=execution.pk, type__in=kinds).order_by("id")
    return list(rows.values_list("type", flat=True))


def test_what_no_worker_takes_is_told_once_shown_and_cleared(start: Start) -> None:
    execution = start(template(block("a"), block("b", "a")))
    with_b = drain_one(execution)
    assert stuck_at(execution) is None
    asked, _ = statements(lambda: reconcile.look(execution.pk))
    assert not any("GROUP BY b.idx, b.status" in each for each in asked)  # it has just moved
    pass_time(execution, 400)
    reconcile.look(execution.pk)
    reconcile.look(execution.pk)
    assert (told(execution), with_b) == (["execution_stuck"], "b")
    assert stuck_at(execution) is not None
    _is_shown(execution)
    drain(execution)
    assert execution.status == "completed"
    assert not Timer.objects.exists()


def drain_one(execution: Execution) -> str:
    """Leave a block ready that nobody takes."""
    drain(execution)
    Execution.objects.filter(pk=execution.pk).update(status="running", completed_at=None, open_sinks=1)
    BlockExecution.objects.filter(execution=execution, block_id="b").update(
        status="ready", completed_at=None, output=None, started_at=None
    )
    execution.refresh_from_db()
    Timer.objects.create(kind="check", key=f"check:{execution.pk}", execution=execution, due_at=Now())
    reconcile.look(execution.pk)
    return "b"


def _is_shown(execution: Execution) -> None:
    client = client_of(member(execution.workspace, Role.VIEWER))
    listed = client.get("/api/v1/executions?stuck=true").json()["executions"]
    assert [each["executionId"] for each in listed] == [str(execution.pk)]
    assert client.get("/api/v1/executions?stuck=false").json()["executions"] == []
    said = client.get(f"/api/v1/executions/{execution.pk}/health").json()
    assert (said["status"], said["reasons"][0]["code"]) == ("unhealthy", "stuck")
    log = client.get(f"/api/v1/executions/{execution.pk}/logs?level=warning").json()["logs"]
    assert log[-1]["message"] == "The execution is stuck: nothing moves. “b” should have gone on by now."
    finding = doctor._stuck()
    assert (finding.verdict, finding.message) == (
        "warning",
        "1 execution is stuck: nothing moves in time.",
    )
    operator = Client()
    operator.force_login(member(execution.workspace, Role.OPERATOR, is_staff=True))
    name = str(execution.pk)[:8]
    assert name in operator.get("/admin/executions/execution/?stuck=yes").content.decode()
    assert "execution is stuck" in operator.get("/admin/").content.decode()
    page = operator.get(f"/admin/executions/execution/{execution.pk}/change/").content.decode()
    assert "Nothing has moved for longer" in page
    assert "Stuck" in operator.get(f"/executions/{execution.pk}/").content.decode()
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    assert stranger.get(f"/api/v1/executions/{execution.pk}/health").status_code == 404
    assert stranger.get("/api/v1/executions?stuck=true").json()["executions"] == []


def test_who_waits_for_a_date_or_a_person_is_not_stuck_and_progress_clears_it(start: Start) -> None:
    execution = start(
        template(
            block("later", wait={"seconds": 86_400}),
            block("ask", humanInLoop={"type": "approval"}),
        )
    )
    drain(execution)
    reconcile.look(execution.pk)
    pass_time(execution, 3600)
    reconcile.look(execution.pk)
    assert (stuck_at(execution), told(execution)) == (None, [])
    Timer.objects.filter(execution=execution).update(stuck_at=Now())
    pass_time(execution, -3600)
    reconcile.look(execution.pk)
    assert (stuck_at(execution), told(execution)) == (None, ["execution_moves"])


def test_health_takes_as_many_queries_whatever_the_size(start: Start) -> None:
    counts = []
    for size in (2, 12):
        execution = start(template(*(block(f"b{n}", humanInLoop={"type": "approval"}) for n in range(size))))
        drain(execution)
        client = client_of(member(execution.workspace, Role.VIEWER))
        address = f"/api/v1/executions/{execution.pk}/health"
        client.get(address)
        with CaptureQueriesContext(connection) as queries:
            said = client.get(address).json()
        assert said["status"] == "healthy"
        counts.append(len(queries))
    assert counts[0] == counts[1]


# -- the health of an execution --------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "status", "codes"),
    [
        ({}, "healthy", []),
        ({"status": "pending"}, "unknown", []),
        ({"status": "failed", "error": "a: no"}, "unhealthy", ["failed"]),
        ({"status": "completed", "failed_blocks": 1}, "healthy", []),
        ({"failed_blocks": 1}, "degraded", ["block_failed"]),
        ({"stuck_since": NOON}, "unhealthy", ["stuck"]),
        ({"waits": [("a", Reason("running", "At work."))]}, "healthy", []),
        ({"waits": [("a", Reason("waiting_fix", "Waits."))]}, "degraded", ["waiting_fix"]),
        ({"waits": [("a", Reason("backoff", "Again."))]}, "degraded", ["backoff"]),
        ({"waits": [("a", Reason("waiting_approval", "Waits.", at(9), NOON))]}, "healthy", []),
        (
            {"waits": [("a", Reason("waiting_approval", "Waits.", at(-9), at(-99)))]},
            "degraded",
            ["question_overdue"],
        ),
        ({"took_ms": 500_000, "expected_ms": 100_000}, "degraded", ["slow"]),
        ({"took_ms": 5000, "expected_ms": 100}, "healthy", []),  # nobody would notice
        ({"status": "completed", "took_ms": 500_000, "expected_ms": 100_000}, "healthy", []),
    ],
)
def test_the_health_of_an_execution_from_its_facts(
    facts: dict[str, Any], status: str, codes: list[str]
) -> None:
    found = of_facts(ExecutionFacts(**{"status": "running", "now": NOON, **facts}))
    assert (found.status, [each.code for each in found.reasons]) == (status, codes)
    assert all(each.message and each.remedy for each in found.reasons)
