from __future__ import annotations

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from templates_app.models import Template

from .conftest import URL, body

pytestmark = pytest.mark.django_db


def send(client: APIClient, text: str | bytes) -> Any:
    return client.post(URL, text, content_type="application/json")


def test_all_that_is_malformed_is_told_at_once_with_pointers(author: APIClient) -> None:
    answer = author.post(
        URL,
        {
            "blocks": [{"id": "a"}, {"blockId": "b", "timeout": "5s"}, {"blockId": 3}],
            "stauts": "draft",
            "status": "live",
            "workspaceId": "here",
            "tags": "money",
        },
        format="json",
    )
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert {issue["pointer"] for issue in problem["issues"]} >= {
        "/name",
        "/stauts",
        "/status",
        "/workspaceId",
        "/tags",
        "/blocks/0/id",
        "/blocks/0/blockId",
        "/blocks/1/timeout",
        "/blocks/2/blockId",
    }
    assert all(issue["message"] and issue["remedy"] for issue in problem["issues"])
    assert not Template.objects.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"name": "a", "name": "b", "blocks": [{"blockId": "a"}]}',
        '{"name": "a\\u0000", "blocks": [{"blockId": "a"}]}',
        '{"name": "\\ud800", "blocks": [{"blockId": "a"}]}',
        '{"name": "a", "blocks": [{"blockId": "a", "configuration": {"x": NaN}}]}',
        '{"name": "a", "blocks": [{"blockId": "a", "configuration": {"x": 1e400}}]}',
        '{"name": "a", "blocks": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"name": "a", "blocks": [{"blockId": "' + "x" * 201 + '"}]}',
        '{"name": "' + "x" * 100_000 + '", "blocks": [{"blockId": "a"}]}',
        '{"name": "a", "blocks": []}',
        '{"name": "a", "blocks": [{"blockId": "a", "priority": true}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_definition_is_refused_with_a_problem(author: APIClient, text: str | bytes) -> None:
    answer = send(author, text)
    assert answer.status_code == 400, answer.content[:300]
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert not Template.objects.exists()


def test_a_body_above_sixteen_megabytes_is_not_read(author: APIClient) -> None:
    assert send(author, b" " * (16 * 1024 * 1024 + 1)).status_code == 413


def test_a_definition_that_contradicts_itself_is_422_with_all_issues(author: APIClient) -> None:
    answer = author.post(
        URL,
        body(
            {"blockId": "a", "dependencies": ["b"]},
            {"blockId": "b", "dependencies": ["a"]},
            {"blockId": "c", "dependencies": ["nowhere"]},
            {"blockId": "c"},
            {"blockId": "d", "when": "unknown.name > 1"},
        ),
        format="json",
    )
    assert answer.status_code == 422
    assert answer["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid_definition"
    errors = [issue for issue in problem["issues"] if issue["severity"] == "error"]
    places = " ".join(issue["pointer"] for issue in errors)
    assert "/blocks/2/dependencies/0" in places
    assert "/blocks/3/blockId" in places
    assert "/blocks/4/when" in places
    assert len(errors) >= 4
    assert not Template.objects.exists()


def test_a_put_of_a_wrong_definition_changes_nothing(author: APIClient) -> None:
    made = author.post(URL, body(), format="json").json()
    url = f"{URL}/{made['templateId']}"
    wrong = body({"blockId": "a", "dependencies": ["nowhere"]})
    assert author.put(url, wrong, format="json").status_code == 422
    assert author.put(url, {"name": "x"}, format="json").status_code == 400
    assert author.get(url).json() == made


def test_three_megabytes_in_1738_blocks_are_taken_and_given_back(author: APIClient) -> None:
    filler = "x" * 1700
    blocks = [
        {
            "blockId": f"step {n}",
            "agentId": f"agent{n % 9}",
            "configuration": {"note": filler, "simulate": {"runtimeSeconds": n / 7}},
            "dependencies": [f"step {n // 2}"] if n else [],
        }
        for n in range(1738)
    ]
    text = json.dumps(body(*blocks))
    assert len(text) > 3_000_000
    made = send(author, text)
    assert made.status_code == 201, made.content[:500]
    url = f"{URL}/{made.json()['templateId']}"
    assert author.get(url).json()["blocks"] == blocks
    put = author.put(url, made.content, content_type="application/json")
    assert (put.status_code, put.json()["versionNumber"]) == (200, 1)
    listed = author.get(URL)
    assert listed.json()["templates"][0]["blockCount"] == 1738
    assert len(listed.content) < 2_000
