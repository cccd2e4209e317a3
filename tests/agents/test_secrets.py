from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from agentflow.agents import registry
from agentflow.agents.calls import Completed
from agentflow.agents.invocation import called_back
from agentflow.agents.redaction import HIDDEN, Redactor
from agentflow.governance import vault
from agentflow.governance.models import AuditEntry, Secret, Workspace
from agentflow.governance.roles import Role
from agentflow.governance.services import secrets
from agentflow.governance.services.secrets import put_secret
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.factories.governance import UserFactory, WorkspaceFactory, client_of, member
from tests.servers import Exchange, HttpServer

from .conftest import Invoke, failure_of, output_of

CANARY = 'kän{a}ry/7+"=&\\ 0123'
SECRETS = "/api/v1/secrets"


def keep(workspace: Workspace, name: str = "KEY", value: str = CANARY) -> Secret:
    boss = UserFactory.create(is_superuser=True)
    return put_secret(by=boss, workspace_id=workspace.pk, name=name, value=value)[0]


# -- taking them out -------------------------------------------------------------


FORMS = [
    lambda text: text,
    lambda text: json.dumps({"a": text}),
    lambda text: json.dumps(json.dumps({"a": text})),
    lambda text: json.dumps(text, ensure_ascii=False).replace("/", "\\/"),
    lambda text: quote(text, safe=""),
    quote,
    quote_plus,
    lambda text: quote(text, safe="").lower() if text.islower() else quote(text),
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.urlsafe_b64encode(f"user:{text}".encode()).decode(),
    lambda text: base64.b64encode(f"a{text}!".encode()).decode(),
    lambda text: repr(text),
]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=12, max_size=40).filter(
        lambda text: text == text.strip() and len(set(text)) > 4
    ),
    st.sampled_from(FORMS),
)
def test_every_form_of_a_secret_is_taken_out(secret: str, form: Any) -> None:
    cleaned = Redactor([secret]).clean({"said": [f"<{form(secret)}>"], form(secret): 1})
    (shown,) = cleaned["said"]
    assert secret not in json.dumps(cleaned, ensure_ascii=False)
    assert HIDDEN in shown
    assert form(secret) not in shown


def test_numbers_lines_and_halves_of_a_secret_are_taken_out() -> None:
    redactor = Redactor(["4711471147", "-----BEGIN-----\nMIIBVQIBADANBgkq\n-----END-----"])
    assert redactor.clean({"pin": 4711471147, "n": 4711}) == {"pin": HIDDEN, "n": 4711}
    assert redactor.clean("key: MIIBVQIBADANBgkq") == f"key: {HIDDEN}"
    assert redactor.clean_excerpt({"body": "... 47114711"}) == {"body": f"... {HIDDEN}"}
    assert redactor.clean_excerpt("1147 and so on") == "1147 and so on"
    assert redactor.clean_excerpt("11471147 and so on") == f"{HIDDEN} and so on"


# -- calls -----------------------------------------------------------------------


def echoed(exchange: Exchange) -> None:
    token = exchange.headers.get("authorization", "").removeprefix("Bearer ")
    sent = base64.b64encode(token.encode()).decode()
    exchange.json({"token": token, "path": exchange.path, "b64": sent, token: exchange.body.decode()})


def agent(workspace: Workspace, server: HttpServer, **configuration: Any) -> None:
    AgentFactory.create(
        workspace=workspace,
        agent_id="echo",
        configuration={"url": server.url("/"), "method": "POST", **configuration},
    )


def test_a_call_gets_the_secret_and_nobody_else_does(
    call: Invoke, workspace: Workspace, server: HttpServer
) -> None:
    keep(workspace, value="canary-0123456789")
    server.on("/canary-0123456789", echoed)
    agent(
        workspace,
        server,
        url=server.url("/${secrets.KEY}"),
        headers={"Authorization": "Bearer ${secrets.KEY}"},
        query={"k": "${ secrets.KEY }"},
        body={"deep": ["${secrets.KEY}"]},
    )
    lines: list[str] = []
    output = output_of(call("echo", log=lambda level, message: lines.append(message)))
    (seen,) = server.seen
    assert seen.path == "/canary-0123456789?k=canary-0123456789"
    assert json.loads(seen.body) == {"deep": ["canary-0123456789"]}
    assert seen.headers["authorization"] == "Bearer canary-0123456789"
    assert "canary" not in json.dumps(output) + json.dumps(lines)
    assert isinstance(output, dict)
    assert output["token"] == output["b64"] == HIDDEN


