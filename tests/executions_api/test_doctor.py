"""The doctor finds what is wrong, says it in words, and tells probes by its exit code."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Now, TruncDate
from django.test import Client

from agentflow.governance.roles import Role
from executions import doctor, tallies
from executions.doctor import Finding, Verdict
from executions.models import BlockExecution, DayTally, Process, ProcessKind, Timer
from executions.services import ticking
from executions.tallies import Tallies, Tally
from executions.tasks import run_branch
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import WorkspaceFactory, member

pytestmark = pytest.mark.django_db
WAIT_S = 0.2


def examine() -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(probe_s=WAIT_S)}


def process(kind: ProcessKind, *, age_s: float = 0, heard_s: float | None = 0, name: str = "") -> Process:
    return Process.objects.create(
        id=uuid4(),
        kind=kind,
        name=name or f"{kind}-1",
        host="here",
        pid=1,
        queues=["blocks", "control"] if kind is ProcessKind.WORKER else [],
        started_at=Now() - timedelta(hours=1),
        seen_at=Now() - timedelta(seconds=age_s),
        heard_at=None if heard_s is None else Now() - timedelta(seconds=heard_s),
    )


def test_an_installation_without_processes_has_problems_with_remedies() -> None:
    found = examine()
    for check in ("clock", "workers", "queue blocks", "queue control"):
        assert found[check].verdict is Verdict.PROBLEM, check
        assert found[check].remedy, check
    for check in ("database", "migrations", "ready blocks", "leases", "timers"):
        assert found[check].verdict is Verdict.OK, found[check]


def test_live_processes_are_fine() -> None:
    process(ProcessKind.WORKER)
    process(ProcessKind.CLOCK)
    found = examine()
    assert found["workers"].message == "1 alive"
    assert found["clock"].verdict is Verdict.OK
    # Nobody serves the queues in this test, so the rows are believed and the threads taken for busy.
    assert found["queue blocks"].verdict is Verdict.WARNING


def test_a_clock_that_stopped_ticking() -> None:
    process(ProcessKind.CLOCK, age_s=240)
    assert examine()["clock"].message == "The clock last ticked 4 min ago."


def test_a_worker_that_vanished_and_one_that_hears_nothing() -> None:
    process(ProcessKind.WORKER, heard_s=300, name="quiet")
    assert "quiet" in examine()["workers"].message
    process(ProcessKind.WORKER, age_s=120, name="killed")
    assert "vanished without a word: killed" in examine()["workers"].message


def test_ready_blocks_that_nobody_takes() -> None:
    execution = ExecutionFactory.create(ready=["a"])
    type(execution).objects.filter(pk=execution.pk).update(
        status="running", created_at=Now() - timedelta(minutes=5)
    )
    found = examine()["ready blocks"]
    assert found.verdict is Verdict.WARNING
    assert found.message == "1 runs have blocks that no worker takes, one for 5 min."
    type(execution).objects.update(created_at=Now() - timedelta(hours=3))
    assert examine()["ready blocks"].verdict is Verdict.PROBLEM


def test_blocks_of_a_dead_worker_that_are_not_rescued() -> None:
    execution = ExecutionFactory.create(running=["a"])
    type(execution).objects.filter(pk=execution.pk).update(status="running")
    BlockExecution.objects.filter(execution=execution, block_id="a").update(
        status="running", lease_owner=uuid4(), lease_expires_at=Now() - timedelta(minutes=2)
    )
    assert examine()["leases"].verdict is Verdict.PROBLEM


def test_timers_that_do_not_fire() -> None:
    execution = ExecutionFactory.create()
    Timer.objects.update_or_create(
        key=f"check:{execution.pk}",
        defaults={"kind": "check", "execution": execution, "due_at": Now() - timedelta(minutes=10)},
    )
    assert examine()["timers"].message == "1 timers are overdue, one for 10 min."


def test_missing_migrations_end_the_examination_of_tables() -> None:
    MigrationRecorder.Migration.objects.filter(app="executions").order_by("-pk")[0].delete()
    found = examine()
    assert found["migrations"].verdict is Verdict.PROBLEM
    assert "workers" not in found


def test_a_probe_gets_json_and_an_exit_code() -> None:
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("doctor", "--json", "--wait", str(WAIT_S), stdout=out)
    assert ended.value.code == 1
    body = json.loads(out.getvalue())
    assert body["healthy"] is False
    assert {"check", "verdict", "message", "remedy", "figures"} == set(body["findings"][0])


def test_people_get_lines_with_remedies() -> None:
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", "--wait", str(WAIT_S), stdout=out)
    assert "PROBLEM  clock           No clock has ticked." in out.getvalue()
    assert "Start `manage.py clock`" in out.getvalue()


@pytest.mark.parametrize(("role", "code"), [(Role.OPERATOR, 200), (Role.VIEWER, 403), (Role.AUTHOR, 403)])
def test_operators_see_the_findings_in_the_admin(role: Role, code: int) -> None:
    process(ProcessKind.WORKER, name="worker-1@here")
    client = Client()
    client.force_login(member(WorkspaceFactory.create(), role, is_staff=True))
    reply = client.get("/admin/executions/process/")
    assert reply.status_code == code
    page = reply.content.decode()
    assert ("No clock has ticked." in page and "worker-1@here" in page) is (code == 200)
    assert ("/admin/executions/process/" in client.get("/admin/").content.decode()) is (code == 200)


def test_a_block_that_waits_for_a_person_whom_nobody_asks() -> None:
    execution = ExecutionFactory.create(ready=["a"])
    assert examine()["questions"].verdict is Verdict.OK
    BlockExecution.objects.filter(execution=execution, block_id="a").update(status="waiting_human")
    found = examine()["questions"]
    assert (found.verdict, found.figures) == (Verdict.PROBLEM, {"unasked": 1})


def test_an_open_question_is_no_alarm() -> None:
    approval = ApprovalFactory.create()
    assert approval.block_execution.status == "waiting_human"
    assert examine()["questions"].verdict is Verdict.OK


def test_what_was_repaired_is_added_up_over_processes_and_days() -> None:
    for walks, idle in ((1000, 40), (200, 10)):
        process = Tallies()
        for tally, count in (
            (Tally.WALKS, walks),
            (Tally.IDLE_WALKS, idle),
            (Tally.FORKS, 5),
            (Tally.JOINS, 4),
        ):
            process.add(tally, count)
        process.add(Tally.REHINTS, 3)
        process.write()
        process.write()
    DayTally.objects.create(name="rehints", day=TruncDate(Now() - timedelta(days=40)), count=7)
    found = examine()["repairs"]
    assert found.verdict is Verdict.OK
    assert found.figures == {
        "deliveries": 1200,
        "duplicatesSuppressed": 50,
        "dispatchesRepaired": 6,
        "chordBodiesLost": 2,
        "forks": 10,
    }
    assert tallies.purge() == 1
    DayTally.objects.filter(name="rehints").update(count=500)
    assert examine()["repairs"].verdict is Verdict.WARNING


def test_counts_that_cannot_be_written_are_kept() -> None:
    process = Tallies()
    process.add(Tally.WALKS)
    with pytest.raises(DatabaseError):
        _write_in_vain(process)
    process.write()
    assert tallies.recent()[Tally.WALKS] == 1


@transaction.atomic
def _write_in_vain(process: Tallies) -> None:
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")
    process.write()


def test_the_clock_counts_the_hints_that_it_sends_again() -> None:
    tallies.tallies.write()
    DayTally.objects.all().delete()
    execution = ExecutionFactory.create(ready=["a"], status="running")
    Timer.objects.update_or_create(
        key=f"check:{execution.pk}", defaults={"kind": "check", "execution": execution, "due_at": Now()}
    )
    ticking.tick()
    tallies.tallies.write()
    found = tallies.recent()
    assert (found[Tally.CHECKS], found[Tally.REHINTS]) == (1, 1)


def test_a_delivery_that_finds_nothing_is_told_from_one_that_works() -> None:
    tallies.tallies.write()
    DayTally.objects.all().delete()
    execution = ExecutionFactory.create(ready=["a"], status="running")
    for _ in range(3):
        run_branch(str(execution.pk), "blocks")
    tallies.tallies.write()
    found = tallies.recent()
    assert (found[Tally.WALKS], found[Tally.IDLE_WALKS]) == (3, 2)
