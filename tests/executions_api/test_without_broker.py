"""Starting and steering while Valkey is gone, or there and silent: the rows take it, quickly."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from django.conf import settings

from agentflow.types import JSONObject
from executions.models import Execution, Timer
from tests.factories.executions import graph_definition
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory
from tests.work import functions

from .conftest import URL, Team, make_team

# Hints are sent after the commit, so these tests commit.
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(settings.TEST_ENGINES is None, reason="only on a Valkey of our own"),
]
SPEAK = {("redis.connection", name) for name in ("connect", "send_packed_command", "read_response")}


@pytest.fixture
def team() -> Team:
    return make_team()


@pytest.fixture(params=["gone", "silent"])
def no_broker(request: pytest.FixtureRequest) -> Iterator[None]:
    engines = settings.TEST_ENGINES
    assert engines is not None
    if request.param == "gone":
        os.kill(engines.pid("valkey"), signal.SIGKILL)
        yield
        engines.restart("valkey")
    else:
        os.kill(engines.pid("valkey"), signal.SIGSTOP)
        yield
        os.kill(engines.pid("valkey"), signal.SIGCONT)


@pytest.mark.usefixtures("no_broker")
def test_a_start_is_accepted_and_the_clock_knows_of_it(team: Team) -> None:
    template = TemplateFactory.create(workspace=team.workspace)
    TemplateVersionFactory.create(template=template, definition=graph_definition("a -> b"))
    client = client_of(team.operator)

    def posted(path: str, body: JSONObject, **headers: str) -> Any:
        """The answer to a request that does not speak to the broker, so it cannot wait for it."""
        made: list[Any] = []
        called = functions(lambda: made.append(client.post(path, body, format="json", headers=headers)))
        assert not called & SPEAK
        return made[0]

    for headers in ({}, {"Idempotency-Key": "k"}):
        response = posted(URL, {"templateId": str(template.pk)}, **headers)
        assert response.status_code == 201, response.content
        execution = Execution.objects.get(pk=response.json()["executionId"])
        assert Timer.objects.filter(execution=execution, kind="check").exists()
        for command in ("pause", "resume", "cancel"):
            assert posted(f"{URL}/{execution.pk}/{command}", {}).status_code == 200


@pytest.mark.usefixtures("no_broker")
def test_what_speaks_to_the_broker_would_be_seen() -> None:
    broker = redis.Redis.from_url(settings.BROKER_URL, socket_timeout=0.1)

    def ping() -> None:
        with suppress(redis.RedisError):
            broker.ping()

    assert functions(ping) & SPEAK
