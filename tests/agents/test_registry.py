from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from agentflow.agents import registry
from agentflow.agents.profile import Capability
from agentflow.agents.registry import AgentSpec
from agentflow.governance.models import Workspace
from tests.cutting import cut
from tests.factories.agents import AgentFactory
from tests.servers import HttpServer

from .conftest import Invoke, output_of

pytestmark = pytest.mark.django_db


@dataclass
class Block:
    agent_id: str | None = None
    tool_type: str | None = None
    effect: str | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()


def test_an_agent_is_found_by_its_name_in_its_workspace_only(workspace: Workspace) -> None:
    AgentFactory.create(workspace=workspace, agent_id="risk")
    found = registry.resolve(workspace.pk, "risk")
    assert found is not None
    assert found.tool_type == "API"
    assert registry.resolve(AgentFactory.create().workspace_id, "risk") is None


def test_a_row_is_asked_for_once_in_a_while(
    workspace: Workspace, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    AgentFactory.create(workspace=workspace, agent_id="risk")
    with django_assert_num_queries(1):
        for _ in range(100):
            registry.resolve(workspace.pk, "risk")


def test_candidates_are_all_of_a_workspace_with_what_they_say_of_themselves(
    workspace: Workspace, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    AgentFactory.create()
    AgentFactory.create(workspace=workspace, agent_id="b", enabled=False)
    AgentFactory.create(
        workspace=workspace,
        agent_id="a",
        capabilities=[{"name": "read", "inputSchema": {"type": "object"}}],
        cost={"perCall": 1},
        limits={"concurrency": 2},
        environment="test",
    )
    with django_assert_num_queries(1):
        first, second = registry.candidates(workspace.pk)
        assert registry.candidates(workspace.pk) == (first, second)
    assert (first.agent_id, second.agent_id, second.enabled, first.version) == ("a", "b", False, 1)
    assert first.capabilities == (Capability(name="read", input_schema={"type": "object"}),)
    assert (first.cost.per_call, first.cost.currency, first.limits.concurrency) == (1, "USD", 2)
    assert (first.environment, first.health, second.cost.per_call) == ("test", "unknown", None)


def test_missing_names_those_that_are_absent_or_off_in_one_query(
    workspace: Workspace, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    AgentFactory.create(workspace=workspace, agent_id="on")
    AgentFactory.create(workspace=workspace, agent_id="off", enabled=False)
    with django_assert_num_queries(1):
        assert registry.missing(workspace.pk, ["on", "off", "none", "builtin.echo"]) == {"off", "none"}
    with django_assert_num_queries(0):
        assert registry.missing(workspace.pk, ["builtin.echo"]) == set()


def test_effects_come_from_the_block_then_the_agent_then_the_tool(
    workspace: Workspace, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    make = AgentFactory.create
    make(workspace=workspace, agent_id="said", effect="keyed")
    make(workspace=workspace, agent_id="get")
    make(workspace=workspace, agent_id="post", configuration={"url": "https://x", "method": "POST"})
    make(workspace=workspace, agent_id="llm", tool_type="LLM")
    make(workspace=workspace, agent_id="script", tool_type="Script")
    make(workspace=workspace, agent_id="mcp", tool_type="MCP")
    for name, hint in (("reads", "readOnlyHint"), ("idem", "idempotentHint")):
        make(workspace=workspace, agent_id=name, tool_type="MCP", configuration={"annotations": {hint: True}})
    blocks_and_effects = [
        (Block("said"), "keyed"),
        (Block("said", effect="once"), "once"),
        (Block("get"), "pure"),
        (Block("get", configuration={"method": "POST"}), "once"),
        (Block("post"), "once"),
        (Block("post", configuration={"method": "GET"}), "once"),  # the agent's word is the one that counts
        (Block("llm"), "pure"),
        (Block("script"), "pure"),
        (Block("mcp"), "once"),
        (Block("mcp", configuration={"annotations": {"readOnlyHint": True}}), "once"),
        (Block("reads"), "pure"),
        (Block("idem"), "keyed"),
        (Block("builtin.echo"), "pure"),
        (Block("nobody"), "once"),
        (Block(None, "API"), "pure"),
        (Block(None, "API", configuration={"method": "post"}), "once"),
        (Block(None, "MCP"), "once"),
        (Block(), "pure"),
    ]
    with django_assert_num_queries(1):
        found = registry.effects(workspace.pk, [block for block, _ in blocks_and_effects])
    assert found == [effect for _, effect in blocks_and_effects]


def test_a_template_may_not_send_an_agents_credentials_elsewhere() -> None:
    spec = AgentSpec(
        "a",
        "API",
        {"url": "https://bank.example/", "headers": {"Authorization": "Bearer s"}, "query": {"a": "1"}},
    )
    block = {
        "url": "https://thief.example/",
        "headers": {"authorization": "mine", "x-trace": "1"},
        "query": {"b": "2"},
    }
    merged = registry.merged_configuration(spec, block)
    assert merged == {
        "url": "https://bank.example/",
        "headers": {"Authorization": "Bearer s", "x-trace": "1"},
        "query": {"b": "2"},
    }
    assert registry.merged_configuration(spec, merged) == merged


@pytest.mark.django_db(transaction=True)
def test_an_agent_that_is_looked_up_on_a_dead_connection_is_looked_up_again(
    workspace: Workspace, server: HttpServer, call: Invoke
) -> None:
    server.on("/", lambda exchange: exchange.json({"ok": True}))
    AgentFactory.create(workspace=workspace, agent_id="away", configuration={"url": server.url("/")})
    cut()
    assert output_of(call("away", {})) == {"ok": True}
