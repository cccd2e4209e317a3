"""A business key is unique among the executions of a template that have not ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from executions.models import Execution
from executions.services import control, starting
from executions.services.starting import BusinessKeyTaken
from templates_app.models import Template
from tests.factories.executions import graph_definition
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import URL, Team, make_team


def template_of(team: Team) -> Template:
    template = TemplateFactory.create(workspace=team.workspace)
    TemplateVersionFactory.create(template=template, definition=graph_definition("a -> b", template.name))
    return template


def start(by: Any, template: Template, key: Any, **headers: Any) -> Any:
    body = {"templateId": str(template.pk), "businessKey": key}
    return client_of(by).post(URL, body, format="json", **headers)


def end(execution_id: str, by: Any) -> None:
    control.cancel(execution_id=Execution.objects.get(pk=execution_id).pk, by=by)
    assert Execution.objects.get(pk=execution_id).completed_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_second_execution_with_the_key_waits_for_the_first_to_end(team: Team) -> None:
    template = template_of(team)
    first = start(team.operator, template, "order-7")
    assert first.status_code == 201
    refused = start(team.operator, template, "order-7")
    assert (refused.status_code, refused.json()["code"]) == (409, "business_key_active")
    assert first.json()["executionId"] in refused.json()["detail"]
    assert start(team.operator, template, "order-8").status_code == 201
    assert start(team.operator, template_of(team), "order-7").status_code == 201
    end(first.json()["executionId"], team.operator)
    assert start(team.operator, template, "order-7").status_code == 201


def test_executions_without_a_key_do_not_stand_in_each_others_way(team: Team) -> None:
    template = template_of(team)
    assert [start(team.operator, template, None).status_code for _ in range(2)] == [201, 201]


def test_executions_are_found_by_their_key(team: Team) -> None:
    template = template_of(team)
    started = start(team.operator, template, "order 7/ä").json()["executionId"]
    start(team.operator, template, "other")
    found = client_of(team.viewer).get(URL, {"businessKey": "order 7/ä"}).json()
    assert [(one["executionId"], one["businessKey"]) for one in found["executions"]] == [
        (started, "order 7/ä")
    ]
    assert client_of(team.stranger).get(URL, {"businessKey": "order 7/ä"}).json()["total"] == 0
    body = {"command": "cancel", "filter": {"businessKey": "other"}}
    assert client_of(team.operator).post(f"{URL}/batch", body, format="json").json()["matched"] == 1


def test_a_restart_takes_the_key_again_unless_another_has_it(team: Team) -> None:
    template = template_of(team)
    first = start(team.operator, template, "k").json()["executionId"]
    end(first, team.operator)
    second = start(team.operator, template, "k").json()["executionId"]
    refused = client_of(team.operator).post(f"{URL}/{first}/restart", {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "business_key_active")
    assert second in refused.json()["detail"]
    assert Execution.objects.get(pk=first).epoch == 1
    end(second, team.operator)
    assert client_of(team.operator).post(f"{URL}/{first}/restart", {}, format="json").status_code == 200
    assert start(team.operator, template, "k").status_code == 409


def test_a_repeated_request_is_the_same_execution(team: Team) -> None:
    template = template_of(team)
    answers = [start(team.operator, template, "k", HTTP_IDEMPOTENCY_KEY="once").json() for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("key", ["", " ", "x" * 201, True, {"a": 1}, "a\0b"])
def test_a_key_is_a_short_text(team: Team, key: Any) -> None:
    response = start(team.operator, template_of(team), key)
    assert response.status_code == 400
    assert [issue["pointer"] for issue in response.json()["issues"]] == ["/businessKey"]
    assert not Execution.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_starts_at_once_one_has_the_key() -> None:
    team = make_team()
    version = template_of(team).versions.get()
    barrier = threading.Barrier(4)
    said: list[str] = []

    def attempt() -> None:
        try:
            barrier.wait()
            starting.start(version=version, by=team.operator, input={}, business_key="k")
            said.append("started")
        except BusinessKeyTaken:
            said.append("refused")
        finally:
            connection.close()

    _all_at_once(attempt, 4)
    assert sorted(said) == ["refused", "refused", "refused", "started"]
    assert Execution.objects.filter(business_key="k").count() == 1
    assert Execution.objects.count() == 1


def _all_at_once(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
