from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from agentflow.agents.calls import Call
from agentflow.agents.invocation import invoke
from agentflow.agents.models import Agent, AgentVersion, Script, ScriptVersion
from agentflow.governance.models import AuditEntry, Workspace
from agentflow.governance.roles import Role
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.factories.governance import WorkspaceFactory, client_of, member

pytestmark = pytest.mark.django_db
AGENTS, SCRIPTS = "/api/v1/agents", "/api/v1/scripts"
HIDDEN = "********"


def body(**fields: Any) -> dict[str, Any]:
    return {
        "agentId": "orders",
        "name": "Orders",
        "toolType": "API",
        "configuration": {"url": "https://api.example/orders/{id}"},
        **fields,
    }


@pytest.fixture
def home() -> Workspace:
    return WorkspaceFactory.create()


@pytest.fixture
def operator(home: Workspace) -> APIClient:
    return client_of(member(home, Role.OPERATOR))


def pointers(response: Any) -> set[str]:
    return {issue["pointer"] for issue in response.json()["issues"]}


def test_a_registered_agent_is_answered_in_full_listed_and_found(
    operator: APIClient, home: Workspace
) -> None:
    reads = {"name": "orders.read", "tags": ["crm"], "inputSchema": {"type": "object"}}
    sent = body(
        capabilities=[reads],
        effect="pure",
        inputSchema={"type": "object"},
        cost={"perCall": 0.5, "currency": "EUR"},
        limits={"concurrency": 4},
        environment="test",
        healthCheck={"url": "https://api.example/health", "intervalSeconds": 60},
    )
    made = operator.post(AGENTS, sent, format="json")
    assert made.status_code == 201, made.content
    answer = made.json()
    assert {name: answer[name] for name in sent} == sent
    assert (answer["workspaceId"], answer["enabled"], answer["outputSchema"]) == (str(home.pk), True, None)
    assert operator.get(made["Location"]).json().items() >= answer.items()
    assert operator.get(AGENTS).json() == {"agents": [answer], "total": 1}
    entry = AuditEntry.objects.get(action="agent.register")
    assert entry.target_id == answer["id"]


def test_a_repeated_post_makes_one_agent(operator: APIClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = operator.post(AGENTS, body(), format="json", headers=headers)
    second = operator.post(AGENTS, body(), format="json", headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    third = operator.post(AGENTS, body(), format="json")
    assert (third.status_code, third.json()["code"]) == (409, "agent_exists")
    assert Agent.objects.count() == 1


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"agentId": ""}, "/agentId"),
        ({"agentId": "x" * 201}, "/agentId"),
        ({"agentId": "builtin.mine"}, "/agentId"),
        ({"toolType": "Fax"}, "/toolType"),
        ({"effect": "sometimes"}, "/effect"),
        ({"capabilities": [1]}, "/capabilities/0"),
        ({"capabilities": [{"tags": ["x"]}]}, "/capabilities/0/name"),
        ({"capabilities": ["a", {"name": "a"}]}, "/capabilities/1"),
        ({"capabilities": [{"name": "a", "more": 1}]}, "/capabilities/0/more"),
        ({"capabilities": [{"name": "a", "inputSchema": {"type": "x"}}]}, "/capabilities/0/inputSchema/type"),
        ({"capabilities": [{"name": "a", "inputSchema": 1}]}, "/capabilities/0/inputSchema"),
        ({"capabilities": [{"name": "a", "tags": [""]}]}, "/capabilities/0/tags/0"),
        ({"cost": {"perCall": -1}}, "/cost/perCall"),
        ({"cost": {"perCall": "1"}}, "/cost/perCall"),
        ({"cost": {"currency": "euro"}}, "/cost/currency"),
        ({"limits": {"concurrency": 0}}, "/limits/concurrency"),
        ({"limits": {"ratePerMinute": 1.5}}, "/limits/ratePerMinute"),
        ({"limits": []}, "/limits"),
        ({"healthCheck": {"url": "file:///etc/passwd"}}, "/healthCheck/url"),
        ({"healthCheck": {"intervalSeconds": 1}}, "/healthCheck/intervalSeconds"),
        ({"environment": "x" * 101}, "/environment"),
        ({"health": "healthy"}, "/health"),
        ({"enabled": "yes"}, "/enabled"),
        ({"configuration": []}, "/configuration"),
        ({"configuration": {}}, "/configuration/url"),
        ({"configuration": {"url": "ftp://x"}}, "/configuration/url"),
        ({"configuration": {"url": "http://[::1"}}, "/configuration/url"),
        ({"configuration": {"url": "https://u:p@x.example"}}, "/configuration/url"),
        ({"configuration": {"url": "https://x", "headers": {"a": 1}}}, "/configuration/headers"),
        ({"configuration": {"url": "https://x", "callback": True}}, "/configuration/callback"),
        (
            {"configuration": {"url": "https://x", "callback": {"timeout": 0}}},
            "/configuration/callback/timeout",
        ),
        ({"configuration": {"url": "https://x", "headers": {"a": HIDDEN}}}, "/configuration/headers/a"),
        ({"toolType": "Script", "configuration": {}}, "/configuration/script"),
        ({"toolType": "Script", "configuration": {"script": "none"}}, "/configuration/script"),
        ({"toolType": "UseCase", "configuration": {"templateId": "x"}}, "/configuration/templateId"),
        ({"toolType": "MCP", "configuration": {"tool": "t"}}, "/configuration"),
        ({"toolType": "MCP", "configuration": {"server": "none", "tool": "t"}}, "/configuration/server"),
        ({"toolType": "MCP", "configuration": {"url": "https://x"}}, "/configuration/tool"),
        ({"toolType": "LLM", "configuration": {"apiKey": "k"}}, "/configuration/apiKey"),
        ({"inputSchema": {"type": "thing"}}, "/inputSchema/type"),
        ({"outputSchema": {"required": 1}}, "/outputSchema/required"),
        ({"createdBy": 1}, "/createdBy"),
        ({"id": str(uuid4())}, "/id"),
    ],
)
def test_what_cannot_be_registered_is_pointed_at(
    operator: APIClient, sent: dict[str, Any], pointer: str
) -> None:
    response = operator.post(AGENTS, body(**sent), format="json")
    assert response.status_code in {400, 422}, response.content
    assert pointer in pointers(response)
    assert not Agent.objects.exists()


