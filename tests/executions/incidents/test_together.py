"""Many incidents by one command, incidents on the command line, and where they are linked and told of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from rest_framework.test import APIClient

from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from executions.incidents import feed, repair_steps
from executions.incidents.models import Incident
from executions.models import Execution
from executions.narration import sentence
from tests.factories.governance import WorkspaceFactory, client_of, member

from ..conftest import Start, drain, template
from .test_repairs import absent, count_all

PATH = "/api/v1/incidents"


@pytest.fixture
def failed(run: Start) -> Execution:
    """A run with an incident for each of two blocks."""
    execution = run(template(absent("a"), absent("b")), input={"n": 2})
    count_all()
    return execution


@pytest.fixture
def api(author: User) -> APIClient:
    return client_of(author)


def batch(api: APIClient, *, status: int = 200, **body: Any) -> JSONObject:
    answer = api.post(f"{PATH}/batch", body, format="json")
    assert answer.status_code == status, answer.content
    found: JSONObject = answer.json()
    return found


def told_of(incident: Incident) -> list[str]:
    found = Event.objects.filter(type__startswith="incident_", payload__incidentId=str(incident.pk))
    return list(found.order_by("pk").values_list("type", flat=True))


def test_one_command_is_done_to_all_that_match(failed: Execution, api: APIClient, author: User) -> None:
    of_run = {"executionId": str(failed.pk)}
    seen = batch(api, command="assign", to=author.username, filter=of_run, preview=True)
    assert (seen["matched"], [each["ok"] for each in seen["results"]]) == (2, [True, True])
    assert not Incident.objects.exclude(assignee=None).exists()
    batch(api, command="assign", to=author.username, filter={"blockId": "a"})
    assert list(Incident.objects.exclude(assignee=None).values_list("block_id", flat=True)) == ["a"]
    batch(api, command="snooze", until="2100-01-01T00:00:00Z", filter={"assignee": "-"})
    assert batch(api, command="wake", filter={"state": ["snoozed"]})["matched"] == 1
    said = batch(api, command="comment", text="The shop is away.", filter=of_run, limit=1)
    assert (said["matched"], said["left"], len(said["results"])) == (2, 1, 1)
    more = batch(api, command="comment", text="The shop is away.", filter=of_run, after=said["next"])
    assert (more["left"], more["next"]) == (0, None)
    ids = [str(pk) for pk in Incident.objects.order_by("pk").values_list("pk", flat=True)]
    batch(api, command="resolve", comment="Back.", filter={"ids": ids[:1]})
    result = batch(api, command="resolve", filter={"ids": [*ids, str(failed.pk)]})["results"]
    assert [(each["incidentId"], each["ok"], each.get("code")) for each in result] == [
        (ids[0], False, "incident_resolved"), (ids[1], True, None), (str(failed.pk), False, "not_found"),
    ]  # fmt: skip
    assert batch(api, command="resolve", filter=of_run)["matched"] == 0
    assert AuditEntry.objects.filter(action="incident.resolve").count() == 2
    assert told_of(Incident.objects.get(block_id="a"))[-1] == "incident_resolved"


def test_a_batch_that_makes_no_sense_or_is_not_allowed_does_nothing(
    failed: Execution, api: APIClient
) -> None:
    for body, at in (
        ({"command": "assign", "filter": {"blockId": "a"}}, "/to"),
        ({"command": "resolve", "filter": {"blockId": "a"}, "to": "x"}, "/to"),
        ({"command": "snooze", "filter": {"blockId": "a"}, "until": "soon"}, "/until"),
        ({"command": "resolve", "filter": {}}, "/filter"),
        ({"command": "explode", "filter": {"blockId": "a"}}, "/command"),
        ({"command": "resolve", "filter": {"ids": ["x"]}}, "/filter/ids/0"),
        ({"command": "resolve", "filter": {"colour": "red"}}, "/filter/colour"),
    ):
        assert batch(api, status=400, **body)["issues"][0]["pointer"] == at
    viewer = client_of(member(failed.workspace, Role.VIEWER))
    refused = batch(viewer, command="resolve", filter={"blockId": "a"})["results"]
    assert [each["code"] for each in refused] == ["not_permitted"]
    past = batch(api, command="snooze", until="2000-01-01T00:00:00Z", filter={"blockId": "a"})["results"]
    assert [each["code"] for each in past] == ["invalid_input"]
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    assert batch(stranger, command="resolve", all=True, filter={})["matched"] == 0
    assert set(Incident.objects.values_list("state", flat=True)) == {"open"}


def test_a_failed_step_leads_to_its_incident_and_back(failed: Execution, api: APIClient) -> None:
    incident = Incident.objects.get(block_id="a")
    shown = api.get(f"/api/v1/executions/{failed.pk}/blocks/a").json()
    assert shown["incidentId"] == str(incident.pk)
    flow = api.get(f"/api/v1/executions/{failed.pk}/recovery?blockId=a").json()["recovery"]
    assert [each["incidentId"] for each in flow] == [str(incident.pk)]
    back = api.get(f"{PATH}/{incident.pk}/blocks").json()["blocks"]
    assert [each["executionId"] for each in back] == [str(failed.pk)]
    staff, viewer = (member(failed.workspace, Role.VIEWER, is_staff=is_staff) for is_staff in (True, False))
    page = f"/admin/executions/incident/{incident.pk}/change/"
    step, healing = (f"/executions/{failed.pk}/{part}" for part in ("step?block=a", "healing"))
    for user, linked in ((staff, True), (viewer, False)):
        client = Client()
        client.force_login(user)
        for address in (step, healing):
            words = client.get(address).content.decode()
            assert (page in words) is linked, address
    client.force_login(staff)
    assert page in client.get(f"/admin/executions/execution/{failed.pk}/change/").content.decode()


def test_what_happens_to_an_incident_is_told_in_the_log_of_the_execution_that_failed_first(
    failed: Execution, api: APIClient, author: User
) -> None:
    incident = Incident.objects.get(block_id="a")
    api.post(f"{PATH}/{incident.pk}/snooze", {"until": "2100-01-01T00:00:00Z"}, format="json")
    Incident.objects.filter(pk=incident.pk).update(snoozed_until="2000-01-01T00:00:00Z")
    feed.wake()
    api.post(f"{PATH}/{incident.pk}/repairs", {"fix": {"action": "skip"}}, format="json")
    for _ in range(4):
        repair_steps.step()
        drain(failed)
    api.post(f"{PATH}/{incident.pk}/resolve", {}, format="json")
    told = ["incident_opened", "incident_reopened", "incident_repaired", "incident_resolved"]
    assert told_of(incident) == told
    log = api.get(f"/api/v1/executions/{failed.pk}/logs?limit=200").json()
    assert {each["type"] for each in log["logs"]} >= set(told)
    for event in Event.objects.filter(type__startswith="incident_", block_id="a"):
        words = sentence(event.type, event.block_id, event.payload)
        assert "incident of step “a”" in words or "step “a” with absent" in words
    again = Execution.objects.get(pk=failed.pk)
    assert Event.objects.filter(type="incident_opened", payload__again=True).count() == 0
    api.post(
        "/api/v1/executions",
        {"templateId": str(again.template_version.template_id), "input": {"n": 4}},
        format="json",
    )
    drain(Execution.objects.exclude(pk=failed.pk).get())
    count_all()
    assert Event.objects.filter(type="incident_opened", payload__again=True).count() == 1


def test_the_command_line_repairs_an_incident(
    failed: Execution, author: User, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*args: Any) -> Any:
        call_command("incidents", *map(str, args))
        return json.loads(capsys.readouterr().out)

    incident = Incident.objects.get(block_id="a")
    assert said("show", incident.pk)["blastRadius"]["blocksWaiting"] == 1
    fix = ("repair", incident.pk, "--by", author.username, "--fix")
    assert said(*fix, '{"action": "retry", "input": {"n": 3}}', "--dry-run")["does"] == {"tried_again": 1}
    begun = said(*fix, '{"action": "retry", "input": {"n": 3}}', "--reason", "Odd works.")
    assert begun["state"] == "canary"
    assert said("stop", begun["repairId"], "--by", author.username)["state"] == "stopped"
    with pytest.raises(CommandError, match="/agentId"):
        call_command("incidents", *map(str, fix), '{"action": "retry", "agentId": "nobody"}', "--dry-run")
    said(*fix, '{"action": "skip"}', "--all-at-once")
    repair_steps.step()
    assert [each["state"] for each in said("repairs", incident.pk)] == ["done", "stopped"]
    viewer = member(failed.workspace, Role.VIEWER)
    for args, words in (
        ((*fix, "{"), "no JSON"),
        ((*fix, '{"action": "dance"}'), "an action: retry"),
        ((*fix, '{"action": "skip", "output": 1}'), "does not take output"),
        ((*fix, '{"action": "move"}'), "needs templateVersion"),
        (("repair", incident.pk, "--by", viewer.username, "--fix", '{"action": "skip"}'), "You may not"),
        (("repair", incident.pk, "--by", "ghost", "--fix", "{}"), "no user 'ghost'"),
        (("show", failed.pk), "no such incident"),
    ):
        with pytest.raises(CommandError, match=words):
            call_command("incidents", *map(str, args))
