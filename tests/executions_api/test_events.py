"""POST events."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.conf import LIMITS
from agentflow.events.models import ReceivedEvent
from agentflow.governance.models import AuditEntry
from tests.factories.governance import client_of

from .conftest import Team

URL = "/api/v1/events"


def tell(by: Any, **body: Any) -> Any:
    return client_of(by).post(URL, body, format="json")


def test_an_event_is_stored_once_per_id_and_is_on_the_record(team: Team) -> None:
    body = {"type": "paid", "correlation": "A-1", "payload": {"sum": 1}, "eventId": "e-1"}
    first = tell(team.operator, **body)
    assert first.status_code == 201
    assert first.json()["repeated"] is False
    again = tell(team.operator, **body)
    assert again.status_code == 200
    assert again.json() == {**first.json(), "repeated": True}
    event = ReceivedEvent.objects.get()
    assert (event.workspace_id, event.type, event.correlation) == (team.workspace.pk, "paid", "A-1")
    entry = AuditEntry.objects.get(action="event.receive")
    assert (entry.target_id, entry.actor_name) == ("e-1", team.operator.username)


@pytest.mark.parametrize("change", [{"type": "x"}, {"correlation": "x"}, {"payload": None}])
def test_an_id_is_not_given_twice(team: Team, change: dict[str, Any]) -> None:
    body = {"type": "paid", "correlation": "A-1", "payload": 1, "eventId": "e-1"}
    tell(team.operator, **body)
    refused = tell(team.operator, **{**body, **change})
    assert (refused.status_code, refused.json()["code"]) == (409, "event_id_taken")


def test_the_same_id_in_another_workspace_is_another_event(team: Team) -> None:
    assert tell(team.operator, type="paid", eventId="e-1").status_code == 201
    assert tell(team.stranger, type="paid", eventId="e-1").status_code == 201


def test_an_event_needs_no_more_than_a_type(team: Team) -> None:
    reply = tell(team.operator, type="paid")
    assert reply.status_code == 201
    assert reply.json()["eventId"]


@pytest.mark.parametrize("role", ["viewer", "author", "approver"])
def test_others_than_operators_may_not_tell_events(team: Team, role: str) -> None:
    assert tell(getattr(team, role), type="paid").status_code == 403


def test_another_workspace_is_not_there(team: Team) -> None:
    reply = tell(team.stranger, type="paid", workspaceId=str(team.workspace.pk))
    assert reply.status_code == 404
    assert not ReceivedEvent.objects.exists()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/type"),
        ({"type": ""}, "/type"),
        ({"type": "x" * 201}, "/type"),
        ({"type": 1}, "/type"),
        ({"type": "x", "correlation": 1}, "/correlation"),
        ({"type": "x", "correlation": "x" * 201}, "/correlation"),
        ({"type": "x", "eventId": "x" * 201}, "/eventId"),
        ({"type": "x", "payload": "x" * LIMITS.output_bytes}, "/payload"),
        ({"type": "x", "more": 1}, "/more"),
    ],
)
def test_bad_events_are_refused_by_name(team: Team, body: dict[str, Any], pointer: str) -> None:
    reply = tell(team.operator, **body)
    assert reply.status_code == 400
    assert [issue["pointer"] for issue in reply.json()["issues"]] == [pointer]
