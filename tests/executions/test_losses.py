"""An emptied broker is noticed by what it no longer has, and what has work is looked at at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from django.conf import settings
from django.db.models.functions import Now

from executions.models import Timer
from executions.services import losses, ticking
from executions.services.losses import QUIET_S, Keepsake

from .conftest import Start, block, template

KEY = f"{settings.REDIS_PREFIX}agentflow:kept"


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.BROKER_URL) as client:
        client.delete(KEY)
        yield client


def test_a_key_that_is_gone_tells_one_clock_of_the_loss(broker: redis.Redis) -> None:
    first, second = Keepsake(lambda: broker), Keepsake(lambda: broker)
    assert [first.lost(), second.lost(), first.lost()] == [True, False, False]
    broker.delete(KEY)
    assert [second.lost(), first.lost(), second.lost()] == [True, False, False]


def test_a_broker_that_was_away_is_asked_again_after_a_while_and_may_have_lost_something(
    broker: redis.Redis,
) -> None:
    now, asked = [0.0], []
    away = redis.Redis(port=1, socket_connect_timeout=1)

    def client() -> redis.Redis:
        asked.append(now[0])
        return away if now[0] < 3 * QUIET_S else broker

    keepsake = Keepsake(client, clock=lambda: now[0])
    broker.set(KEY, 1)
    for now[0] in (0.0, QUIET_S / 2, QUIET_S):
        assert not keepsake.lost()
    assert asked == [0.0, QUIET_S]
    now[0] = 3 * QUIET_S
    assert [keepsake.lost(), keepsake.lost()] == [True, False]


def test_after_a_loss_what_has_work_is_due_at_once_and_what_waits_is_not(
    start: Start, broker: redis.Redis
) -> None:
    ready = start(template(block("a")))
    waits = start(template(block("a", wait={"seconds": 3000})))
    Timer.objects.filter(execution=waits).update(due_at=Now() + timedelta(seconds=600))
    assert losses.make_good() == 1
    assert list(Timer.objects.filter(due_at__lte=Now()).values_list("execution", flat=True)) == [ready.pk]
    assert losses.make_good() == 0
    ticking.tick()
    assert not Timer.objects.filter(due_at__lte=Now()).exists()


def test_a_worker_that_begins_has_the_runs_looked_at_whose_hints_were_in_vain(start: Start) -> None:
    hinted, fresh, waits = (start(template(block("a"))) for _ in range(3))
    later = Now() + timedelta(seconds=40)
    Timer.objects.filter(execution=hinted).update(due_at=later, tries=3)
    Timer.objects.filter(execution=fresh).update(due_at=later, tries=0)
    Timer.objects.filter(execution=waits).update(due_at=Now() + timedelta(seconds=600), tries=1)
    assert losses.worker_began() == 1
    (due,) = Timer.objects.filter(due_at__lte=Now())
    assert (due.execution_id, due.tries) == (hinted.pk, 0)
