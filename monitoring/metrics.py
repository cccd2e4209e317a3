"""What Prometheus scrapes at /metrics: this process, and the work in the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

from django.db import DatabaseError, connection, transaction
from django.db.models import Count, F, Max, Min, Q
from django.db.models.functions import Greatest, Now
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from approvals.models import Approval
from approvals.notify.models import Delivery
from approvals.notify.states import OPEN, DeliveryState
from approvals.states import ApprovalStatus
from executions.models import BlockExecution, Execution
from executions.states import BlockStatus, ExecutionStatus

FRESH_S = 5.0  # scrapes are public: at most one count of the tables in this time, per process
COUNT_TIMEOUT_MS = 2000  # a count that takes longer is given up; the rest of the page is still told
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
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {COUNT_TIMEOUT_MS}")
                families = [
                    _executions(),
                    _blocks(),
                    _oldest_ready(),
                    _overdue(),
                    _approvals(),
                    _deliveries(),
                ]
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


def _oldest_ready() -> GaugeMetricFamily:
    """Grows while hints get lost or workers are too few; a ready row itself keeps no time."""
    family = GaugeMetricFamily(
        "agentflow_oldest_ready_seconds",
        "Of the runs that have ready blocks, the longest time since one last started, settled or came due.",
    )
    due = Q(blocks__status=BlockStatus.READY) & (
        Q(blocks__available_at=None) | Q(blocks__available_at__lte=Now())
    )
    found = (
        Execution.objects.filter(
            status__in=[ExecutionStatus.PENDING, ExecutionStatus.RUNNING], blocks__epoch=F("epoch")
        )
        .annotate(
            ready=Count("blocks", filter=due),
            moved_at=Greatest(
                "created_at",
                Max("blocks__started_at"),
                Max("blocks__completed_at"),
                Max("blocks__available_at", filter=due),
            ),
        )
        .filter(ready__gt=0)
        .aggregate(waits=Now() - Min("moved_at"))
    )
    family.add_metric([], found["waits"].total_seconds() if found["waits"] else 0.0)
    return family


def _approvals() -> GaugeMetricFamily:
    family = GaugeMetricFamily("agentflow_approvals_pending", "Questions that wait for a person.")
    family.add_metric([], Approval.objects.filter(status=ApprovalStatus.PENDING).count())
    return family


def _deliveries() -> GaugeMetricFamily:
    """Those sent and not needed are left out: they only wait to be removed."""
    family = GaugeMetricFamily(
        "agentflow_deliveries",
        "Messages to people and programs that are to be sent, or were given up.",
        labels=["status"],
    )
    told = [*OPEN, DeliveryState.DEAD]
    counts = dict(
        Delivery.objects.filter(state__in=told).values_list("state").annotate(Count("pk")).order_by()
    )
    for state in told:
        family.add_metric([state.value], counts.get(state.value, 0))
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

# Labelled by route, never by path: what clients send must not make new series.
http_requests = Counter(
    "agentflow_http_requests", "HTTP requests answered.", ["method", "route", "status"], registry=registry
)
http_seconds = Histogram(
    "agentflow_http_request_seconds",
    "Time to answer an HTTP request.",
    ["method", "route"],
    registry=registry,
)


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
