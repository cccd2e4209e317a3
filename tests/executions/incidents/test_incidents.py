"""Failures of one kind are one incident, which people look after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from executions.engine import run as engine_run
from executions.incidents import feed
from executions.incidents.models import FailureNote, Incident, IncidentBlock
from executions.models import Execution
from executions.services import reconcile, starting
from tests.factories.governance import client_of, member

from ..conftest import Start, answer, block, claim, drain, lose_worker, row, template

PATH = "/api/v1/incidents"
ONCE_ONLY = {"maxRetries": 0}


def absent(block_id: str = "a", **fields: Any) -> JSONObject:
    """A block that fails for even numbers, with a message that names the number."""
    fields.setdefault("retryPolicy", ONCE_ONLY)
    return block(block_id, agentId="test.absent", input={"n": "${input.n}"}, **fields)


def count_all() -> None:
    while feed.count():
        pass


@contextmanager
def told_to_postgres() -> Iterator[list[str]]:
    """The statements that the engine sends meanwhile."""
    seen: list[str] = []
    original = engine_run._Cursor.execute

    def execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(str(query))
        return original(self, query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_run._Cursor, "execute", execute)
        yield seen


def again(execution: Execution, by: User, n: int) -> Execution:
    """Another run of the same version."""
    other = starting.start(version=execution.template_version, by=by, input={"n": n})
    drain(other)
    return other


@pytest.fixture
def failed(run: Start) -> Execution:
    """A run whose block asks what to do."""
    execution = run(template(absent()), input={"n": 2})
    count_all()
    return execution


@pytest.fixture
def incident(failed: Execution) -> Incident:
    return Incident.objects.get()


@pytest.fixture
def api(author: User) -> APIClient:
    return client_of(author)


# -- counted -------------------------------------------------------------------


def test_failures_of_one_kind_are_one_incident(run: Start, failed: Execution, author: User) -> None:
    first = Incident.objects.get()
    assert (first.block_id, first.code, first.kind, first.count) == ("a", "absent", "transient", 1)
    assert first.message == "Order 2 of 10.0.0.2:80 is not there."
    for n in (4, 16):
        again(failed, author, n)
    again(failed, author, 5)  # completes
    run(template(absent()), input={"n": 2})  # of another template
    count_all()
    first.refresh_from_db()
    assert (first.count, IncidentBlock.objects.filter(incident=first).count()) == (3, 3)
    assert sorted(Incident.objects.values_list("count", flat=True)) == [1, 3]
    assert first.last_seen > first.first_seen
    assert not FailureNote.objects.exists()


def test_every_failed_attempt_counts_and_what_is_nobodys_fault_does_not(
    run: Start, start: Start, author: User
) -> None:
    tried = run(template(absent(retryPolicy={"maxRetries": 2, "initialDelay": 0})), input={"n": 2})
    drain(tried)
    assert row(tried, "a").attempt == 3
    answer(tried, "a", author, response={"action": "fail"})
    refused = run(template(block("r", humanInLoop={"type": "approval"})))
    answer(refused, "r", author, approved=False)
    unmapped = run(template(block("m", when="input.missing > 1")))
    assert row(unmapped, "m").attempt == 0
    lost = start(template(block("w", effect="pure")))
    claim(lost)
    lose_worker(lost, "w")
    reconcile.look(lost.pk)
    count_all()
    found = {each.block_id: (each.count, each.kind) for each in Incident.objects.all()}
    assert found == {"a": (3, "transient"), "m": (1, "configuration"), "w": (1, "transient")}


def test_simulated_failures_are_incidents_of_their_own(run: Start, failed: Execution, author: User) -> None:
    simulation = {"failures": {"a": [{"kind": "transient", "times": 1}]}}
    drain(starting.start(version=failed.template_version, by=author, input={"n": 2}, simulation=simulation))
    count_all()
    assert sorted(Incident.objects.values_list("simulated", "code")) == [
        (False, "absent"),
        (True, "simulated_transient"),
    ]


def test_a_failure_costs_its_settling_one_statement_and_a_success_none(
    start: Start, failed: Execution, author: User
) -> None:
    def statements(n: int) -> list[str]:
        execution = starting.start(version=failed.template_version, by=author, input={"n": n})
        with told_to_postgres() as seen:
            drain(execution)
        return seen

    assert sum("failurenote" in each for each in statements(5)) == 0
    assert sum("failurenote" in each for each in statements(4)) == 1


def test_ten_thousand_failures_are_one_incident_in_three_statements(failed: Execution) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO executions_blockexecution (execution_id, epoch, idx, iteration, round, block_id,"
            " status, todo, dead, failed, attempt, crashes, tries_from, effect, effect_seq, reason)"
            " SELECT %s, 1, 100 + n, 0, 0, 'a', 'failed', 0, 0, 0, 1, 0, 0, 'pure', 0, ''"
            " FROM generate_series(1, 10000) n RETURNING id",
            [failed.pk],
        )
        cursor.execute(
            "INSERT INTO executions_failurenote (block, fingerprint, failure, at)"
            ' SELECT id, %s, \'{"code": "absent", "kind": "transient", "message": "m"}\','
            " statement_timestamp() FROM executions_blockexecution WHERE idx >= 100",
            [Incident.objects.get().fingerprint],
        )
    with told_to_postgres() as seen:
        count_all()
    assert len(seen) == 3
    assert Incident.objects.get().count == 10_001
    assert IncidentBlock.objects.count() == 10_001
    api = client_of(User.objects.get(pk=failed.created_by_id or 0))
    with CaptureQueriesContext(connection) as asked:
        told = api.get(f"{PATH}/{Incident.objects.get().pk}").json()
    assert told["blastRadius"]["blocks"] == 10_001
    assert len(asked) <= 15


def test_each_failure_is_counted_once_however_many_clocks_count(failed: Execution) -> None:
    known = Incident.objects.get()
    note = FailureNote(block=row(failed, "a").pk, fingerprint=known.fingerprint, failure=known.sample)
    rows = [
        FailureNote(block=note.block, fingerprint=note.fingerprint, failure=note.failure) for _ in range(60)
    ]
    rows += [FailureNote(block=note.block, fingerprint=f"{n:032}", failure=note.failure) for n in range(40)]
    rows += [FailureNote(block=0, fingerprint="gone", failure=note.failure)]
    FailureNote.objects.bulk_create(rows, batch_size=10)

    def clock(_: int) -> None:
        feed.AT_ONCE, kept = 7, feed.AT_ONCE
        try:
            count_all()
        finally:
            feed.AT_ONCE = kept
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(clock, range(4)))
    count_all()
    known.refresh_from_db()
    assert known.count == 61
    assert Incident.objects.count() == 41
    assert IncidentBlock.objects.get(incident=known).failures == 61
    assert not FailureNote.objects.exists()


def test_what_was_resolved_fails_again_as_a_new_incident(
    failed: Execution, incident: Incident, api: APIClient, author: User
) -> None:
    assert api.post(f"{PATH}/{incident.pk}/resolve", {"comment": "shipped"}, format="json").status_code == 200
    again(failed, author, 4)
    count_all()
    assert sorted(Incident.objects.values_list("state", "count")) == [("open", 1), ("resolved", 1)]


# -- looked after --------------------------------------------------------------


def test_an_incident_tells_how_far_it_reaches(
    failed: Execution, incident: Incident, api: APIClient, author: User
) -> None:
    other = again(failed, author, 4)
    answer(other, "a", author, response={"action": "complete", "output": 1})
    again(failed, author, 6)
    count_all()
    told = api.get(f"{PATH}/{incident.pk}").json()
    assert told["count"] == 3
    assert told["sample"]["executionId"] == str(failed.pk)
    assert told["sample"]["failure"]["message"] == incident.message
    assert told["blastRadius"] == {
        "workflows": 1,
        "executions": 3,
        "openExecutions": 2,
        "failedExecutions": 0,
        "blocks": 3,
        "blocksWaiting": 2,
        "blocksGoingOn": 0,
        "blocksFailed": 0,
        "blocksHealed": 1,
        "peopleAsked": 1,
    }
    blocks = api.get(f"{PATH}/{incident.pk}/blocks?limit=2").json()
    assert (blocks["total"], len(blocks["blocks"])) == (3, 2)
    assert {each["status"] for each in blocks["blocks"]} == {"waiting_human", "completed"}


def test_people_look_after_an_incident(failed: Execution, incident: Incident, api: APIClient) -> None:
    workspace = incident.workspace
    operator = member(workspace, Role.OPERATOR, username="ops")
    until = timezone.now() + timedelta(hours=1)
    for command, body in (
        ("assign", {"to": "ops"}),
        ("comment", {"text": "The shop is away."}),
        ("link", {"url": "https://tickets.example/7"}),
        ("snooze", {"until": until.isoformat()}),
        ("wake", {}),
        ("resolve", {}),
    ):
        done = api.post(f"{PATH}/{incident.pk}/{command}", body, format="json")
        assert (done.status_code, done.json()) == (200, {"success": True}), command
    told = api.get(f"{PATH}/{incident.pk}").json()
    assert (told["assignee"], told["state"], told["link"]) == ("ops", "resolved", "https://tickets.example/7")
    assert told["snoozedUntil"] is None
    assert [note["kind"] for note in told["timeline"]] == [
        "assigned", "comment", "linked", "snoozed", "woken", "resolved",
    ]  # fmt: skip
    written = AuditEntry.objects.filter(target_type="incident", target_id=str(incident.pk))
    assert set(written.values_list("action", flat=True)) == {
        f"incident.{verb}" for verb in ("assign", "comment", "link", "snooze", "wake", "resolve")
    }
    closed = client_of(operator).post(f"{PATH}/{incident.pk}/assign", {"to": None}, format="json")
    assert (closed.status_code, closed.json()["code"]) == (409, "incident_resolved")


def test_a_snooze_ends_by_itself(incident: Incident, api: APIClient) -> None:
    until = timezone.now() + timedelta(hours=1)
    api.post(f"{PATH}/{incident.pk}/snooze", {"until": until.isoformat()}, format="json")
    feed.wake()
    incident.refresh_from_db()
    assert incident.state == "snoozed"
    Incident.objects.update(snoozed_until=Now() - timedelta(seconds=1))
    feed.wake()
    told = api.get(f"{PATH}/{incident.pk}").json()
    assert told["state"] == "open"
    assert (told["timeline"][-1]["kind"], told["timeline"][-1]["by"]) == ("woken", None)


def test_a_list_is_narrowed(failed: Execution, incident: Incident, api: APIClient, run: Start) -> None:
    other = run(template(absent("b")), input={"n": 4})
    count_all()
    for query, expected in (
        ("", {"a", "b"}),
        ("state=open", {"a", "b"}),
        ("state=snoozed,resolved", set()),
        (f"templateId={incident.template_id}", {"a"}),
        (f"executionId={other.pk}", {"b"}),
        ("blockId=a", {"a"}),
        ("code=absent&assignee=-", {"a", "b"}),
        ("assignee=nobody", set()),
        ("simulated=true", set()),
        ("search=of+10.0.0.4", {"b"}),
        (f"workspaceId={uuid4()}", set()),
    ):
        told = api.get(f"{PATH}?{query}").json()
        assert {each["blockId"] for each in told["incidents"]} == expected, query
        assert told["total"] == len(expected)
    for query in ("state=closed", "simulated=maybe", "templateId=7", "limit=0"):
        assert api.get(f"{PATH}?{query}").status_code == 400, query


def test_the_command_line_lists_them(incident: Incident, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("incidents", "--search", "absent", "--workspace", incident.workspace.slug)
    assert f"a: absent: {incident.message}" in capsys.readouterr().out
    call_command("incidents", "--json")
    assert json.loads(capsys.readouterr().out)[0]["incidentId"] == str(incident.pk)
    call_command("incidents", "--state", "resolved")
    assert capsys.readouterr().out == "There are none.\n"


def test_what_does_not_fit_is_refused(incident: Incident, api: APIClient) -> None:
    viewer = client_of(member(incident.workspace, Role.VIEWER, username="eve"))
    stranger = client_of(member(type(incident.workspace).objects.create(slug="x", name="x")))
    for command, body, status, code in (
        ("assign", {"to": "eve"}, 422, "no_assignee"),
        ("assign", {}, 400, "invalid_input"),
        ("comment", {"text": ""}, 400, "invalid_input"),
        ("snooze", {"until": "2001-01-01T00:00:00Z"}, 400, "invalid_input"),
        ("link", {"url": "javascript:alert(1)"}, 400, "invalid_input"),
        ("wake", {}, 409, "not_snoozed"),
    ):
        refused = api.post(f"{PATH}/{incident.pk}/{command}", body, format="json")
        assert (refused.status_code, refused.json()["code"]) == (status, code), (command, refused.content)
    good = {"text": "hello"}
    assert viewer.get(f"{PATH}/{incident.pk}").status_code == 200
    assert viewer.post(f"{PATH}/{incident.pk}/comment", good, format="json").status_code == 403
    assert stranger.get(f"{PATH}/{incident.pk}").status_code == 404
    assert stranger.post(f"{PATH}/{incident.pk}/comment", good, format="json").status_code == 404
    assert stranger.get(PATH).json() == {"incidents": [], "total": 0}
