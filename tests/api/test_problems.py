from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.factories.governance import UserFactory, client_of

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.api.urls")]
FIELDS = {"type", "title", "status", "code", "detail", "remedy", "issues", "instance", "requestId"}


@pytest.fixture
def client() -> APIClient:
    return client_of(UserFactory.create())


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.content)
    assert set(body) == FIELDS
    assert (body["status"], body["code"]) == (status, code)
    assert body["requestId"] == answer["X-Request-ID"]
    return body


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("invalid", 400, "invalid_input"),
        ("permitted", 403, "not_permitted"),
        ("found", 404, "not_found"),
        ("conflict", 409, "conflict"),
        ("unavailable", 503, "unavailable"),
        ("database", 503, "unavailable"),
        ("broken", 500, "internal_error"),
    ],
)
def test_every_error_is_a_problem_without_its_inside(
    client: APIClient, what: str, status: int, code: str
) -> None:
    body = problem(client.get(f"/api/raise/{what}"), status, code)
    assert "hunter2" not in str(body)
    assert "secret" not in str(body)


def test_an_invalid_input_points_and_an_absent_service_says_when_to_return(client: APIClient) -> None:
    body = problem(client.get("/api/raise/invalid"), 400, "invalid_input")
    assert body["issues"] == [
        {"pointer": "/a", "code": "invalid_input", "message": "Wrong.", "remedy": "Mend it."}
    ]
    assert client.get("/api/raise/unavailable")["Retry-After"] == "7"


def test_an_errors_facts_are_members_beside_the_others_and_take_the_place_of_none(client: APIClient) -> None:
    body = client.get("/api/raise/facts").json()
    assert (body["status"], body["code"]) == (409, "conflict")
    assert {name: body[name] for name in body.keys() - FIELDS} == {"claimedBy": "an\ufffdna", "attempt": 2}


@pytest.mark.parametrize(
    ("send", "status", "code"),
    [
        (lambda c: c.get("/api/nowhere"), 404, "not_found"),
        (lambda c: c.delete("/api/echo"), 405, "method_not_allowed"),
        (lambda c: c.get("/api/echo", HTTP_ACCEPT="text/html"), 406, "not_acceptable"),
        (lambda c: c.post("/api/echo", "a=1", content_type="text/plain"), 415, "unsupported_media_type"),
        (lambda c: c.post("/api/echo", {"a": 1}, format="multipart"), 415, "unsupported_media_type"),
        (lambda c: raw(c, b"{}", "application/json; charset=latin-1"), 415, "unsupported_media_type"),
        (lambda c: raw(c, b"{}", HTTP_CONTENT_ENCODING="gzip"), 415, "unsupported_media_type"),
        (lambda c: raw(c, b"{nope"), 400, "malformed_json"),
        (lambda c: raw(c, b"[1]"), 400, "invalid_json"),
        (lambda c: raw(c, b"null"), 400, "invalid_json"),
        (lambda c: raw(c, b'{"a": NaN}'), 400, "invalid_json"),
        (lambda c: raw(c, b"x" * 1_048_577), 413, "body_too_large"),
        (lambda c: c.get("/api/echo?id=%00"), 400, "nul"),
        (lambda c: c.get("/api/e%00cho"), 400, "nul"),
        (lambda c: raw(c, b"", HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH=""), 411, "length_required"),
    ],
)
def test_what_the_framework_refuses_is_a_problem_too(
    client: APIClient, send: Callable[[APIClient], Any], status: int, code: str
) -> None:
    problem(send(client), status, code)


def raw(client: Any, body: bytes, content_type: str = "application/json", **meta: Any) -> Any:
    return client.generic("POST", "/api/echo", body, content_type=content_type, **meta)


def test_a_view_may_welcome_any_root_and_more_bytes(client: APIClient) -> None:
    sender: Any = client

    def kind(body: bytes) -> Any:
        return sender.generic("POST", "/api/anything", body, content_type="application/json")

    assert kind(b"[1]").json() == {"kind": "list"}
    assert kind(b"").json() == {"kind": "dict"}
    assert kind(b'"' + b"x" * 2_500_000 + b'"').json() == {"kind": "str"}
    assert kind(b'"' + b"x" * 3_000_000 + b'"').status_code == 413


