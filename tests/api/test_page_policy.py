"""What browsers are told a page may do."""

from __future__ import annotations

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


def policy(reply: object) -> dict[str, str]:
    header = reply.headers["Content-Security-Policy"]  # type: ignore[attr-defined]
    return dict(part.split(" ", 1) for part in header.split("; "))


def test_a_page_may_run_its_own_scripts_only_and_talk_to_its_own_host_only() -> None:
    reply = Client().get("/login/", headers={"Host": "localhost"})
    told = policy(reply)
    assert told["script-src"] == "'self'"
    assert told["default-src"] == "'self'"
    assert told["connect-src"] == "'self' ws://localhost wss://localhost"
    assert told["frame-ancestors"] == told["object-src"] == told["base-uri"] == "'none'"
    assert reply.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in reply.headers["Permissions-Policy"]


@pytest.mark.parametrize("path", ["/no-such-page/", "/inbox/no-such-question/"])
def test_error_pages_are_under_the_policy_too(path: str) -> None:
    assert policy(Client().get(path))["script-src"] == "'self'"


def test_a_host_that_is_not_ours_is_not_repeated() -> None:
    reply = Client().get("/login/", headers={"Host": "evil.example"})
    assert reply.status_code == 400
    assert "evil.example" not in reply.headers.get("Content-Security-Policy", "")


@pytest.mark.parametrize("path", ["/admin/login/", "/api/docs"])
def test_the_admin_and_the_description_keep_what_their_libraries_need(path: str) -> None:
    assert "Content-Security-Policy" not in Client().get(path).headers
