"""Several authors at once, on real connections and with real commits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection
from rest_framework.test import APIClient

from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring
from tests.factories.governance import client_of
from tests.factories.templates import write_template
from tests.waiting import PATIENCE_S

from .conftest import URL, Team, body, make_team

pytestmark = pytest.mark.django_db(transaction=True)
AT_ONCE = 6


@pytest.fixture
def team() -> Team:
    return make_team("acme")


def together(work: Callable[[int], int]) -> list[int]:
    """Run `work(0..n)` in threads that start at one moment."""
    gate = Barrier(AT_ONCE)

    def one(number: int) -> int:
        try:
            gate.wait(PATIENCE_S)
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(AT_ONCE)))


def test_puts_at_one_moment_get_numbers_without_gap_or_repeat(team: Team) -> None:
    version = write_template(team.workspace, team.author)
    url = f"{URL}/{version.template_id}"
    clients = [client_of(team.author) for _ in range(AT_ONCE)]

    def put(number: int) -> int:
        answer = clients[number].put(url, body(name=f"Writer {number}"), format="json")
        assert answer.status_code == 200, answer.content
        return int(answer.json()["versionNumber"])

    assert sorted(together(put)) == list(range(2, AT_ONCE + 2))
    newest = TemplateVersion.objects.order_by("-number")[0]
    assert Template.objects.get().name == newest.definition["name"]


def test_of_several_puts_on_one_version_one_wins(team: Team) -> None:
    version = write_template(team.workspace, team.author)
    url = f"{URL}/{version.template_id}"
    clients = [client_of(team.author) for _ in range(AT_ONCE)]
    header = {"If-Match": f'"{version.content_hash}"'}

    def put(number: int) -> int:
        return (
            clients[number].put(url, body(name=f"Writer {number}"), format="json", headers=header).status_code
        )

    assert sorted(together(put)) == [200, *[412] * (AT_ONCE - 1)]


def test_equal_puts_at_one_moment_make_one_version(team: Team) -> None:
    version = write_template(team.workspace, team.author)
    clients: list[APIClient] = [client_of(team.author) for _ in range(AT_ONCE)]

    def put(number: int) -> int:
        answer = clients[number].put(f"{URL}/{version.template_id}", body(), format="json")
        return int(answer.json()["versionNumber"])

    assert together(put) == [2] * AT_ONCE


def test_deletes_at_one_moment_delete_once(team: Team) -> None:
    version = write_template(team.workspace, team.author)
    clients = [client_of(team.author) for _ in range(AT_ONCE)]
    answers = together(lambda number: clients[number].delete(f"{URL}/{version.template_id}").status_code)
    assert sorted(answers) == [200, *[404] * (AT_ONCE - 1)]


def test_publishing_and_deprecating_at_one_moment_leave_one_of_the_two(team: Team) -> None:
    version = write_template(team.workspace, team.author, status="draft")

    def move(number: int) -> int:
        act = authoring.publish_version if number % 2 else authoring.deprecate_version
        return act(template_id=version.template_id, number=1, by=team.author).number

    assert together(move) == [1] * AT_ONCE
    version.refresh_from_db()
    assert version.status in {"published", "deprecated"}