def test_an_unexpected_failure_outside_the_framework_is_a_problem_as_well(client: APIClient) -> None:
    client.raise_request_exception = False
    body = problem(client.get("/api/breaks"), 500, "internal_error")
    assert "secret" not in str(body)


def test_a_request_keeps_its_id_if_it_is_a_sensible_one(client: APIClient) -> None:
    given = client.get("/api/nowhere", HTTP_X_REQUEST_ID="my-request.0001")
    assert given["X-Request-ID"] == given.json()["requestId"] == "my-request.0001"
    made = client.get("/api/nowhere", HTTP_X_REQUEST_ID='<script>"')
    assert len(made["X-Request-ID"]) == 32


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=٣", "limit"),
        ("limit=1_0", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("id=1", "id"),
        ("id=%ff", "id"),
    ],
)
def test_a_bad_parameter_is_named(client: APIClient, query: str, named: str) -> None:
    body = problem(client.get(f"/api/echo?{query}"), 400, "invalid_parameter")
    assert body["issues"][0]["pointer"] == f"?{named}"


def test_pages_have_sensible_defaults(client: APIClient) -> None:
    assert client.get("/api/echo?limit=&offset=").json() == {"limit": 50, "offset": 0, "id": "None"}


def test_a_body_is_taken_as_it_is_spelt(client: APIClient) -> None:
    body = {
        "displayName": "x",
        "text": "",
        "count": None,
        "ratio": 1,
        "active": True,
        "ownerId": "6b7f6f0a-0000-4000-8000-000000000000",
        "dueAt": "2026-01-01T00:00:00Z",
        "labels": {"a": "b"},
        "anything": [1, "x", None],
        "parts": [{"partName": "p", "amount": 1}],
    }
    answer = client.post("/api/echo", body)
    assert answer.status_code == 200, answer.json()
    assert "display_name" in answer.json()["names"]


def test_every_misfit_is_pointed_at_in_one_answer(client: APIClient) -> None:
    body = {
        "displayName": 5,
        "count": "3",
        "ratio": True,
        "active": "true",
        "kind": 1,
        "ownerId": 12,
        "dueAt": 0,
        "text": "x" * 70_000,
        "tags": ["a", 1, None],
        "labels": {"a/b": 1},
        "parts": [{"partName": "p"}, {"partName": 1, "amount": True, "extra": 1}],
        "display_name": "x",
        "created": "by me",
    }
    found = problem(client.post("/api/echo", body), 400, "invalid_input")["issues"]
    assert {(issue["pointer"], issue["code"]) for issue in found} == {
        ("/displayName", "wrong_type"),
        ("/count", "wrong_type"),
        ("/ratio", "wrong_type"),
        ("/active", "wrong_type"),
        ("/kind", "wrong_type"),
        ("/ownerId", "wrong_type"),
        ("/dueAt", "wrong_type"),
        ("/text", "wrong_type"),
        ("/tags/1", "wrong_type"),
        ("/labels/a~1b", "wrong_type"),
        ("/parts/1/partName", "wrong_type"),
        ("/parts/1/amount", "wrong_type"),
        ("/parts/1/extra", "unknown_field"),
        ("/display_name", "unknown_field"),
        ("/created", "unknown_field"),
    }


def test_a_missing_field_and_one_that_breaks_a_rule_of_its_own(client: APIClient) -> None:
    missing = problem(client.post("/api/echo", {}), 400, "invalid_input")
    assert [(i["pointer"], i["code"]) for i in missing["issues"]] == [("/displayName", "required")]
    own = problem(client.post("/api/echo", {"displayName": "forbidden"}), 400, "invalid_input")
    assert [(i["pointer"], i["code"]) for i in own["issues"]] == [("/displayName", "forbidden_name")]
