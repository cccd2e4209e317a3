"""Sources of agents: what they list becomes agents, and what they do wrong changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from agentflow.agents import registry
from agentflow.agents.models import Agent, AgentSource, AgentVersion
from agentflow.agents.services import synchronising
from agentflow.governance.models import AuditEntry, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services.secrets import put_secret
from tests.factories.agents import AgentFactory
from tests.factories.governance import WorkspaceFactory, client_of, member
from tests.servers import Exchange, HttpServer

from .conftest import Invoke, output_of

pytestmark = pytest.mark.django_db
SOURCES, DISCOVER = "/api/v1/agents/sources", "/api/v1/agents/discover"
HIDDEN = "********"


@pytest.fixture
def operator(workspace: Workspace) -> APIClient:
    return client_of(member(workspace, Role.OPERATOR))


class Crew:
    """An Agent Service with agents that may be changed."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.agents: list[Any] = [
            {
                "id": "extract",
                "name": "Extract",
                "inputSchema": {"type": "object"},
                "capabilities": [{"name": "invoice.extract", "tags": ["pdf"]}, "invoice.read"],
            },
            {"id": "pay", "name": "Pay"},
        ]
        self.answer: Callable[[Exchange], None] = lambda e: e.json({"agents": self.agents})
        server.on("/svc/agents", lambda exchange: self.answer(exchange))
        server.on("/svc/agents/pay/capabilities", lambda e: e.json({"capabilities": ["pay"]}))

    def body(self, **fields: Any) -> dict[str, Any]:
        url = self.server.url("/svc/")
        return {"kind": "agent_service", "name": "svc", "url": url, **fields}


@pytest.fixture
def crew(server: HttpServer) -> Crew:
    return Crew(server)


def discovered(operator: APIClient, body: dict[str, Any]) -> dict[str, Any]:
    response = operator.post(DISCOVER, body, format="json")
    assert response.status_code == 200, response.content
    answer: dict[str, Any] = response.json()
    return answer