def test_all_problems_are_told_at_once(operator: APIClient) -> None:
    sent = body(agentId="builtin.x", configuration={}, inputSchema={"type": "thing"})
    assert pointers(operator.post(AGENTS, sent, format="json")) == {
        "/agentId",
        "/configuration/url",
        "/inputSchema/type",
    }


def test_secrets_are_written_and_never_read(operator: APIClient) -> None:
    headers = {"X-Partner": "Bearer canary", "Accept": "text/plain"}
    secret = {"url": "https://api.example/", "headers": headers}
    made = operator.post(AGENTS, body(configuration=secret), format="json")
    assert made.json()["configuration"]["headers"] == {"X-Partner": HIDDEN, "Accept": "text/plain"}
    url = made["Location"]
    for response in (made, operator.get(url), operator.get(AGENTS)):
        assert b"canary" not in response.content
    assert "canary" not in str(list(AuditEntry.objects.values()))

    put = operator.put(
        url, body(name="New", configuration=operator.get(url).json()["configuration"]), format="json"
    )
    assert put.status_code == 200, put.content
    assert Agent.objects.get().configuration == secret
    assert Agent.objects.get().name == "New"


def test_a_hidden_secret_does_not_move_to_another_address(operator: APIClient) -> None:
    secret = {"url": "https://api.example/", "headers": {"X-Partner": "Bearer canary"}}
    url = operator.post(AGENTS, body(configuration=secret), format="json")["Location"]
    moved = {"url": "https://thief.example/", "headers": {"X-Partner": HIDDEN}}
    refused = operator.put(url, body(configuration=moved), format="json")
    assert refused.status_code in {400, 422}
    assert pointers(refused) == {"/configuration/headers/X-Partner"}
    assert Agent.objects.get().configuration == secret


def test_put_replaces_and_delete_removes(operator: APIClient) -> None:
    url = operator.post(AGENTS, body(effect="keyed", description="Old"), format="json")["Location"]
    changed = operator.put(url, body(enabled=False), format="json").json()
    assert (changed["effect"], changed["description"], changed["enabled"]) == (None, "", False)
    assert operator.delete(url).json() == {"success": True}
    assert operator.get(url).status_code == 404
    assert operator.delete(url).status_code == 404
    actions = AuditEntry.objects.filter(target_type="agent").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["agent.register", "agent.update", "agent.delete"]