def test_an_error_repeats_no_secret_not_even_half_of_it(
    call: Invoke, workspace: Workspace, server: HttpServer
) -> None:
    keep(workspace, value="canary-0123456789")
    agent(workspace, server, headers={"Authorization": "${secrets.KEY}"})
    server.on("/", lambda exchange: exchange.reply(b"x" * 488 + b"canary-0123456789", 500))
    failure = failure_of(call("echo"))
    assert failure.code == "http_500"
    assert "canary" not in json.dumps(failure.as_json())


def test_a_missing_secret_is_named_and_nothing_is_sent(
    call: Invoke, workspace: Workspace, server: HttpServer
) -> None:
    agent(workspace, server, headers={"Authorization": "${secrets.NOT_THERE}"})
    keep(WorkspaceFactory.create(), name="NOT_THERE")
    failure = failure_of(call("echo"))
    assert (failure.kind, failure.code) == ("configuration", "unknown_secret")
    assert "NOT_THERE" in failure.message
    assert server.seen == []


def test_a_template_and_an_input_get_no_secret(
    call: Invoke, workspace: Workspace, server: HttpServer
) -> None:
    keep(workspace, value="canary-0123456789")
    agent(workspace, server, headers={"X-Own": "${secrets.KEY}"})
    server.on("/", lambda exchange: exchange.json(1))
    reference = "${secrets.KEY}"
    call(
        "echo",
        {"n": reference},
        configuration={"headers": {"X-B": reference}, "body": [reference], "method": "POST"},
    )
    bare = {"url": server.url("/"), "method": "POST", "headers": {"X-B": reference}}
    call(None, {"n": reference}, tool_type="API", configuration=bare)
    assert [seen.headers["x-b"] for seen in server.seen] == [reference, reference]
    assert all(b"canary" not in seen.body for seen in server.seen)


def test_a_secret_with_braces_cannot_reach_for_the_input(
    call: Invoke, workspace: Workspace, server: HttpServer
) -> None:
    keep(workspace, value="abc{customer}def")
    agent(workspace, server, query={"k": "${secrets.KEY}"})
    failure = failure_of(call("echo", {"customer": "Ada"}))
    assert failure.code == "unusable_secret"
    assert "customer" not in failure.message
    assert server.seen == []


def test_a_script_gets_it_in_its_environment(call: Invoke, workspace: Workspace) -> None:
    keep(workspace, value="canary-0123456789")
    source = (
        "import os, sys, json\nk = os.environ['API_KEY']\nprint(k, file=sys.stderr)\nprint(json.dumps(k))"
    )
    AgentFactory.create(
        workspace=workspace,
        agent_id="script",
        tool_type="Script",
        configuration={
            "script": ScriptFactory.create(workspace=workspace, source=source).name,
            "environment": {"API_KEY": "${secrets.KEY}"},
        },
    )
    lines: list[str] = []
    assert output_of(call("script", log=lambda level, message: lines.append(message))) == HIDDEN
    assert lines == [HIDDEN]


def test_what_is_brought_later_is_cleaned_too_even_of_the_secret_before(workspace: Workspace) -> None:
    keep(workspace, value="canary-before-1")
    keep(workspace, value="canary-after-22")
    AgentFactory.create(
        workspace=workspace,
        agent_id="late",
        configuration={"url": "https://api.example/", "headers": {"X-Key": "${secrets.KEY}"}},
    )
    outcome = called_back(workspace.pk, "late", Completed(["canary-before-1", "canary-after-22"]))
    assert output_of(outcome) == [HIDDEN, HIDDEN]


# -- where a reference may stand ---------------------------------------------------


