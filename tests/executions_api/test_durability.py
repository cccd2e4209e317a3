"""`durability` over REST: asked for, shown, refused."""

from __future__ import annotations

import pytest

from agentflow.errors import InvalidInput
from agentflow.workflow.parsing import parse
from tests.factories.executions import graph_definition
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import URL, Team


def test_a_start_names_its_durability_and_the_execution_shows_it(team: Team) -> None:
    template = TemplateFactory.create(workspace=team.workspace)
    TemplateVersionFactory.create(template=template, definition=graph_definition("a -> b", template.name))
    client = client_of(team.operator)
    shown = []
    for asked in ({}, {"durability": "strict"}, {"durability": None}):
        started = client.post(URL, {"templateId": str(template.pk), **asked}, format="json")
        assert started.status_code == 201
        shown.append(client.get(f"{URL}/{started.json()['executionId']}").json()["durability"])
    assert shown == ["group", "strict", "group"]
    refused = client.post(URL, {"templateId": str(template.pk), "durability": "sync"}, format="json")
    assert refused.status_code == 400
    assert [issue["pointer"] for issue in refused.json()["issues"]] == ["/durability"]


def test_a_template_with_another_durability_is_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(graph_definition("a -> b", "odd") | {"globalSettings": {"durability": "sync"}})
    assert [issue["pointer"] for issue in refused.value.issues] == ["/globalSettings/durability"]
