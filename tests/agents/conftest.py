"""A workspace whose agents may call the servers of the test, and calls of its agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from agentflow.agents import registry
from agentflow.agents.calls import Call, Completed, Failed, Outcome
from agentflow.agents.invocation import invoke
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.failures import Failure
from tests.factories.governance import WorkspaceFactory
from tests.servers import HttpServer, http_server

Invoke = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _fresh_registry() -> None:
    registry.forget()


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        yield running


@pytest.fixture
def workspace(db: None, server: HttpServer) -> Workspace:
    return WorkspaceFactory.create(egress_allow=[server.allowed])


@pytest.fixture
def make_call(workspace: Workspace) -> Callable[..., Call]:
    def made(agent_id: str | None = None, input: JSONValue = None, **fields: Any) -> Call:
        values: dict[str, Any] = {
            "workspace_id": workspace.pk,
            "execution_id": uuid4(),
            "block_id": "block",
            "attempt": 1,
            "agent_id": agent_id,
            "tool_type": None,
            "configuration": {},
            "input": input,
            "timeout_s": 10.0,
            "idempotency_key": "key-1",
        }
        return Call(**{**values, **fields})

    return made


@pytest.fixture
def call(make_call: Callable[..., Call]) -> Invoke:
    """Invoke an agent of the workspace: `call("agent-id", input, configuration={...})`."""

    def called(*args: Any, **fields: Any) -> Outcome:
        return invoke(make_call(*args, **fields))

    return called


def output_of(outcome: Outcome) -> JSONValue:
    assert isinstance(outcome, Completed), outcome
    return outcome.output


def failure_of(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failed), outcome
    return outcome.failure


def usage_of(outcome: Outcome) -> JSONObject | None:
    assert isinstance(outcome, Completed | Failed), outcome
    return outcome.usage
