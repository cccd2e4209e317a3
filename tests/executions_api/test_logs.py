"""GET executions/{id}/logs: events as sentences, filtered, paged and followed by cursor."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction

from agentflow.events import store
from agentflow.events.models import Level
from executions import narration
from executions.models import Execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of

from .conftest import URL, Team, make_team

# Events can be read once their transaction has ended, so these tests commit.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def team() -> Team:
    return make_team()


@pytest.fixture
def execution(team: Team) -> Execution:
    return ExecutionFactory.create(workspace=team.workspace)


def tell(
    execution: Execution, type: str, block_id: str | None = None, level: int = Level.INFO, **payload: Any
) -> None:
    with transaction.atomic():
        store.append(
            type=type,
            workspace_id=execution.workspace_id,
            execution_id=execution.pk,
            block_id=block_id,
            level=level,
            payload=payload,
        )


def logs(team: Team, execution: Execution, **params: Any) -> Any:
    response = client_of(team.viewer).get(f"{URL}/{execution.pk}/logs", params)
    assert response.status_code == 200, response.content
    return response.json()


@pytest.fixture
def story(execution: Execution) -> Execution:
    tell(execution, "execution_changed", status="running")
    tell(execution, "block_changed", "a", status="running", attempt=1)
    tell(execution, "block_log", "a", Level.DEBUG, message="asking the bank")
    error = {"kind": "transient", "code": "http_503", "message": "The bank is busy."}
    again = {"status": "ready", "attempt": 1, "reason": "retry", "delaySeconds": 2.0, "error": error}
    tell(execution, "block_changed", "a", Level.WARNING, **again)
    tell(execution, "block_changed", "b", Level.ERROR, status="failed", attempt=3, reason="http_400")
    return execution


def test_events_are_told_as_sentences_in_order(team: Team, story: Execution) -> None:
    found = logs(team, story)
    assert found["total"] == 5
    assert [(entry["level"], entry["blockId"], entry["message"]) for entry in found["logs"]] == [
        ("info", None, "The execution runs."),
        ("info", "a", "Step “a” started."),
        ("debug", "a", "asking the bank"),
        ("warning", "a", "Attempt 1 of step “a” failed: The bank is busy. It is tried again in 2 s."),
        ("error", "b", "Step “b” failed (attempt 3): http 400."),
    ]
    entry = found["logs"][1]
    assert entry["type"] == "block_changed"
    assert entry["payload"] == {"status": "running", "attempt": 1}
    assert entry["timestamp"].endswith("Z")


def test_filters_narrow_and_count(team: Team, story: Execution) -> None:
    assert logs(team, story, blockId="a")["total"] == 3
    assert [entry["level"] for entry in logs(team, story, level="warning")["logs"]] == ["warning", "error"]
    assert logs(team, story, blockId="b", level="info")["total"] == 1
    assert logs(team, story, blockId="no such")["logs"] == []
    page = logs(team, story, limit=2, offset=3)
    assert [entry["level"] for entry in page["logs"]] == ["warning", "error"]
    assert page["total"] == 5


def test_following_the_cursor_misses_nothing(team: Team, story: Execution) -> None:
    seen = logs(team, story, limit=2)["logs"]
    rest = logs(team, story, after=seen[-1]["cursor"])["logs"]
    assert len(seen) + len(rest) == 5
    tell(story, "execution_changed", status="failed")
    fresh = logs(team, story, after=rest[-1]["cursor"])
    assert [entry["message"] for entry in fresh["logs"]] == ["The execution failed."]


def test_what_an_open_transaction_may_still_precede_is_held_back(team: Team, story: Execution) -> None:
    other = connection.copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
        tell(story, "execution_changed", status="failed")
        assert logs(team, story)["total"] == 5
        other.commit()
        assert logs(team, story)["total"] == 6
    finally:
        other.close()


def test_events_of_others_are_not_shown(team: Team, story: Execution) -> None:
    another = ExecutionFactory.create(workspace=team.workspace)
    assert logs(team, another) == {"logs": [], "total": 0}


@pytest.mark.parametrize(
    "params",
    [{"level": "loud"}, {"after": "x"}, {"after": "1-2-3"}, {"after": "9" * 39 + "-1"}, {"limit": "9999"}],
)
def test_a_wrong_parameter_is_refused(team: Team, execution: Execution, params: dict[str, str]) -> None:
    response = client_of(team.viewer).get(f"{URL}/{execution.pk}/logs", params)
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"


PAYLOADS: list[Any] = [None, {}, {"status": None}, {"status": []}, {"error": "x"}, {"level": 7}]
TYPES = [
    "execution_changed",
    "block_changed",
    "block_log",
    "block_late",
    "callback_received",
    "approval_requested",
    "approval_responded",
    "approval_timeout",
    "approval_cancelled",
    "something_new",
]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("type", TYPES)
def test_any_event_gets_a_sentence(type: str, payload: Any) -> None:
    assert isinstance(narration.sentence(type, "a", payload), str)
    assert isinstance(narration.sentence(type, None, payload), str)
