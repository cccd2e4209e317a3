from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.outside import Client, make_client
from tests.scenarios.agents import Held
from tests.servers import HttpServer, http_server
from tests.service import Service


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        yield running


@pytest.fixture
def held(server: HttpServer) -> Iterator[Held]:
    """At `/held` of the server."""
    agent = Held()
    server.on("/held", agent)
    yield agent
    agent.release()


@pytest.fixture
def client(service: Service, server: HttpServer) -> Client:
    """One who may do everything in a workspace whose agents may call the server."""
    return make_client(service, egress_allow=[server.allowed])
