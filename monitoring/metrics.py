"""What Prometheus scrapes at /metrics: this process, and the work in the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

from django.db import DatabaseError
from django.db.models import Count
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from executions.models import BlockExecution, Execution
from executions.states import BlockStatus, ExecutionStatus

FRESH_S = 5.0  # scrapes are public: at most one count of the tables in this time, per process
_OPEN = [
    ExecutionStatus.PENDING,
    ExecutionStatus.RUNNING,
    ExecutionStatus.PAUSED,
    ExecutionStatus.CANCELLING,
]
_UNSETTLED = [
    BlockStatus.READY,
    BlockStatus.RUNNING,
    BlockStatus.WAITING_HUMAN,
    BlockStatus.WAITING_EXTERNAL,
]


class WorkCollector(Collector):
    """Counts of executions and of blocks in work, read from the rows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted_at = float("-inf")
        self._families: list[GaugeMetricFamily] = []

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []  # so that registering does not query the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            if time.monotonic() - self._counted_at > FRESH_S:
                self._families = self._count()
                self._counted_at = time.monotonic()
            families = self._families
        yield from families

    def _count(self) -> list[GaugeMetricFamily]:
        up = GaugeMetricFamily("agentflow_database_up", "1 when the database answers.")
        try:
            families = [_executions(), _blocks(), _overdue()]
        except DatabaseError:
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *families]


def _executions() -> GaugeMetricFamily:
    family = GaugeMetricFamily("agentflow_executions", "Executions by status.", labels=["status"])
    counts = dict(Execution.objects.values_list("status").annotate(Count("pk")).order_by())
    for status in ExecutionStatus:
        family.add_metric([status.value], counts.get(status.value, 0))
    return family


def _blocks() -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "agentflow_blocks", "Blocks of open executions that are ready, running or waiting.", labels=["status"]
    )
    counts = dict(
        BlockExecution.objects.filter(execution__status__in=_OPEN, status__in=_UNSETTLED)
        .values_list("status")
        .annotate(Count("pk"))
        .order_by()
    )
    for status in _UNSETTLED:
        family.add_metric([status.value], counts.get(status.value, 0))
    return family


def _overdue() -> GaugeMetricFamily:
    """Blocks whose worker went silent and which the clock has not moved on yet."""
    family = GaugeMetricFamily("agentflow_blocks_lease_expired", "Running blocks past their lease.")
    overdue = BlockExecution.objects.filter(
        execution__status__in=_OPEN, status=BlockStatus.RUNNING, lease_expires_at__lt=Now()
    ).count()
    family.add_metric([], overdue)
    return family


registry = CollectorRegistry()
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)
GCCollector(registry=registry)
registry.register(WorkCollector())


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
