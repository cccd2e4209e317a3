"""A workspace's faults by REST and in the admin."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from agentflow.governance.models import User
from executions.faults.models import FaultInjection
from tests.factories.governance import client_of

from .conftest import Team

RULE = {"kind": "slow", "ms": 5, "share": 0.5, "toolTypes": ["API"]}
BODY = {"rules": [RULE], "minutes": 10, "seed": "s", "reason": "Try the ladders."}


def url(team: Team) -> str:
    return f"/api/v1/workspaces/{team.workspace.pk}/faults"


def post(user: User, path: str, body: Any = None) -> Any:
    return client_of(user).post(path, body, format="json")


def test_an_operator_begins_reads_and_ends_them(team: Team) -> None:
    made = post(team.operator, url(team), BODY)
    assert made.status_code == 201, made.content
    begun = made.json()
    assert (begun["active"], begun["rules"], begun["seed"], begun["counts"]) == (True, [RULE], "s", False)
    again = post(team.operator, url(team), BODY)
    assert (again.status_code, again.json()["code"]) == (409, "already_injecting")
    ended = post(team.operator, f"{url(team)}/stop").json()
    assert (ended["active"], ended["endedBecause"]) == (False, "stopped")
    assert post(team.operator, f"{url(team)}/stop").status_code == 404
    listed = client_of(team.viewer).get(url(team)).json()
    assert (listed["total"], listed["faults"][0]["faultsId"]) == (1, begun["faultsId"])


def test_who_may_not_is_refused(team: Team) -> None:
    assert post(team.viewer, url(team), BODY).status_code == 403
    assert post(team.author, url(team), BODY).status_code == 403
    assert post(team.stranger, url(team), BODY).status_code == 404
    assert client_of(team.stranger).get(url(team)).status_code == 404
    assert APIClient().get(url(team)).status_code == 401


def test_never_in_production(team: Team) -> None:
    team.workspace.environment = "production"
    team.workspace.save()
    refused = post(team.operator, url(team), BODY)
    assert (refused.status_code, refused.json()["code"]) == (409, "production_workspace")
    assert refused.json()["remedy"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"rules": []}, "/rules"),
        ({"rules": [{"kind": "slow", "ms": 1}]}, "/rules/0/share"),
        ({"rules": [{"kind": "slow", "share": 1}]}, "/rules/0/ms"),
        ({"rules": [{**RULE, "share": 1.5}]}, "/rules/0/share"),
        ({"rules": [{**RULE, "kind": "odd"}]}, "/rules/0/kind"),
        ({"rules": [{**RULE, "toolTypes": ["Fax"]}]}, "/rules/0/toolTypes/0"),
        ({"rules": [{**RULE, "templates": ["x"]}]}, "/rules/0/templates/0"),
        ({"rules": [{**RULE, "colour": 1}]}, "/rules/0/colour"),
        ({"rules": [RULE] * 21}, "/rules"),
        ({"minutes": 0}, "/minutes"),
        ({"minutes": 1441}, "/minutes"),
        ({"seed": "x" * 65}, "/seed"),
    ],
)
def test_what_is_wrong_is_pointed_at(team: Team, change: dict[str, Any], pointer: str) -> None:
    answer = post(team.operator, url(team), {**BODY, **change})
    assert answer.status_code == 400
    assert [issue["pointer"] for issue in answer.json()["issues"]] == [pointer]


def test_the_admin_begins_and_ends_them_and_the_list_warns(team: Team, client: Client) -> None:
    team.operator.is_staff = True
    team.operator.save()
    client.force_login(team.operator)
    form = {"workspace": team.workspace.pk, "minutes": 30, "seed": "", "reason": "Friday"}
    add = "/admin/executions/faultinjection/add/"
    empty = client.get(add).context["adminform"].form
    assert json.loads(empty["rules"].value())[0]["kind"] == "transient"  # an example to begin with
    refused = client.post(add, {**form, "rules": '[{"kind": "slow", "share": 1}]'}).content.decode()
    assert "0/ms: Say how many milliseconds longer it takes." in refused
    assert client.post(add, {**form, "rules": '[{"kind": "agent", "share": 0.1}]'}).status_code == 302
    made = FaultInjection.objects.get()
    assert (
        "already" in client.post(add, {**form, "rules": '[{"kind": "agent", "share": 1}]'}).content.decode()
    )
    shown = client.get(f"/admin/executions/faultinjection/{made.pk}/change/")
    assert (shown.status_code, b"Friday" in shown.content) == (200, True)
    page = client.get("/executions/").content.decode()
    assert "meet faults on purpose" in page
    assert b"meet faults on purpose" in client.get("/admin/executions/execution/").content
    change = {"action": "stop_selected", "_selected_action": str(made.pk)}
    client.post("/admin/executions/faultinjection/", change)
    made.refresh_from_db()
    assert made.ended_because == "stopped"
    assert "on purpose" not in client.get("/executions/").content.decode()
