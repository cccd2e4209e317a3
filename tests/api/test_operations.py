"""What operators and machines look at: health, readiness, metrics, the API's own description."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from agentflow.api import health

pytestmark = pytest.mark.django_db
OPEN = ["/health", "/ready", "/metrics", "/api/schema", "/api/docs", "/login/"]


@pytest.mark.parametrize("address", OPEN)
def test_these_need_no_login(client: Client, address: str) -> None:
    assert client.get(address).status_code == 200


@pytest.fixture(scope="module")
def schema() -> Any:
    from drf_spectacular.generators import SchemaGenerator

    return SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]


def test_all_else_needs_one(client: Client, schema: Any) -> None:
    """Every operation of the API, whatever app brings it."""
    open_operations = {
        ("/api/v1/auth/token", "post"),
        ("/api/v1/auth/token/refresh", "post"),
        ("/api/v1/callbacks/{token}", "post"),  # the token is the right
    }
    tried = 0
    for path, operations in schema["paths"].items():
        address = path
        for parameter in {
            p["name"]: p for o in operations.values() for p in o.get("parameters", [])
        }.values():
            if parameter["in"] == "path":
                sample = "6b7f6f0a-0000-4000-8000-000000000000"
                is_uuid = parameter["schema"].get("format") == "uuid"
                address = address.replace("{" + parameter["name"] + "}", sample if is_uuid else "1")
        for method in operations:
            if (path, method) in open_operations or not path.startswith("/api/v1/"):
                continue
            answer = client.generic(method.upper(), address, b"{}", content_type="application/json")
            assert answer.status_code == 401, (method, path)
            assert answer["Content-Type"] == "application/problem+json"
            tried += 1
    assert tried >= 3


def test_every_operation_says_how_it_may_fail(schema: Any) -> None:
    for path, operations in schema["paths"].items():
        if not path.startswith("/api/v1/"):
            continue
        for method, operation in operations.items():
            content = operation["responses"]["default"]["content"]
            assert list(content) == ["application/problem+json"], (method, path)
    assert schema["components"]["schemas"]["Problem"]["required"]


def test_the_description_is_valid_and_free_of_warnings(tmp_path: Any) -> None:
    target = tmp_path / "openapi.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(target))
    assert yaml.safe_load(target.read_text())["info"]["title"] == "agentflow"


def test_readiness_names_what_is_missing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/ready").json() == {
        "status": "ready",
        "checks": {"database": True, "valkey": True, "migrations": True},
    }
    monkeypatch.setattr(health, "_migrated", False)
    last = MigrationRecorder.Migration.objects.filter(app="governance").order_by("-id").first()
    assert last is not None
    last.delete()
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": True, "valkey": True, "migrations": False}


def test_metrics_count_the_work(client: Client) -> None:
    text = client.get("/metrics").content.decode()
    assert 'agentflow_executions{status="running"}' in text
    assert 'agentflow_blocks{status="waiting_human"}' in text
    assert "agentflow_database_up 1.0" in text
    assert "process_resident_memory_bytes" in text


def test_unknown_addresses_are_problems_in_the_api_and_pages_elsewhere(client: Client) -> None:
    assert client.get("/api/v1/nothing")["Content-Type"] == "application/problem+json"
    assert client.get("/nothing")["Content-Type"].startswith("text/html")