def again(operator: APIClient, source_id: str, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = discovered(operator, {"sourceId": source_id, **fields})["report"]
    return found


def test_a_source_is_tried_kept_and_followed(operator: APIClient, crew: Crew) -> None:
    tried = discovered(operator, crew.body(preview=True))
    assert (tried["report"]["new"], tried["source"]) == (["svc.extract", "svc.pay"], None)
    assert not Agent.objects.exists()
    assert not AgentSource.objects.exists()

    source = discovered(operator, crew.body())["source"]
    extract = Agent.objects.get(agent_id="svc.extract")
    assert extract.capabilities == [{"name": "invoice.extract", "tags": ["pdf"]}, {"name": "invoice.read"}]
    assert (extract.tool_type, extract.effect, str(extract.source_id)) == ("AgentService", None, source["id"])
    assert Agent.objects.get(agent_id="svc.pay").capabilities == [{"name": "pay"}]
    Agent.objects.filter(agent_id="svc.extract").update(effect="pure", limits={"concurrency": 2})
    assert again(operator, source["id"])["unchanged"] == 2

    crew.agents[0]["inputSchema"] = {"type": "object", "required": ["file"]}
    del crew.agents[1]
    crew.agents.append({"id": "new", "capabilities": []})
    told = again(operator, source["id"], preview=True)
    assert Agent.objects.filter(enabled=True).count() == 2
    assert again(operator, source["id"]) == told
    assert (told["new"], told["changed"], told["gone"]) == (["svc.new"], ["svc.extract"], ["svc.pay"])
    extract.refresh_from_db()
    assert (extract.version, extract.effect, extract.limits) == (2, "pure", {"concurrency": 2})
    assert AgentVersion.objects.filter(agent=extract).count() == 2
    pay = Agent.objects.get(agent_id="svc.pay")
    assert (pay.enabled, pay.gone_at is None) == (False, False)

    crew.agents.append({"id": "pay", "name": "Pay"})
    assert again(operator, source["id"])["back"] == ["svc.pay"]
    pay.refresh_from_db()
    assert (pay.enabled, pay.gone_at, pay.version) == (True, None, 1)
    assert AuditEntry.objects.filter(action="agent_source.synchronise").count() == 4


def test_one_that_was_switched_off_stays_so_when_it_comes_back(operator: APIClient, crew: Crew) -> None:
    source = discovered(operator, crew.body())["source"]
    Agent.objects.filter(agent_id="svc.pay").update(enabled=False)
    crew.agents.pop()
    assert again(operator, source["id"])["gone"] == ["svc.pay"]
    assert again(operator, source["id"])["gone"] == []
    crew.agents.append({"id": "pay"})
    again(operator, source["id"])
    pay = Agent.objects.get(agent_id="svc.pay")
    assert (pay.enabled, pay.gone_at) == (False, None)


def test_what_is_gone_is_no_start_but_may_still_be_called(
    operator: APIClient, crew: Crew, workspace: Workspace, call: Invoke
) -> None:
    source = discovered(operator, crew.body())["source"]
    crew.agents.pop()
    again(operator, source["id"])
    definition = {"name": "t", "blocks": [{"blockId": "a", "agentId": "svc.pay"}]}
    author = client_of(member(workspace, Role.AUTHOR))
    template = author.post("/api/v1/templates", definition, format="json").json()["templateId"]
    (issue,) = author.post(f"/api/v1/templates/{template}/validate").json()["issues"]
    assert (issue["code"], issue["severity"]) == ("agent_gone", "start")
    assert registry.missing(workspace.pk, ["svc.pay"]) == {"svc.pay"}
    crew.server.on(
        "/svc/agents/pay/execute", lambda e: e.json({"status": "completed", "output": {"paid": True}})
    )
    assert output_of(call("svc.pay", {})) == {"paid": True}


@pytest.mark.parametrize(
    ("respond", "code"),
    [
        (lambda e: e.reply(b"<html>", content_type="text/html"), "bad_document"),
        (lambda e: e.reply(b"\xff\xfe"), "bad_document"),
        (lambda e: e.reply(b"[" * 100_000), "bad_document"),
        (lambda e: e.reply(b'{"a":' * 80 + b"1" + b"}" * 80), "bad_document"),
        (lambda e: e.reply(b'{"agents": NaN}'), "bad_document"),
        (lambda e: e.json({"agents": "none"}), "bad_document"),
        (lambda e: e.json({"agents": [1]}), "bad_document"),
        (lambda e: e.json({"agents": [{"id": str(n)} for n in range(501)]}), "too_many_agents"),
        (lambda e: e.reply(b" " * (5 << 20)), "response_too_large"),
        (lambda e: e.reply(status=503), "http_503"),
        (lambda e: e.drop(), "connection_lost"),
        (lambda e: e.reply(b"", 302, location="http://10.0.0.1/"), "egress_refused"),
    ],
)
def test_a_source_that_cannot_be_understood_changes_nothing(
    operator: APIClient, crew: Crew, respond: Callable[[Exchange], None], code: str
) -> None:
    source = discovered(operator, crew.body())["source"]
    before = list(Agent.objects.order_by("pk").values())
    crew.answer = respond
    response = operator.post(DISCOVER, {"sourceId": source["id"]}, format="json")
    assert (response.status_code, response.json()["code"]) == (422, "source_failed")
    assert list(Agent.objects.order_by("pk").values()) == before
    kept = operator.get(f"{SOURCES}/{source['id']}").json()
    assert (kept["error"]["code"], kept["failures"], kept["result"]["counts"]["new"]) == (code, 1, 2)
    crew.answer = lambda e: e.json(crew.agents)  # a bare list will do
    again(operator, source["id"])
    kept = operator.get(f"{SOURCES}/{source['id']}").json()
    assert (kept["error"], kept["failures"]) == (None, 0)


def test_one_bad_agent_is_skipped_and_the_others_come(
    operator: APIClient, crew: Crew, workspace: Workspace
) -> None:
    AgentFactory.create(workspace=workspace, agent_id="svc.taken")
    source = discovered(operator, crew.body())["source"]
    crew.agents = [
        {**crew.agents[0], "inputSchema": {"type": "thing"}},
        {"id": "pay", "outputSchema": {"enum": ["x" * 70_000]}, "capabilities": []},
        {"name": "nameless"},
        {"id": "taken", "capabilities": []},
        {"id": "good\x00", "name": "\x00" * 300, "description": 5, "capabilities": [7, {"name": "a"}, "a"]},
    ]
    told = again(operator, source["id"])
    assert told["new"] == ["svc.good"]
    assert {each["code"] for each in told["skipped"]} == {
        "bad_schema",
        "schema_too_large",
        "bad_agent",
        "agent_exists",
    }
    assert told["gone"] == []  # still listed, if badly
    assert Agent.objects.get(agent_id="svc.extract").version == 1


def test_the_clock_takes_each_due_source_once_and_a_lost_clock_repeats(
    operator: APIClient, crew: Crew
) -> None:
    operator.post(SOURCES, crew.body(), format="json")
    operator.post(SOURCES, crew.body(name="by hand", intervalSeconds=0), format="json")
    operator.post(SOURCES, crew.body(name="off", enabled=False), format="json")
    (taken,) = synchronising.take_due()
    assert synchronising.take_due() == []
    AgentSource.objects.update(due_at="2020-01-01T00:00Z")  # as after the lease of a clock that died
    assert synchronising.take_due() == [taken]
    synchronising.synchronise(source_id=taken, by=None)
    assert synchronising.take_due() == []
    assert AuditEntry.objects.get(action="agent_source.synchronise").actor_name == "system"
    synchronising.synchronise(source_id=taken, by=None)
    assert AuditEntry.objects.filter(action="agent_source.synchronise").count() == 1  # nothing new


def test_a_source_is_changed_and_removed_and_its_agents_stay(
    operator: APIClient, crew: Crew, workspace: Workspace
) -> None:
    headers = {"X-Token": "canary"}
    made = operator.post(SOURCES, crew.body(configuration={"headers": headers}), format="json")
    assert made.status_code == 201, made.content
    url = made["Location"]
    assert b"canary" not in made.content + operator.get(SOURCES).content
    changed = operator.patch(url, {"configuration": {"headers": {"X-Token": HIDDEN}, "prefix": "x."}})
    assert changed.status_code == 200, changed.content
    assert AgentSource.objects.get().configuration["headers"] == headers
    moved = operator.patch(
        url, {"url": "https://thief.example", "configuration": {"headers": {"X-Token": HIDDEN}}}
    )
    assert moved.status_code == 400
    again(operator, made.json()["id"])
    assert all(each.headers["x-token"] == "canary" for each in crew.server.seen)
    assert operator.delete(url).status_code == 200
    assert Agent.objects.filter(source=None, enabled=True, agent_id__startswith="x.").count() == 2
    told = discovered(operator, crew.body(configuration={"prefix": "x."}))["report"]
    assert told["new"] == told["skipped"] == []
    assert Agent.objects.filter(source__isnull=False).count() == 2


def test_a_source_is_asked_with_its_secret_and_nobody_reads_it(
    operator: APIClient, crew: Crew, workspace: Workspace
) -> None:
    boss = member(workspace, Role.ADMIN)
    put_secret(by=boss, workspace_id=workspace.pk, name="KEY", value="canary-7331")
    headers = {"Authorization": "Bearer ${secrets.KEY}"}
    source = discovered(operator, crew.body(configuration={"headers": headers}))["source"]
    assert crew.server.seen[-1].headers["authorization"] == "Bearer canary-7331"
    assert Agent.objects.get(agent_id="svc.pay").configuration["headers"] == headers
    crew.answer = lambda e: e.reply(e.headers["authorization"].encode(), 200)
    response = operator.post(DISCOVER, {"sourceId": source["id"]}, format="json")
    assert response.status_code == 422
    assert b"canary" not in response.content
    assert "canary" not in str(list(AgentSource.objects.values()))


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"kind": "gopher"}, "/kind"),
        ({"url": "ftp://x"}, "/url"),
        ({"url": ""}, "/url"),
        ({"server": "x"}, "/server"),
        ({"kind": "mcp", "url": "", "server": "none"}, "/server"),
        ({"intervalSeconds": 5}, "/intervalSeconds"),
        ({"configuration": {"headers": {"a": 1}}}, "/configuration/headers"),
        ({"configuration": {"headers": {"a": HIDDEN}}}, "/configuration/headers/a"),
        ({"configuration": {"headers": {"Cookie": "a"}}}, "/configuration/headers/Cookie"),
        ({"configuration": {"prefix": "${secrets.A}"}}, "/configuration/prefix"),
        ({"configuration": {"operations": []}}, "/configuration/operations"),
        ({"configuration": {"prefix": "builtin."}}, "/configuration/prefix"),
        ({"name": ""}, "/name"),
        ({"more": 1}, "/more"),
    ],
)
def test_what_is_no_source(operator: APIClient, crew: Crew, sent: dict[str, Any], pointer: str) -> None:
    for url in (SOURCES, DISCOVER):
        response = operator.post(url, crew.body(**sent), format="json")
        assert response.status_code == 400, response.content
        assert pointer in {issue["pointer"] for issue in response.json()["issues"]}
    assert not AgentSource.objects.exists()


