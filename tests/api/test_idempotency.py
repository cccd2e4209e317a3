from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from agentflow.api import idempotency
from agentflow.api.models import IdempotencyRecord
from agentflow.governance.models import User, Workspace
from tests.api.urls import Make
from tests.factories.governance import UserFactory, client_of
from tests.waiting import PATIENCE_S

# Real commits: what is tried here is what outlives a transaction.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.api.urls")]


@pytest.fixture
def user() -> Iterator[User]:
    Make.hooks.clear()
    Make.entered.clear()
    Make.go_on.clear()
    yield UserFactory.create()
    Make.go_on.set()


def make(user: User, key: str | None, slug: str, then: str = "", path: str = "/api/make") -> Any:
    client: Any = client_of(user)
    client.raise_request_exception = False
    headers = {} if key is None else {"HTTP_IDEMPOTENCY_KEY": key}
    return client.post(path, {"slug": slug, "then": then}, **headers)


def test_a_repeat_gets_the_same_answer_and_takes_no_effect(user: User) -> None:
    key = str(uuid.uuid4())
    first, second = make(user, key, "one"), make(user, key, "one")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first["Content-Type"] == second["Content-Type"]
    assert first["Location"] == second["Location"]
    assert "Idempotent-Replay" not in first
    assert second["Idempotent-Replay"] == "true"
    assert Workspace.objects.count() == 1
    assert Make.hooks == ["one"]


def test_without_a_key_nothing_is_remembered(user: User) -> None:
    assert make(user, None, "one").status_code == 201
    assert IdempotencyRecord.objects.count() == 0


@pytest.mark.parametrize("change", ["body", "address"])
def test_a_key_used_for_another_request_is_refused(user: User, change: str) -> None:
    assert make(user, "k", "one", path="/api/make/1").status_code == 201
    path = "/api/make/2" if change == "address" else "/api/make/1"
    answer = make(user, "k", "two" if change == "body" else "one", path=path)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")
    assert Workspace.objects.count() == 1


def test_keys_of_two_people_and_of_two_routes_do_not_meet(user: User) -> None:
    assert make(user, "k", "one").status_code == 201
    assert make(UserFactory.create(), "k", "two").status_code == 201
    assert make(user, "k", "three", path="/api/make/1").status_code == 201
    assert Workspace.objects.count() == 3


def test_the_order_of_fields_does_not_matter(user: User) -> None:
    client = client_of(user)
    for body in ('{"slug": "one", "then": ""}', '{"then":"","slug":"one"}'):
        answer = client.generic(
            "POST", "/api/make", body, content_type="application/json", HTTP_IDEMPOTENCY_KEY="k"
        )
        assert answer.status_code == 201
    assert Workspace.objects.count() == 1


@pytest.mark.parametrize(
    ("then", "status", "kept"),
    [("refuse", 400, True), ("conflict", 409, False), ("answer409", 409, False), ("break", 500, False)],
)
def test_a_failure_undoes_its_effect_and_is_kept_only_if_it_would_fail_again(
    user: User, then: str, status: int, kept: bool
) -> None:
    assert make(user, "k", "one", then).status_code == status
    assert Workspace.objects.count() == 0
    assert Make.hooks == []
    assert IdempotencyRecord.objects.count() == int(kept)
    again = make(user, "k", "one", then)
    assert again.status_code == status
    assert again.headers.get("Idempotent-Replay") == ("true" if kept else None)


def test_a_second_request_meanwhile_is_told_to_wait_and_then_gets_the_answer(user: User) -> None:
    answers: list[Any] = []

    def first() -> None:
        answers.append(make(user, "k", "one", "hold"))
        connection.close()

    thread = threading.Thread(target=first)
    thread.start()
    assert Make.entered.wait(PATIENCE_S)
    early = make(user, "k", "one", "hold")
    assert (early.status_code, early.json()["code"]) == (409, "idempotency_in_progress")
    assert early["Retry-After"] == "1"
    Make.go_on.set()
    thread.join(PATIENCE_S)
    late = make(user, "k", "one", "hold")
    assert late.status_code == answers[0].status_code == 201
    assert late.content == answers[0].content
    assert Workspace.objects.count() == 1


def test_who_finds_the_key_taken_only_in_the_end_undoes_everything_and_is_told_to_wait(user: User) -> None:
    """Another commits between the look for its answer and the lock: an answer that nobody saw is there."""
    make(user, "seen", "one")
    answers: list[Any] = []

    def late() -> None:
        answers.append(make(user, "k", "two", "hold"))
        connection.close()

    thread = threading.Thread(target=late)
    thread.start()
    assert Make.entered.wait(PATIENCE_S)
    IdempotencyRecord.objects.update(key="k")
    Make.go_on.set()
    thread.join(PATIENCE_S)
    assert (answers[0].status_code, answers[0].json()["code"]) == (409, "idempotency_in_progress")
    assert Workspace.objects.count() == 1
    assert Make.hooks == ["one"]
    assert make(user, "k", "one")["Idempotent-Replay"] == "true"


def test_of_many_at_once_one_takes_effect(user: User) -> None:
    barrier, statuses = threading.Barrier(6), []

    def send() -> None:
        barrier.wait(PATIENCE_S)
        statuses.append(make(user, "k", "one").status_code)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(statuses) == 6
    assert set(statuses) <= {201, 409}
    assert Workspace.objects.count() == 1


def test_a_connection_lost_before_the_commit_leaves_neither_effect_nor_answer(user: User) -> None:
    def doomed() -> None:
        make(user, "k", "one", "hold")
        connection.close()

    thread = threading.Thread(target=doomed)
    thread.start()
    assert Make.entered.wait(PATIENCE_S)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE state = 'idle in transaction' AND datname = current_database()"
        )
    Make.go_on.set()
    thread.join(PATIENCE_S)
    assert Workspace.objects.count() == IdempotencyRecord.objects.count() == 0
    assert make(user, "k", "one", "hold").status_code == 201


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_refused(user: User, key: str) -> None:
    answer = make(user, key, "one")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


def test_after_a_day_the_key_is_free_again_and_the_record_is_cleared_away(user: User) -> None:
    make(user, "k", "one")
    IdempotencyRecord.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert make(user, "k", "two").status_code == 201
    assert idempotency.purge() == 0
    IdempotencyRecord.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert idempotency.purge() == 1
