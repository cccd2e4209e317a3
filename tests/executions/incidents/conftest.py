"""Commands on the incident that failed first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.incidents.models import Incident
from tests.factories.governance import client_of

Post = Callable[..., JSONObject]


@pytest.fixture
def post(author: User) -> Post:
    api = client_of(author)

    def send(command: str, body: JSONObject | None = None, *, status: int = 200) -> JSONObject:
        incident = Incident.objects.order_by("first_seen").first()
        assert incident is not None
        answer = api.post(f"/api/v1/incidents/{incident.pk}/{command}", body or {}, format="json")
        assert answer.status_code == status, answer.content
        found: JSONObject = answer.json()
        return found

    return send
