"""A worker that lost its consumer hears again, or makes room for one that does."""

from __future__ import annotations

import time

import pytest
from celery import current_app
from django.conf import settings
from redis import Redis

from config.settings.base import redis_url
from executions.models import Process, ProcessKind
from executions.processes import EXIT_DEAF
from executions.tasks import probe
from tests.service import Service

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

WITHIN_S = 90.0
CUTS = 10


def answers(queue: str, timeout_s: float = WITHIN_S) -> float:
    """The seconds until somebody serves the queue."""
    began = time.monotonic()
    asked = probe.apply_async(args=(queue,), queue=queue)
    assert asked.get(timeout=timeout_s) == queue
    return time.monotonic() - began


def workers() -> list[Process]:
    return list(Process.objects.filter(kind=ProcessKind.WORKER))


def test_consumption_resumes_whenever_the_broker_cuts_its_connections(service: Service) -> None:
    broker = Redis.from_url(redis_url(settings.REDIS_DATABASES["broker"]))
    slowest = 0.0
    for _ in range(CUTS):
        for client in broker.client_list():
            if client["cmd"] in ("brpop", "subscribe", "psubscribe"):
                broker.client_kill_filter(_id=client["id"])
        slowest = max(slowest, answers("blocks"), answers("control"))
    print(f"slowest answer after a cut: {slowest:.2f} s")
    assert slowest < WITHIN_S
    assert service.workers, "the worker itself survives"


def test_a_worker_that_no_longer_consumes_ends_itself(service: Service) -> None:
    (process,) = service.until(workers)
    (name,) = service.workers
    for queue in [*process.queues, f"canary.{process.pk}"]:
        current_app.control.cancel_consumer(queue, destination=[process.name])
    child = service.children[name]
    service.until(lambda: not child.alive(), WITHIN_S + 15, why="the deaf worker to end")
    assert child.process.returncode == EXIT_DEAF
    assert child.said("worker_deaf")
    service.start_worker()
    assert answers("blocks", 20) < 20
