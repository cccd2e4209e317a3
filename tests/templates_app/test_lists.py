from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from templates_app.models import Template
from templates_app.services import authoring
from tests.factories.templates import write_template

from .conftest import URL, Team

pytestmark = pytest.mark.django_db


def names(client: APIClient, **query: Any) -> list[str]:
    answer = client.get(URL, query)
    assert answer.status_code == 200, answer.content
    found = [line["name"] for line in answer.json()["templates"]]
    assert answer.json()["total"] >= len(found)
    return found


def test_a_line_describes_the_newest_version_without_its_blocks(author: APIClient, team: Team) -> None:
    write_template(
        team.workspace,
        team.author,
        {"blockId": "a"},
        {"blockId": "b"},
        name="Refund",
        description="Pays back.",
        version="2026",
        tags=["money"],
        metadata={"category": "support", "estimatedDuration": 60_000},
    )
    answer = author.get(URL).json()
    assert answer["total"] == 1
    (line,) = answer["templates"]
    assert line["name"] == "Refund"
    assert line["description"] == "Pays back."
    assert line["version"] == "2026"
    assert line["tags"] == ["money"]
    assert line["metadata"] == {"category": "support", "estimatedDuration": 60_000}
    assert (line["blockCount"], line["versionNumber"], line["status"]) == (2, 1, "published")
    assert "blocks" not in line
    (full,) = author.get(URL, {"expand": "blocks"}).json()["templates"]
    assert [block["blockId"] for block in full["blocks"]] == ["a", "b"]


def test_tags_must_all_match_and_may_be_repeated_or_listed(author: APIClient, team: Team) -> None:
    write_template(team.workspace, team.author, name="both", tags=["money", "eu", "more"])
    write_template(team.workspace, team.author, name="one", tags=["money"])
    assert names(author, tags="money") == ["one", "both"]
    assert names(author, tags="money,eu") == ["both"]
    assert names(author, tags=["eu", "money"]) == ["both"]
    assert names(author, tags="mon") == []


def test_category_is_matched_exactly(author: APIClient, team: Team) -> None:
    write_template(team.workspace, team.author, name="a", metadata={"category": "support"})
    write_template(team.workspace, team.author, name="b", metadata={"category": "supporters"})
    assert names(author, category="support") == ["a"]


def test_search_ranks_a_hit_in_the_name_above_one_in_the_text(author: APIClient, team: Team) -> None:
    write_template(team.workspace, team.author, name="Onboarding", description="Refunding is elsewhere.")
    write_template(team.workspace, team.author, name="Customer refund")
    write_template(team.workspace, team.author, name="Release")
    write_template(
        team.workspace, team.author, {"blockId": "x1", "name": "Issue the refunds"}, name="Month's end"
    )
    assert names(author, search="refund")[0] == "Customer refund"
    assert sorted(names(author, search="refund")) == ["Customer refund", "Month's end", "Onboarding"]


def test_search_understands_phrases_alternatives_and_exclusion(author: APIClient, team: Team) -> None:
    for name in ("Review a document", "Document, then review", "Release train"):
        write_template(team.workspace, team.author, name=name)
    assert names(author, search='"review document"') == []
    assert names(author, search='"review a document"') == ["Review a document"]
    assert sorted(names(author, search="train or review")) == [
        "Document, then review",
        "Release train",
        "Review a document",
    ]
    assert names(author, search="release -review") == ["Release train"]
    assert names(author, search="document -review") == []


@pytest.mark.parametrize("search", ["the", "'", "&|!()", '"', "-", ":*", "\\", "é", "a" * 500])
def test_no_search_text_is_an_error(author: APIClient, team: Team, search: str) -> None:
    write_template(team.workspace, team.author)
    assert author.get(URL, {"search": search}).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "501"},
        {"limit": "x"},
        {"offset": "-1"},
        {"workspaceId": "x"},
        {"expand": "all"},
        {"search": "a" * 501},
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(
    author: APIClient, team: Team, query: dict[str, str]
) -> None:
    answer = author.get(URL, query)
    assert answer.status_code == 400
    assert answer.json()["issues"][0]["pointer"] == f"?{next(iter(query))}"


@pytest.mark.parametrize("name", ["search", "tags", "category"])
def test_a_nul_in_the_query_is_refused(author: APIClient, team: Team, name: str) -> None:
    assert author.get(URL, {name: "a\x00b"}).status_code == 400


def test_pages_follow_each_other_without_gap_or_repeat(author: APIClient, team: Team) -> None:
    for number in range(7):
        write_template(team.workspace, team.author, name=f"T{number}")
    pages = [names(author, limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [name for page in pages for name in page] == [f"T{number}" for number in reversed(range(7))]
    assert author.get(URL, {"limit": 3}).json()["total"] == 7


def test_the_latest_change_comes_first(author: APIClient, team: Team) -> None:
    first = write_template(team.workspace, team.author, name="first")
    write_template(team.workspace, team.author, name="second")
    authoring.deprecate_version(template_id=first.template_id, number=1, by=team.author)
    assert names(author) == ["first", "second"]


def test_an_archived_template_is_in_no_list_but_can_still_be_read(author: APIClient, team: Team) -> None:
    version = write_template(team.workspace, team.author, name="Old")
    Template.objects.filter(pk=version.template_id).update(archived_at=timezone.now())
    url = f"{URL}/{version.template_id}"
    assert names(author) == names(author, search="old") == []
    assert author.get(url).json()["archivedAt"] is not None
    refused = author.put(url, {"name": "New", "blocks": [{"blockId": "a"}]}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "template_archived")
    author.post(f"{url}/versions/1/deprecate")
    assert author.post(f"{url}/versions/1/publish").json()["code"] == "template_archived"


def test_only_the_named_workspace_is_listed(author: APIClient, team: Team, strangers: Team) -> None:
    write_template(team.workspace, team.author, name="mine")
    write_template(strangers.workspace, strangers.author, name="theirs")
    assert names(author) == names(author, workspaceId=team.workspace.pk) == ["mine"]
    assert names(author, workspaceId=strangers.workspace.pk) == []


def test_a_longer_list_costs_no_more_queries(author: APIClient, team: Team) -> None:
    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            author.get(URL, {"search": "template", "limit": "50"})
        return len(queries)

    write_template(team.workspace, team.author)
    few = cost()
    for _ in range(15):
        write_template(team.workspace, team.author)
    assert cost() == few <= 8


def test_ten_thousand_long_names_fit_into_the_search_index(author: APIClient, team: Team) -> None:
    blocks = [{"blockId": f"{n:05}/{'x.y-' * 40}{n}", "name": f"a-{n}-b {n}"} for n in range(10_000)]
    write_template(team.workspace, team.author, *blocks, name="Enormous", description="needle " * 9_000)
    assert names(author, search="enormous needle") == ["Enormous"]
