"""Starting and steering while Valkey is gone, or there and silent: the rows take it, quickly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from django.conf import settings

from executions.models import Execution, Timer
from tests.factories.executions import graph_definition
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import URL, Team, make_team

# Hints are sent after the commit, so these tests commit.
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(settings.TEST_ENGINES is None, reason="only on a Valkey of our own"),
]
BOUND_S = 1.5


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
    for key in (None, "k"):
        headers = {"Idempotency-Key": key} if key else {}
        began = time.monotonic()
        response = client.post(URL, {"templateId": str(template.pk)}, format="json", headers=headers)
        assert response.status_code == 201, response.content
        assert time.monotonic() - began < BOUND_S
        execution = Execution.objects.get(pk=response.json()["executionId"])
        assert Timer.objects.filter(execution=execution, kind="check").exists()
        for command in ("pause", "resume", "cancel"):
            began = time.monotonic()
            path = f"{URL}/{execution.pk}/{command}"
            assert client.post(path, {}, format="json").status_code == 200
            assert time.monotonic() - began < BOUND_S
