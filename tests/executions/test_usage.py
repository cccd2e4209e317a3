"""Tokens and money: what attempts used, and what that makes of blocks, runs and agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_django import Settings

from agentflow.agents import performance, registry
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions import spending
from executions.models import BlockAttempt, Execution
from executions.services import measuring
from templates_app.models import TemplateVersion
from tests.factories.agents import AgentFactory
from tests.factories.governance import client_of
from tests.llm import ScriptedModel, completion
from tests.servers import http_server

from .conftest import Start, block, make_due, template
from .conftest import drain as drain

USED = {"inputTokens": 5, "outputTokens": 2}


@pytest.fixture
def model(settings: Settings) -> Iterator[ScriptedModel]:
    registry.forget()
    performance._cached.clear()
    with http_server() as server:
        settings.AGENTFLOW_LLM_BASE_URL = server.url("/v1")
        settings.AGENTFLOW_LLM_MODEL = "small"
        yield ScriptedModel(server, [completion("Dear Ada")])


def used_by(execution: Execution) -> list[tuple[str, int, JSONObject | None]]:
    rows = BlockAttempt.objects.filter(block__execution=execution).order_by("block__idx", "attempt")
    return [(each.block.block_id, each.attempt, each.usage) for each in rows]


def test_attempts_blocks_runs_and_agents_tell_what_they_used(
    start: Start, model: ScriptedModel, author: User
) -> None:
    ask = {"agentId": "writer", "configuration": {"prompt": "Write."}}
    execution = start(
        template(
            block("plain"),
            block("first", "plain", **ask),
            block("second", "first", **ask, retryPolicy={"maxRetries": 1, "retryConditions": ["agent"]}),
        )
    )
    agent = AgentFactory.create(
        workspace=execution.workspace,
        agent_id="writer",
        tool_type="LLM",
        configuration={},
        cost={"perInputToken": 0.5, "currency": "EUR"},
    )
    paid = {**USED, "cost": {"EUR": 2.5}, "model": "small-1"}
    answers = iter([completion("Dear Ada"), completion(None, refusal="No."), completion("Dear Bob")])
    model.says(lambda exchange: exchange.json(next(answers)))
    drain(execution)
    make_due(execution)
    drain(execution)
    assert execution.status == "completed"
    assert used_by(execution) == [
        ("plain", 1, None),
        ("first", 1, paid),
        ("second", 1, paid),  # a refusal is paid for, too
        ("second", 2, paid),
    ]
    total = {"inputTokens": 15, "outputTokens": 6, "cost": {"EUR": 7.5}}
    client = client_of(author)
    path = f"/api/v1/executions/{execution.pk}"
    shown = client.get(path).json()
    assert shown["usage"] == total
    assert [each["usage"] for each in shown["blockExecutions"]] == [
        spending.nothing(),
        {**USED, "cost": {"EUR": 2.5}},
        {"inputTokens": 10, "outputTokens": 4, "cost": {"EUR": 5.0}},
    ]
    detail = client.get(f"{path}/blocks/second").json()
    assert [each["usage"] for each in detail["attempts"]] == [paid, paid]
    assert "usage" not in client.get(f"{path}?fields=status").json()
    client.force_login(author)
    head = client.get(f"/executions/{execution.pk}/").content.decode()
    assert "21 tokens (15 in, 6 out), 7.50 EUR" in head
    panel = client.get(f"/executions/{execution.pk}/step?block=second").content.decode()
    assert "7 tokens (5 in, 2 out), 2.50 EUR, small-1" in panel

    measuring.measure()
    measuring.measure()
    stats = performance.stats(agent.workspace_id, ["writer"])["writer"]
    assert (stats.calls, stats.failures, stats.cost, stats.tokens) == (3, 1, 7.5, 21)


def test_what_children_used_counts_for_the_run_above_them(
    start: Start, version_of: Callable[[JSONObject], TemplateVersion], model: ScriptedModel
) -> None:
    child = version_of(template({"blockId": "ask", "toolType": "LLM", "configuration": {"prompt": "Write."}}))
    configuration = {"templateId": str(child.template_id)}
    execution = start(template({"blockId": "run", "toolType": "UseCase", "configuration": configuration}))
    drain(execution)
    assert execution.status == "completed"
    assert spending.of_run(execution.pk) == {**USED, "cost": {}}
    assert spending.of_blocks(execution.pk, 1) == {}
