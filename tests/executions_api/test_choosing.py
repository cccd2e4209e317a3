"""Agents matched, recommended, pinned and banned through the API; receipts read and replayed."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from agentflow.agents import meaning, registry
from agentflow.agents.models import AgentMeaning, AgentPolicy
from agentflow.governance.models import AuditEntry
from agentflow.integrations.egress import EgressError
from executions.models import RoutingReceipt
from tests.factories.agents import AgentFactory
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory
from tests.servers import Exchange, http_server

from .conftest import Team

MATCH, RECOMMEND = "/api/v1/agents/match", "/api/v1/agents/recommend"
POLICIES, REPLAY = "/api/v1/agents/policies", "/api/v1/agents/receipts/replay"


@pytest.fixture(autouse=True)
def afresh(db: None) -> None:
    registry.forget()


def agent(team: Team, agent_id: str, *capabilities: str, **fields: Any) -> Any:
    return AgentFactory.create(
        workspace=team.workspace,
        agent_id=agent_id,
        capabilities=[{"name": name} for name in capabilities or ("invoice.extract",)],
        **fields,
    )


def post(user: Any, url: str, status: int = 200, **body: Any) -> Any:
    answer = client_of(user).post(url, body, format="json")
    assert answer.status_code == status, answer.content
    return answer.json()


def test_a_match_shows_the_parts_of_the_scores_and_who_is_left_out(team: Team) -> None:
    agent(team, "cheap", cost={"perCall": 1})
    agent(team, "dear", cost={"perCall": 2})
    agent(team, "off", enabled=False)
    agent(team, "other", "mail.send")
    found = post(team.viewer, MATCH, requirements={"capabilities": ["invoice.extract"]})["ranking"]
    assert [each["agentId"] for each in found["candidates"]] == ["cheap", "dear"]
    assert found["candidates"][1]["parts"]["cost"] == 0.5
    assert found["filteredOut"] == [{"agentId": "off", "reason": "disabled"}]
    assert found["filteredOutByReason"] == {"disabled": 1, "capability": 1}
    limited = post(team.viewer, MATCH, requirements={"capabilities": ["invoice.extract"], "maxCost": 1})
    assert [each["agentId"] for each in limited["ranking"]["candidates"]] == ["cheap"]


def test_free_text_is_matched_by_meaningful_words(team: Team) -> None:
    agent(team, "ocr", description="Reads scanned receipts")
    agent(team, "mailer", description="Sends mails")
    found = post(team.viewer, MATCH, requirements={"text": "scanning a receipt"})["ranking"]
    assert [each["agentId"] for each in found["candidates"]] == ["ocr"]
    goal = post(team.viewer, RECOMMEND, goal="send a mail")["recommendations"]
    assert [each["agentId"] for each in goal[0]["ranking"]["candidates"]] == ["mailer"]


def test_free_text_is_matched_by_meaning_where_an_embedding_model_is_set(
    team: Team, settings: Settings
) -> None:
    """Vectors are made once for what an agent says; when the service is down words decide."""
    agent(team, "ocr", description="Reads scanned receipts")
    mailer = agent(team, "mailer", description="Sends letters")
    with http_server() as server:
        server.on("/v1/embeddings", _embeddings)
        settings.AGENTFLOW_LLM_BASE_URL = server.url("/v1")
        settings.AGENTFLOW_LLM_EMBEDDING_MODEL = "near-1"
        assert (meaning.keep_up(), meaning.keep_up()) == (2, 0)
        assert [len(json.loads(each.body)["input"]) for each in server.seen] == [2]
        (best,) = post(team.viewer, MATCH, requirements={"text": "write somebody"})["ranking"]["candidates"]
        assert (best["agentId"], best["parts"]["meaning"], best["parts"]["capability"]) == ("mailer", 1, 1)
        mailer.description = "Reads scans"
        mailer.save()
        assert (meaning.keep_up(), meaning.keep_up()) == (1, 0)
        found = post(team.viewer, MATCH, requirements={"text": "write somebody"})["ranking"]
        assert found["filteredOutByReason"] == {"text": 2}
        server.on("/v1/embeddings", lambda exchange: exchange.json({"data": [{"index": 0}]}))
        AgentMeaning.objects.all().delete()
        with pytest.raises(EgressError):
            meaning.keep_up()
    registry.forget()
    found = post(team.viewer, MATCH, requirements={"text": "scanned"})["ranking"]
    assert {each["agentId"] for each in found["candidates"]} == {"ocr", "mailer"}
    settings.AGENTFLOW_LLM_EMBEDDING_MODEL = ""
    assert meaning.keep_up() == 0


def _embeddings(exchange: Exchange) -> None:
    """Two meanings: of writing, and of anything else."""
    asked = json.loads(exchange.body)
    assert asked["model"] == "near-1"
    vectors = [[1.0, 0.0] if "letter" in text or "write" in text else [0.0, 1.0] for text in asked["input"]]
    exchange.json({"data": [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]})


def test_the_queries_of_a_match_do_not_grow_with_the_agents(team: Team) -> None:
    counts = []
    for size in (1, 30):
        for number in range(size):
            agent(team, f"a{size}-{number}")
        registry.forget()
        with CaptureQueriesContext(
            connection,
        ) as seen:
            post(team.viewer, MATCH, requirements={"capabilities": ["invoice.extract"], "text": "invoice"})
        counts.append(len(seen))
    assert counts[0] == counts[1]


def test_a_template_gets_recommendations_for_its_blocks(team: Team) -> None:
    agent(team, "one")
    template = TemplateFactory.create(workspace=team.workspace)
    blocks = [{"blockId": "read", "capabilities": ["invoice.extract"]}, {"blockId": "ask", "agentId": "one"}]
    TemplateVersionFactory.create(template=template, definition={"name": "t", "blocks": blocks})
    found = post(team.viewer, RECOMMEND, templateId=str(template.pk))["recommendations"]
    assert [(r["blockId"], r["ranking"]["candidates"][0]["agentId"]) for r in found] == [
        ("read", "one"),
        ("ask", "one"),
    ]
    post(team.viewer, RECOMMEND, 404, templateId=str(template.pk), blockId="gone")
    post(team.stranger, RECOMMEND, 404, templateId=str(template.pk))
    assert post(team.viewer, RECOMMEND, 400)["issues"][0]["pointer"] == "/goal"


def test_a_policy_is_set_seen_in_the_ranking_and_taken_back(team: Team) -> None:
    agent(team, "one")
    agent(team, "two")
    asked = {"capabilities": ["invoice.extract"]}
    made = post(team.operator, POLICIES, 201, kind="ban", agentId="one", reason="late")
    found = post(team.viewer, MATCH, requirements=asked)["ranking"]
    assert found["filteredOut"] == [{"agentId": "one", "reason": "banned"}]
    again = post(team.operator, POLICIES, 201, kind="pin", agentId="one")
    assert again["policyId"] == made["policyId"]
    listed = client_of(team.viewer).get(POLICIES).json()
    assert [(each["kind"], each["agentId"]) for each in listed["policies"]] == [("pin", "one")]
    gone = client_of(team.operator).delete(f"{POLICIES}/{made['policyId']}")
    assert (gone.status_code, AgentPolicy.objects.count()) == (200, 0)
    actions = (
        AuditEntry.objects.filter(target_type="agent_policy").order_by("pk").values_list("action", flat=True)
    )
    assert list(actions) == ["agent_policy.set", "agent_policy.set", "agent_policy.remove"]


def test_a_policy_for_a_block_holds_there_alone(team: Team) -> None:
    agent(team, "one")
    template = TemplateFactory.create(workspace=team.workspace)
    where: Any = {"templateId": str(template.pk), "blockId": "a"}
    post(team.operator, POLICIES, 201, kind="ban", agentId="one", **where)
    asked: Any = {"requirements": {"capabilities": ["invoice.extract"]}}
    assert post(team.viewer, MATCH, **asked, **where)["ranking"]["candidatesTotal"] == 0
    assert post(team.viewer, MATCH, **asked, **{**where, "blockId": "b"})["ranking"]["candidatesTotal"] == 1
    assert post(team.viewer, MATCH, **asked)["ranking"]["candidatesTotal"] == 1


def test_policies_are_for_managers_of_the_workspace(team: Team) -> None:
    agent(team, "one")
    post(team.viewer, POLICIES, 403, kind="ban", agentId="one")
    workspace = str(team.workspace.pk)
    post(team.stranger, POLICIES, 404, kind="ban", agentId="one", workspaceId=workspace)
    post(team.operator, POLICIES, 404, kind="ban", agentId="gone")
    post(team.operator, POLICIES, 404, kind="ban", agentId="one", templateId=str(uuid4()))
    post(team.operator, POLICIES, 400, kind="ban", agentId="one", blockId="a")
    made = post(team.operator, POLICIES, 201, kind="ban", agentId="one")
    assert client_of(team.stranger).delete(f"{POLICIES}/{made['policyId']}").status_code == 404
    assert client_of(team.viewer).delete(f"{POLICIES}/{made['policyId']}").status_code == 403


def test_nobody_matches_agents_of_another_workspace(team: Team) -> None:
    agent(team, "one")
    asked: Any = {"requirements": {"capabilities": ["invoice.extract"]}}
    post(team.stranger, MATCH, 404, **asked, workspaceId=str(team.workspace.pk))
    assert post(team.stranger, MATCH, **asked)["ranking"]["candidatesTotal"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requirements": {"maxCost": -1}},
        {"requirements": {"capabilities": "invoice"}},
        {"requirements": {"toolType": "Fax"}},
        {"requirements": {"colour": "red"}},
        {"requirements": {"inputSchema": []}},
    ],
)
def test_requirements_that_are_none_are_refused(team: Team, body: Any) -> None:
    assert post(team.viewer, MATCH, 400, **body)["issues"]


def test_schemas_that_say_odd_things_are_no_fault(team: Team) -> None:
    agent(team, "one", input_schema={"type": "object", "required": ["id"], "properties": {"id": {}}})
    odds: Any = (
        {"type": 5},
        {"type": [5, None, []]},
        {"required": [{}]},
        {"properties": []},
        {"required": "id"},
    )
    for odd in odds:
        schemas: Any = {"inputSchema": odd, "outputSchema": odd}
        post(team.viewer, MATCH, requirements={"capabilities": ["invoice.extract"], **schemas})


def test_receipts_are_shown_and_replayed_under_another_rule(team: Team) -> None:
    agent(team, "cheap", cost={"perCall": 1})
    agent(team, "dear", cost={"perCall": 9})
    ranking = post(team.viewer, MATCH, requirements={"capabilities": ["invoice.extract"]})["ranking"]
    for candidate in ranking["candidates"]:
        if candidate["agentId"] == "dear":
            candidate["seen"]["successes"] = 2
    version = TemplateVersionFactory.create(template=TemplateFactory.create(workspace=team.workspace))
    execution = ExecutionFactory.create(workspace=team.workspace, template_version=version)
    block = execution.blocks.get(idx=0)
    RoutingReceipt.objects.create(block=block, attempt=1, agent_id="cheap", receipt=ranking)
    same = post(team.viewer, REPLAY, rule={})
    assert (same["receipts"], same["changed"]) == (1, 0)
    other = post(team.viewer, REPLAY, rule={"cost": 0}, executionId=str(execution.pk))
    assert other["changes"] == [
        {
            "executionId": str(execution.pk),
            "blockId": block.block_id,
            "attempt": 1,
            "chosen": "cheap",
            "wouldChoose": "dear",
        }
    ]
    post(team.stranger, REPLAY, 404, rule={}, executionId=str(execution.pk))
    assert post(team.stranger, REPLAY, rule={})["receipts"] == 0
    assert post(team.viewer, REPLAY, 400, rule={"cost": "much"})["issues"]
