"""GET executions/{id}/blocks/{blockId}/items"""

from __future__ import annotations

import pytest

from executions.engine.walker import walk
from executions.services import starting
from tests.factories.governance import client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import Team, make_team

pytestmark = pytest.mark.django_db(transaction=True)
BLOCK = {"blockId": "a", "agentId": "builtin.echo", "forEach": {"items": "input.items"}}


@pytest.fixture
def team() -> Team:
    return make_team()


@pytest.fixture
def url(team: Team) -> str:
    template = TemplateFactory.create(workspace=team.workspace)
    definition = {"name": "Items", "blocks": [BLOCK, {"blockId": "b", "dependencies": ["a"]}]}
    version = TemplateVersionFactory.create(template=template, definition=definition)
    execution = starting.start(version=version, by=team.operator, input={"items": ["x", "y", "z" * 20_000]})
    walk(execution.pk)
    return f"/api/v1/executions/{execution.pk}"


def test_items_are_listed_in_their_order(team: Team, url: str) -> None:
    got = client_of(team.viewer).get(f"{url}/blocks/a/items").json()
    assert got["total"] == 3
    assert [(item["index"], item["item"], item["status"]) for item in got["items"][:2]] == [
        (0, "x", "completed"),
        (1, "y", "completed"),
    ]
    assert got["items"][1]["output"] == {"item": "y", "index": 1}
    assert got["items"][2]["item"] == {"bytes": 20_002}


def test_items_are_paged_and_filtered(team: Team, url: str) -> None:
    client = client_of(team.viewer)
    got = client.get(f"{url}/blocks/a/items?limit=1&offset=1").json()
    assert [item["index"] for item in got["items"]] == [1]
    assert client.get(f"{url}/blocks/a/items?status=failed").json() == {"items": [], "total": 0}


def test_a_block_without_items_has_none(team: Team, url: str) -> None:
    assert client_of(team.viewer).get(f"{url}/blocks/b/items").json() == {"items": [], "total": 0}


def test_each_block_of_the_execution_is_listed_once(team: Team, url: str) -> None:
    got = client_of(team.viewer).get(f"{url}/blocks").json()
    assert [block["blockId"] for block in got["blocks"]] == ["a", "b"]
    assert client_of(team.viewer).get(url).json()["progress"] == {"settled": 2, "total": 2}