@pytest.mark.parametrize(
    ("tool_type", "configuration", "pointer", "code"),
    [
        ("LLM", {"prompt": "Use ${secrets.KEY}"}, "/prompt", "secret_not_allowed"),
        ("LLM", {"baseUrl": "https://llm.example", "apiKey": "sk-clear"}, "/apiKey", "secret_in_clear"),
        ("API", {"headers": {"Authorization": "Bearer x"}}, "/headers/Authorization", "secret_in_clear"),
        ("API", {"headers": {"${secrets.KEY}": "x"}}, "/headers/${secrets.KEY}", "secret_not_allowed"),
        ("API", {"headers": {"A": "${secrets.no-name}"}}, "/headers/A", "bad_secret_reference"),
        ("API", {"response": {"path": "${secrets.KEY}"}}, "/response/path", "secret_not_allowed"),
        ("API", {"url": "https://${secrets.KEY}/x"}, "/url", "secret_not_allowed"),
        ("UseCase", {"input": {"a": ["${secrets.KEY}"]}}, "/input/a/0", "secret_not_allowed"),
    ],
)
def test_where_a_reference_cannot_stand(
    workspace: Workspace, tool_type: str, configuration: dict[str, Any], pointer: str, code: str
) -> None:
    basics = {"url": "https://api.example/"} if tool_type == "API" else {}
    basics |= {"templateId": "00000000-0000-0000-0000-000000000000"} if tool_type == "UseCase" else {}
    sent = {
        "agentId": "a",
        "name": "A",
        "toolType": tool_type,
        "configuration": {**basics, **configuration},
    }
    refused = client_of(member(workspace, Role.OPERATOR)).post("/api/v1/agents", sent, format="json")
    assert [(issue["pointer"], issue["code"]) for issue in refused.json()["issues"]] == [
        (f"/configuration{pointer}", code)
    ]


# -- the store ---------------------------------------------------------------------


def test_a_secret_is_written_replaced_deleted_and_never_read(workspace: Workspace) -> None:
    client = client_of(member(workspace, Role.ADMIN))
    assert client.put(f"{SECRETS}/KEY", {"value": CANARY}, format="json").status_code == 201
    again = client.put(f"{SECRETS}/KEY", {"value": CANARY + "2"}, format="json")
    assert again.status_code == 200
    listed = client.get(SECRETS).json()
    assert [set(each) for each in listed["secrets"]] == [{"name", "workspaceId", "createdAt", "updatedAt"}]
    assert "ry/7" not in json.dumps(listed) + again.content.decode()
    assert client.get(f"{SECRETS}/KEY").status_code == 405
    assert "ry/7" not in str(list(Secret.objects.values()) + list(AuditEntry.objects.values()))
    assert client.delete(f"{SECRETS}/KEY").json() == {"success": True}
    assert client.delete(f"{SECRETS}/KEY").status_code == 404
    actions = AuditEntry.objects.filter(target_type="secret").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["secret.set", "secret.set", "secret.delete"]


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
def test_only_administrators_have_to_do_with_secrets(workspace: Workspace, role: Role) -> None:
    keep(workspace)
    client = client_of(member(workspace, role))
    assert client.get(SECRETS).json() == {"secrets": [], "total": 0}
    assert client.put(f"{SECRETS}/KEY", {"value": CANARY}, format="json").status_code == 403
    assert client.delete(f"{SECRETS}/KEY").status_code == 403
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    foreign = {"value": CANARY, "workspaceId": str(workspace.pk)}
    assert stranger.put(f"{SECRETS}/KEY", foreign, format="json").status_code == 404
    assert stranger.delete(f"{SECRETS}/KEY").status_code == 404
    assert client_of(None).get(SECRETS).status_code == 401


@pytest.mark.parametrize(
    ("name", "body", "pointer"),
    [
        ("no-name", {"value": CANARY}, "/name"),
        ("9A", {"value": CANARY}, "/name"),
        ("KEY", {"value": "short"}, "/value"),
        ("KEY", {"value": "x" * 16_385}, "/value"),
        ("KEY", {}, "/value"),
        ("KEY", {"value": 12345678}, "/value"),
    ],
)
def test_what_is_no_secret(workspace: Workspace, name: str, body: dict[str, Any], pointer: str) -> None:
    refused = client_of(member(workspace, Role.ADMIN)).put(f"{SECRETS}/{name}", body, format="json")
    assert refused.status_code in {400, 422}
    assert [issue["pointer"] for issue in refused.json()["issues"]] == [pointer]