def test_a_patch_changes_what_it_names_and_nothing_else(operator: APIClient) -> None:
    secret = {"url": "https://api.example/", "headers": {"X-Partner": "Bearer canary"}}
    url = operator.post(AGENTS, body(configuration=secret, effect="keyed"), format="json")["Location"]
    changed = operator.patch(url, {"capabilities": ["a"], "effect": None}, format="json")
    assert changed.status_code == 200, changed.content
    assert changed.json()["capabilities"] == [{"name": "a"}]
    agent = Agent.objects.get()
    assert (agent.effect, agent.configuration, agent.name) == (None, secret, "Orders")
    for sent, pointer in (
        ({"configuration": {}}, "/configuration/url"),
        ({"capabilities": [{}]}, "/capabilities/0/name"),
        ({"agentId": None}, "/agentId"),
        ({"nothing": 1}, "/nothing"),
    ):
        assert pointer in pointers(operator.patch(url, sent, format="json"))
    assert operator.patch(url, [], format="json").status_code == 400
    assert operator.patch(url, {}, format="json").status_code == 200


def test_each_other_way_of_being_called_is_a_version(operator: APIClient) -> None:
    secret = {"url": "https://api.example/", "headers": {"X-Partner": "Bearer canary"}}
    url = operator.post(AGENTS, body(configuration=secret), format="json")["Location"]

    def patched(**fields: Any) -> int:
        return int(operator.patch(url, fields, format="json").json()["version"])

    assert patched(name="New", capabilities=["a"], limits={"concurrency": 1}, enabled=False) == 1
    assert patched(effect="pure") == 2
    assert patched(effect="pure") == 2
    assert patched(inputSchema={"type": "object"}) == 3
    assert patched(configuration={**secret, "headers": {"X-Partner": "Bearer other"}}) == 4
    answer = operator.get(f"{url}/versions")
    assert b"canary" not in answer.content
    assert b"other" not in answer.content
    assert [each["version"] for each in answer.json()["versions"]] == [4, 3, 2, 1]
    newest, before, *_ = answer.json()["versions"]
    assert newest["sha256"] == before["sha256"]  # the secret alone differs
    assert (newest["effect"], newest["inputSchema"]) == ("pure", {"type": "object"})
    with pytest.raises(IntegrityError), transaction.atomic():
        AgentVersion.objects.update(sha256="")
    operator.delete(url)
    assert not AgentVersion.objects.exists()


def test_lists_are_searched_filtered_and_paged(operator: APIClient, home: Workspace) -> None:
    for number in range(3):
        AgentFactory.create(workspace=home, agent_id=f"risk-{number}", capabilities=[{"name": "score"}])
    AgentFactory.create(workspace=home, agent_id="writer", tool_type="LLM", description="Writes 100% letters")
    AgentFactory.create(
        workspace=home,
        agent_id="off",
        enabled=False,
        environment="test",
        health="unhealthy",
        capabilities=[{"name": "read", "tags": ["pdf", "scan"]}],
    )
    AgentFactory.create(agent_id="foreign")

    def names(query: str) -> list[str]:
        return [agent["agentId"] for agent in operator.get(f"{AGENTS}?{query}").json()["agents"]]

    assert names("") == ["off", "risk-0", "risk-1", "risk-2", "writer"]
    assert names("search=LETTERS") == names("search=100%25") == names("toolType=LLM") == ["writer"]
    assert names("search=_") == []
    assert names("capability=score") == ["risk-0", "risk-1", "risk-2"]
    assert names("enabled=false") == names("tag=pdf") == names("health=unhealthy") == ["off"]
    assert names("environment=live") == ["risk-0", "risk-1", "risk-2", "writer"]
    assert len(names("environment=test")) == 5
    assert names(f"source={uuid4()}") == names("tag=score") == names("capability=sco") == []
    assert names("limit=2&offset=1") == ["risk-0", "risk-1"]
    assert names(f"workspaceId={uuid4()}") == []
    assert operator.get(f"{AGENTS}?limit=2").json()["total"] == 5
    for bad in ("limit=0", "limit=x", "toolType=Fax", "enabled=1", "workspaceId=x", "health=ill", "source=x"):
        assert operator.get(f"{AGENTS}?{bad}").status_code == 400