def test_who_may(crew: Crew, workspace: Workspace, operator: APIClient) -> None:
    source = discovered(operator, crew.body())["source"]
    url = f"{SOURCES}/{source['id']}"
    viewer = client_of(member(workspace, Role.VIEWER))
    assert viewer.get(url).status_code == 200
    for response in (
        viewer.post(SOURCES, crew.body(name="b"), format="json"),
        viewer.post(DISCOVER, {"sourceId": source["id"]}, format="json"),
        viewer.post(DISCOVER, crew.body(preview=True), format="json"),
        viewer.patch(url, {}, format="json"),
        viewer.delete(url),
    ):
        assert response.status_code == 403
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    for response in (
        stranger.get(url),
        stranger.patch(url, {}, format="json"),
        stranger.delete(url),
        stranger.post(DISCOVER, {"sourceId": source["id"]}, format="json"),
        stranger.post(DISCOVER, crew.body(workspaceId=str(workspace.pk)), format="json"),
        operator.post(DISCOVER, {"sourceId": str(uuid4())}, format="json"),
    ):
        assert response.status_code == 404
    assert stranger.get(SOURCES).json()["total"] == 0
    assert client_of(None).post(DISCOVER, {}, format="json").status_code == 401
    assert operator.post(SOURCES, crew.body(), format="json").json()["code"] == "source_exists"
