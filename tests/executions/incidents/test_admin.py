"""Incidents in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from executions.incidents import feed, repair_steps
from executions.incidents.models import Incident
from executions.incidents.repair_models import RepairRun
from executions.models import Execution
from tests.factories.governance import member

from ..conftest import Start, block, drain, template

LIST = "/admin/executions/incident/"
FAILING = {"agentId": "test.absent", "input": {"n": "${input.n}"}, "retryPolicy": {"maxRetries": 0}}


@pytest.fixture
def failed(run: Start) -> Execution:
    execution = run(template(block("a", **FAILING)), input={"n": 2})
    feed.count()
    return execution


def signed_in(incident: Incident, *roles: Role, **fields: Any) -> Client:
    client = Client()
    client.force_login(member(incident.workspace, *roles, is_staff=True, **fields))
    return client


def messages_of(response: Any) -> list[str]:
    assert response.status_code == 200
    return [str(message) for message in response.context["messages"]]


def test_incidents_are_listed_found_and_looked_after_together(failed: Execution) -> None:
    incident = Incident.objects.get()
    client = signed_in(incident, Role.OPERATOR, username="ops")
    for query, shown in (
        ("", True),
        ("?q=10.0.0.2", True),
        ("?q=nowhere", False),
        ("?state=unresolved&assignee=nobody&simulated=no", True),
        ("?assignee=me", False),
    ):
        assert ("a: absent" in client.get(LIST + query).content.decode()) is shown, query
    chosen = {"_selected_action": [str(incident.pk)]}
    for action, said in (
        ("assign_selected", "Assigned: 1."),
        ("snooze_selected", "Snoozed: 1."),
        ("resolve_selected", "Resolved: 1."),
    ):
        assert messages_of(client.post(LIST, {"action": action, **chosen}, follow=True)) == [said]
    incident.refresh_from_db()
    assert (incident.state, str(incident.assignee)) == ("resolved", "ops")
    refused = messages_of(client.post(LIST, {"action": "resolve_selected", **chosen}, follow=True))
    assert refused == ["a: absent: The incident is resolved."]


def test_the_page_of_an_incident_repairs_it(failed: Execution) -> None:
    incident = Incident.objects.get()
    client = signed_in(incident, Role.OPERATOR)
    page = f"{LIST}{incident.pk}/"
    body = client.get(f"{page}change/").content.decode()
    for said in ("Order 2 of 10.0.0.2:80 is not there.", "step waits for a person", str(failed.pk)[:8]):
        assert said in body
    for what, given, said in (
        ("comment", {"text": "Away."}, "Commented."),
        ("comment", {}, "Say something. "),
        ("assign", {}, "Assigned."),
        ("snooze", {"for": "1h"}, "Snoozed."),
        ("wake", {}, "Open again."),
        ("stop", {}, "The repair has ended. "),
        ("dance", {}, "There is no such button. "),
    ):
        assert messages_of(client.post(f"{page}do/{what}/", given, follow=True)) == [said]
    fix = {"action": "retry", "input": '{"n": 3}', "reason": "why", "canary": "on"}
    seen = client.post(f"{page}do/plan/", fix).content.decode()
    assert "Dry run of 1: tried again: 1" in seen
    assert "{&quot;n&quot;: 3}" in seen
    assert not RepairRun.objects.exists()
    for wrong, words in (({"input": "{"}, "is no JSON"), ({"agent": "nobody"}, "no agent")):
        refused = client.post(f"{page}do/repair/", {**fix, **wrong})
        assert words in " ".join(messages_of(refused))
    assert messages_of(client.post(f"{page}do/repair/", fix, follow=True)) == ["The repair has begun."]
    assert "Stop the repair" in client.get(f"{page}change/").content.decode()
    for _ in range(4):
        repair_steps.step()
        drain(failed)
    assert failed.status == "completed"
    assert "Try again: 1 of 1 applied, 1 mended" in client.get(f"{page}change/").content.decode()
    assert messages_of(client.post(f"{page}do/resolve/", {"text": "Done."}, follow=True)) == ["Resolved."]


def test_others_look_or_see_nothing(failed: Execution) -> None:
    incident = Incident.objects.get()
    viewer = signed_in(incident, Role.VIEWER)
    page = viewer.get(f"{LIST}{incident.pk}/change/").content.decode()
    assert "Repair all" not in page
    assert viewer.post(f"{LIST}{incident.pk}/do/resolve/").status_code == 403
    stranger = Client()
    stranger.force_login(User.objects.create(username="stranger", is_staff=True))
    assert "a: absent" not in stranger.get(LIST).content.decode()
    assert stranger.post(f"{LIST}{incident.pk}/do/resolve/").status_code == 302
    assert Incident.objects.get().state == "open"
