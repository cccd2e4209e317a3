"""/metrics: what Prometheus reads, without signing in."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from approvals.notify.models import Delivery
from executions.models import Execution
from monitoring import metrics
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory


@pytest.fixture(autouse=True)
def counted_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FRESH_S", -1.0)


def scraped() -> dict[tuple[str, str], float]:
    """Values by metric and, where it has one, status."""
    response = Client().get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name, sample.labels.get("status", "")): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
        if sample.name.startswith("agentflow_") and "http" not in sample.name
    }


@pytest.mark.django_db
def test_work_is_counted_by_state() -> None:
    ExecutionFactory.create(graph="a, b, c", running=["a"], waiting_human=["b"])
    ExecutionFactory.create(status="completed", completed=["a", "b"])
    found = scraped()
    assert found["agentflow_database_up", ""] == 1
    assert found["agentflow_executions", "running"] == 1
    assert found["agentflow_executions", "completed"] == 1
    assert found["agentflow_blocks", "running"] == 1
    assert found["agentflow_blocks", "waiting_human"] == 1
    assert found["agentflow_blocks", "ready"] == 1
    assert found["agentflow_approvals_pending", ""] == 0


@pytest.mark.django_db
def test_the_oldest_ready_block_ages_until_something_moves() -> None:
    assert scraped()["agentflow_oldest_ready_seconds", ""] == 0
    old = ExecutionFactory.create(graph="a")
    Execution.objects.filter(pk=old.pk).update(created_at=Now() - timedelta(minutes=5))
    ExecutionFactory.create(graph="a", status="paused")
    assert 299 < scraped()["agentflow_oldest_ready_seconds", ""] < 330
    later = {"available_at": Now() + timedelta(hours=1)}
    Execution.objects.all().delete()
    ExecutionFactory.create(graph="a", blocks={"a": later})
    assert scraped()["agentflow_oldest_ready_seconds", ""] == 0


@pytest.mark.django_db
def test_messages_that_wait_or_were_given_up_are_counted() -> None:
    approval = ApprovalFactory.create()
    for number, state in enumerate(["pending", "pending", "failed", "dead", "sent", "dropped"]):
        Delivery.objects.create(
            workspace_id=approval.workspace_id,
            approval=approval,
            event_id=number,
            event_at=approval.requested_at,
            topic="requested",
            channel="webhook",
            state=state,
            next_at=approval.requested_at,
        )
    found = scraped()
    assert {status: value for (name, status), value in found.items() if name == "agentflow_deliveries"} == {
        "pending": 2,
        "failed": 1,
        "dead": 1,
    }


@pytest.mark.django_db
def test_requests_are_counted_by_route_and_not_by_path() -> None:
    client = Client()
    for n in range(3):
        client.get(f"/api/v1/executions/00000000-0000-0000-0000-00000000000{n}")
        client.get(f"/nothing/{n}")
    text = client.get("/metrics").content.decode()
    assert 'route="api/v1/executions/<uuid:execution_id>",status="401"' in text
    assert 'route="none",status="404"' in text
    assert "nothing/1" not in text
    assert "process_resident_memory_bytes" in text
