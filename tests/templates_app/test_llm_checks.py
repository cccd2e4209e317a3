"""Issues with the models, tools and limits that blocks name."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from templates_app.services import checking
from tests.factories.agents import AgentFactory
from tests.factories.governance import WorkspaceFactory

DEEP = {"a": ["b", "lookup"], "b": ["c", "d"], "c": ["d"], "d": ["lookup"]}  # which is as deep as it may be


@pytest.fixture
def workspace(db: None) -> Any:
    workspace = WorkspaceFactory.create()
    AgentFactory.create(workspace=workspace, agent_id="lookup", tool_type="API")
    AgentFactory.create(workspace=workspace, agent_id="off", tool_type="API", enabled=False)
    AgentFactory.create(workspace=workspace, agent_id="child", tool_type="UseCase")
    AgentFactory.create(
        workspace=workspace, agent_id="later", tool_type="API", configuration={"callback": {}}
    )
    for agent_id, tools in {"nested": ["lookup", "gone"], "ping": ["pong"], "pong": ["ping"], **DEEP}.items():
        AgentFactory.create(
            workspace=workspace, agent_id=agent_id, tool_type="LLM", configuration={"tools": tools}
        )
    return workspace


def found(workspace: Any, **block: Any) -> list[tuple[str, str, str]]:
    definition: JSONObject = {"name": "t", "blocks": [{"blockId": "a", **block}]}
    issues = checking.row_issues(parse(definition), workspace_id=workspace.pk, template_id=None)
    assert all(issue.remedy for issue in issues)
    return [(issue.severity, issue.code, issue.pointer) for issue in issues]


def test_tools_that_are_not_there_or_cannot_be_tools_hold_a_start(workspace: Any) -> None:
    tools = ["lookup", {"agentId": "nobody"}, "off", "nested", "later", "child", "ping", "a", "b"]
    at = "/blocks/0/configuration/tools"
    assert found(workspace, toolType="LLM", configuration={"tools": tools}) == [
        ("start", "unknown_tool_agent", f"{at}/1"),
        ("start", "unknown_tool_agent", f"{at}/2"),
        ("start", "unknown_tool_agent", f"{at}/3"),
        ("start", "unusable_tool", f"{at}/4"),
        ("start", "tool_cycle", f"{at}/6"),
        ("start", "tools_too_deep", f"{at}/7"),
    ]
    assert found(workspace, agentId="nested") == [("start", "unknown_tool_agent", "/blocks/0/agentId")]


def test_what_is_malformed_is_refused(workspace: Any) -> None:
    configuration = {"tools": [{"agentId": "lookup", "policy": "maybe"}], "limits": {"maxTurns": 0}}
    assert found(workspace, toolType="LLM", configuration=configuration) == [
        ("error", "invalid", "/blocks/0/configuration/tools/0/policy"),
        ("error", "invalid", "/blocks/0/configuration/limits/maxTurns"),
    ]
    assert found(workspace, toolType="Script", configuration=configuration) == []


def test_blocks_without_tools_cost_no_query(
    workspace: Any, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):  # the agents that are named
        assert found(workspace, agentId="lookup") == []