def test_the_admin_writes_secrets_and_shows_none(workspace: Workspace) -> None:
    user = member(workspace, Role.ADMIN, is_staff=True)
    from django.test import Client

    client = Client()
    client.force_login(user)
    pages = "/admin/governance/secret/"
    sent = {"workspace": str(workspace.pk), "name": "KEY", "value": CANARY}
    assert client.post(f"{pages}add/", sent).status_code == 302
    secret = Secret.objects.get()
    assert vault.opened(secret.sealed, workspace_id=workspace.pk, name="KEY") == CANARY
    assert client.post(f"{pages}{secret.pk}/change/", {"value": "short"}).status_code == 200
    assert client.post(f"{pages}{secret.pk}/change/", {"value": CANARY + "2"}).status_code == 302
    for page in (pages, f"{pages}{secret.pk}/change/"):
        shown = client.get(page).content.decode()
        assert "KEY" in shown
        assert "ry/7" not in shown
        assert secret.sealed not in shown
    assert client.post(f"{pages}{secret.pk}/delete/", {"post": "yes"}).status_code == 302
    assert AuditEntry.objects.filter(action="secret.delete").count() == 1
    operator = Client()
    operator.force_login(member(workspace, Role.OPERATOR, is_staff=True))
    assert operator.get(pages).status_code == 403


def test_keys_are_rotated_and_the_old_one_can_go(workspace: Workspace, settings: Settings) -> None:
    from cryptography.fernet import Fernet

    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.AGENTFLOW_SECRET_KEYS = [old]
    secret = keep(workspace)
    settings.AGENTFLOW_SECRET_KEYS = [new, old]
    call_command("rotate_secrets", verbosity=0)
    settings.AGENTFLOW_SECRET_KEYS = [new]
    secret.refresh_from_db()
    assert vault.opened(secret.sealed, workspace_id=workspace.pk, name="KEY") == CANARY
    settings.AGENTFLOW_SECRET_KEYS = [old]
    with pytest.raises(CommandError, match="KEY"):
        call_command("rotate_secrets", verbosity=0)
    assert AuditEntry.objects.filter(action="secret.rotate").count() == 1


def test_a_secret_no_key_opens_is_a_failure_that_names_it(
    call: Invoke, workspace: Workspace, server: HttpServer, settings: Settings
) -> None:
    keep(workspace)
    agent(workspace, server, headers={"Authorization": "${secrets.KEY}"})
    settings.SECRET_KEY = "another-installation-0123456789-0123456789"
    assert failure_of(call("echo")).code == "unknown_secret"


def test_a_ciphertext_in_another_row_opens_nothing(workspace: Workspace) -> None:
    sealed = keep(workspace).sealed
    with pytest.raises(vault.CannotOpen):
        vault.opened(sealed, workspace_id=workspace.pk, name="OTHER")
    with pytest.raises(vault.CannotOpen):
        vault.opened(sealed, workspace_id=WorkspaceFactory.create().pk, name="KEY")


def test_a_secret_is_read_once_in_a_while(
    call: Invoke, workspace: Workspace, server: HttpServer, django_assert_num_queries: Any
) -> None:
    keep(workspace)
    agent(workspace, server, headers={"X-Key": "x"}, query={"k": "1"})
    server.on("/", lambda exchange: exchange.json(1))
    call("echo")
    with django_assert_num_queries(0):
        call("echo")
    registry.forget()


def test_credentials_in_configurations_are_moved(workspace: Workspace) -> None:
    from importlib import import_module

    from django.apps import apps

    configuration = {"url": "https://api.example/", "headers": {"Authorization": "Bearer canary-1", "A": "b"}}
    made = AgentFactory.create(workspace=workspace, agent_id="erp.orders", configuration=configuration)
    move = import_module("agentflow.agents.migrations.0004_credentials_are_secrets")
    move._seal(apps, None)
    move._seal(apps, None)
    made.refresh_from_db()
    name = "AGENT_ERP_ORDERS_AUTHORIZATION"
    assert made.configuration["headers"] == {"Authorization": f"${{secrets.{name}}}", "A": "b"}
    secret = Secret.objects.get()
    assert vault.opened(secret.sealed, workspace_id=workspace.pk, name=name) == "Bearer canary-1"
    assert AuditEntry.objects.filter(action="secret.set", target_id=str(secret.pk)).count() == 1


def test_the_check_says_nothing_of_the_value() -> None:
    with pytest.raises(secrets.BadSecret) as refused:
        secrets.check("9", "canary")
    assert "canary" not in str(refused.value.issues)
