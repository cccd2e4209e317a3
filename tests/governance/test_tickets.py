from __future__ import annotations

import threading

import pytest

from agentflow.api import tickets
from tests.factories.governance import UserFactory, client_of
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.django_db


def test_a_ticket_opens_one_door_once() -> None:
    user = UserFactory.create()
    body = client_of(user).post("/api/v1/auth/ws-ticket", {}).json()
    assert body["expiresInSeconds"] == 30
    assert tickets.redeem(body["ticket"]) == user
    assert tickets.redeem(body["ticket"]) is None


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_gets_in() -> None:
    ticket = tickets.issue(UserFactory.create())
    barrier, winners = threading.Barrier(8), []

    def enter() -> None:
        from django.db import connection

        barrier.wait(PATIENCE_S)
        winners.append(tickets.redeem(ticket))
        connection.close()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len([winner for winner in winners if winner]) == 1


def test_a_ticket_dies_with_the_password_and_with_the_account() -> None:
    user = UserFactory.create()
    ticket = tickets.issue(user)
    user.set_password("another long password")
    user.save()
    assert tickets.redeem(ticket) is None
    ticket = tickets.issue(user)
    user.is_active = False
    user.save()
    assert tickets.redeem(ticket) is None


@pytest.mark.parametrize("ticket", ["", "x", "\ud800", "a" * 100_000, "é"])
def test_a_made_up_ticket_opens_nothing(ticket: str) -> None:
    assert tickets.redeem(ticket) is None