@pytest.mark.parametrize("count", [1, 20])
def test_a_list_costs_the_same_however_long(
    operator: APIClient, home: Workspace, count: int, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    AgentFactory.create_batch(count, workspace=home)
    with django_assert_max_num_queries(4):
        operator.get(AGENTS)


@pytest.mark.parametrize("role", Role)
def test_who_may_read_and_who_may_manage(home: Workspace, role: Role) -> None:
    client = client_of(member(home, role))
    manages = role in {Role.OPERATOR, Role.ADMIN}
    agent = AgentFactory.create(workspace=home)
    assert client.get(f"{AGENTS}/{agent.pk}").status_code == 200
    assert client.post(AGENTS, body(), format="json").status_code == (201 if manages else 403)
    assert client.put(f"{AGENTS}/{agent.pk}", body(agentId="x"), format="json").status_code == (
        200 if manages else 403
    )
    assert client.get(f"{AGENTS}/{agent.pk}/versions").status_code == 200
    assert client.patch(f"{AGENTS}/{agent.pk}", {"agentId": "y"}, format="json").status_code == (
        200 if manages else 403
    )
    assert client.delete(f"{AGENTS}/{agent.pk}").status_code == (200 if manages else 403)
    script = {"name": "s", "source": "print(1)"}
    assert client.post(SCRIPTS, script, format="json").status_code == (201 if manages else 403)


def test_strangers_find_nothing_and_nobody_gets_in_without_a_login(home: Workspace) -> None:
    agent, script = AgentFactory.create(workspace=home), ScriptFactory.create(workspace=home)
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    nobody = client_of(None)
    sent = body(workspaceId=str(home.pk))
    for url in (f"{AGENTS}/{agent.pk}", f"{SCRIPTS}/{script.pk}"):
        assert stranger.get(url).json()["code"] == stranger.get(f"{AGENTS}/{uuid4()}").json()["code"]
        assert (stranger.get(url).status_code, stranger.delete(url).status_code) == (404, 404)
        assert (nobody.get(url).status_code, nobody.delete(url).status_code) == (401, 401)
    assert stranger.put(f"{AGENTS}/{agent.pk}", body(), format="json").status_code == 404
    assert stranger.patch(f"{AGENTS}/{agent.pk}", {}, format="json").status_code == 404
    assert stranger.get(f"{AGENTS}/{agent.pk}/versions").status_code == 404
    assert stranger.post(AGENTS, sent, format="json").status_code == 404
    assert stranger.get(AGENTS).json()["total"] == stranger.get(SCRIPTS).json()["total"] == 0
    assert nobody.post(AGENTS, sent, format="json").status_code == 401


def test_a_member_of_several_workspaces_names_one(home: Workspace) -> None:
    user = member(home, Role.OPERATOR)
    from agentflow.governance.services.workspaces import grant

    other = WorkspaceFactory.create()
    grant(user=user, role=Role.OPERATOR, workspace=other)
    client = client_of(user)
    assert pointers(client.post(AGENTS, body(), format="json")) == {"/workspaceId"}
    made = client.post(AGENTS, body(workspaceId=str(other.pk)), format="json")
    assert made.json()["workspaceId"] == str(other.pk)


def test_scripts_are_registered_read_and_kept_while_used(operator: APIClient, home: Workspace) -> None:
    sent = {"name": "score", "source": "  \nprint(1)\n", "timeoutSeconds": 5}
    made = operator.post(SCRIPTS, sent, format="json")
    assert made.status_code == 201, made.content
    answer = made.json()
    assert (answer["timeoutSeconds"], len(answer["sha256"])) == (5, 64)
    assert operator.get(made["Location"]).json()["source"] == sent["source"]
    assert [row["name"] for row in operator.get(f"{SCRIPTS}?search=sco").json()["scripts"]] == ["score"]
    assert operator.post(SCRIPTS, sent, format="json").json()["code"] == "script_exists"
    agent = body(toolType="Script", configuration={"script": "score"})
    agent_url = operator.post(AGENTS, agent, format="json")["Location"]
    assert operator.delete(made["Location"]).json()["code"] == "script_in_use"
    operator.delete(agent_url)
    assert operator.delete(made["Location"]).status_code == 200
    assert not Script.objects.exists()


def test_a_script_goes_on_in_versions_and_agents_may_name_an_old_one(
    operator: APIClient, home: Workspace
) -> None:
    def source(number: int) -> str:
        return f"import json, sys; print({number} * json.load(sys.stdin))"

    first = {"name": "times", "source": source(1), "inputSchema": {"type": "integer"}}
    url = operator.post(SCRIPTS, first, format="json")["Location"]
    second = {"source": source(2), "limits": {"memoryMb": 128}, "timeoutSeconds": 5}
    for _ in range(2):  # the same again is no third
        made = operator.post(f"{url}/versions", second, format="json")
        assert (made.status_code, made.json()["version"]) == (201, 2)
    versions = operator.get(f"{url}/versions").json()["versions"]
    assert [(each["version"], each["limits"]) for each in versions] == [(2, {"memoryMb": 128}), (1, {})]
    assert operator.get(f"{url}/versions/1").json()["source"] == source(1)
    assert operator.get(f"{url}/versions/3").status_code == 404
    assert operator.get(url).json()["source"] == source(2)

    tried = operator.post(f"{url}/try", {"input": 21}, format="json").json()
    assert (tried["status"], tried["output"], tried["failure"]) == ("completed", 42, None)
    tried = operator.post(f"{url}/try", {"input": "x", "version": 1}, format="json").json()
    assert (tried["status"], tried["failure"]["code"]) == ("failed", "script_input_mismatch")
    assert operator.post(f"{url}/try", {"version": 3}, format="json").status_code == 404

    agent = body(toolType="Script", configuration={"script": "times", "version": 3})
    issue = operator.post(AGENTS, agent, format="json").json()["issues"][0]
    assert (issue["pointer"], issue["code"]) == ("/configuration/version", "unknown_script_version")
    for version, expected in ((1, 21), (2, 42), (None, 42)):
        agent_id = f"times-{version}"
        configuration = {"script": "times"} | ({"version": version} if version else {})
        agent = body(agentId=agent_id, toolType="Script", configuration=configuration)
        assert operator.post(AGENTS, agent, format="json").status_code == 201
        call = Call(home.pk, uuid4(), "b", 1, agent_id, None, {"version": 1}, 21, 10.0, "key")
        assert getattr(invoke(call), "output", None) == expected
    with pytest.raises(IntegrityError), transaction.atomic():
        ScriptVersion.objects.update(source="print(1)")
    actions = AuditEntry.objects.filter(target_type="script").values_list("action", flat=True)
    assert set(actions) == {"script.register", "script.version", "script.try"}


def test_scripts_are_tried_and_changed_by_those_who_manage_them(home: Workspace) -> None:
    viewer = client_of(member(home, Role.VIEWER))
    stranger = client_of(member(WorkspaceFactory.create(), Role.OPERATOR))
    url = f"{SCRIPTS}/{ScriptFactory.create(workspace=home).pk}"
    for action in ("try", "versions"):
        assert viewer.post(f"{url}/{action}", {"source": "1"}, format="json").status_code == 403
        assert stranger.post(f"{url}/{action}", {"source": "1"}, format="json").status_code == 404


@pytest.mark.parametrize(
    ("sent", "pointer"),
    [
        ({"language": "perl"}, "/language"),
        ({"limits": {"memoryMb": 1}}, "/limits/memoryMb"),
        ({"limits": {"cores": 4}}, "/limits/cores"),
        ({"inputSchema": {"pattern": "("}}, "/inputSchema/pattern"),
        ({"source": "def ("}, "/source"),
        ({"source": ""}, "/source"),
        ({"source": "x" * 70_000}, "/source"),
        ({"name": ""}, "/name"),
        ({"timeoutSeconds": 0}, "/timeoutSeconds"),
        ({"timeoutSeconds": 1e9}, "/timeoutSeconds"),
        ({"sha256": "0"}, "/sha256"),
    ],
)
def test_what_is_no_script(operator: APIClient, sent: dict[str, Any], pointer: str) -> None:
    response = operator.post(SCRIPTS, {"name": "s", "source": "print(1)", **sent}, format="json")
    assert response.status_code in {400, 422}
    assert pointer in pointers(response)


def test_agents_that_would_call_each_other_as_tools_are_refused(operator: APIClient) -> None:
    def talker(agent_id: str, *tools: str) -> dict[str, Any]:
        return body(agentId=agent_id, toolType="LLM", configuration={"tools": ["builtin.echo", *tools]})

    url = operator.post(AGENTS, talker("a", "b"), format="json")["Location"]  # which is not there yet
    refused = operator.post(AGENTS, talker("b", "a"), format="json").json()["issues"]
    at = "/configuration/tools/1"
    assert [(each["pointer"], each["code"]) for each in refused] == [(at, "tool_cycle")]
    assert refused[0]["message"] == "b calls a calls b, which is at work already."
    for chained in (("b", "c"), ("c", "d"), ("d",)):  # four with `a`
        assert operator.post(AGENTS, talker(*chained), format="json").status_code == 201
    deep = operator.post(AGENTS, talker("above", "a"), format="json").json()["issues"]
    assert [(each["pointer"], each["code"]) for each in deep] == [(at, "tools_too_deep")]
    itself = operator.patch(url, {"configuration": {"tools": ["a"]}}, format="json").json()["issues"]
    assert itself[0]["code"] == "tool_cycle"
