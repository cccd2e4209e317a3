from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from templates_app.models import Template, TemplateVersion
from tests.factories.templates import write_template

from .conftest import Team

pytestmark = pytest.mark.django_db
TEMPLATES = "admin:templates_app_template_changelist"
VERSIONS = "admin:templates_app_templateversion_changelist"


def staff(user: User) -> Client:
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user)
    return client


def act(client: Client, page: str, action: str, *rows: object) -> str:
    data = {"action": action, "_selected_action": [str(row) for row in rows]}
    return client.post(reverse(page), data, follow=True).content.decode()


def test_staff_see_their_workspaces_templates_only(team: Team, strangers: Team) -> None:
    mine = write_template(team.workspace, team.author, name="Ours")
    theirs = write_template(strangers.workspace, strangers.author, name="Theirs")
    client = staff(team.viewer)
    for page in (TEMPLATES, VERSIONS):
        text = client.get(reverse(page)).content.decode()
        assert "Ours" in text
        assert "Theirs" not in text
        assert strangers.workspace.name not in text
    for name, own, foreign in (
        ("template", mine.template_id, theirs.template_id),
        ("templateversion", mine.pk, theirs.pk),
    ):
        page = f"admin:templates_app_{name}_change"
        assert client.get(reverse(page, args=[own])).status_code == 200
        assert client.get(reverse(page, args=[foreign])).status_code == 302


def test_a_template_links_its_versions_and_a_version_shows_its_definition(team: Team) -> None:
    version = write_template(team.workspace, team.author, {"blockId": "<b>pay</b>"}, name="Refund")
    client = staff(team.author)
    shown = client.get(reverse("admin:templates_app_template_change", args=[version.template_id]))
    link = reverse("admin:templates_app_templateversion_change", args=[version.pk])
    assert link in shown.content.decode()
    text = client.get(link).content.decode()
    assert "&quot;blockId&quot;: &quot;&lt;b&gt;pay&lt;/b&gt;&quot;" in text


def test_the_box_searches_as_the_list_over_rest_does(team: Team) -> None:
    write_template(team.workspace, team.author, name="Refund")
    write_template(team.workspace, team.author, name="Release")
    text = staff(team.author).get(reverse(TEMPLATES), {"q": "refunds -release"}).content.decode()
    assert "Refund" in text
    assert "Release" not in text


def test_authors_publish_deprecate_and_remove(team: Team) -> None:
    version = write_template(team.workspace, team.author, status="draft")
    client = staff(team.author)
    act(client, TEMPLATES, "publish_newest", version.template_id)
    act(client, VERSIONS, "deprecate", version.pk)
    act(client, VERSIONS, "publish", version.pk)
    act(client, TEMPLATES, "deprecate_newest", version.template_id)
    act(client, TEMPLATES, "archive", version.template_id)
    assert not Template.objects.exists()
    actions = AuditEntry.objects.filter(target_type="template").order_by("id")
    assert [entry.action.removeprefix("template.") for entry in actions] == [
        "create",
        "publish",
        "deprecate",
        "publish",
        "deprecate",
        "delete",
    ]


def test_what_stands_against_a_version_is_shown_before_it_is_published(team: Team) -> None:
    asks = {"humanInLoop": {"type": "approval", "quorum": 9}}
    version = write_template(
        team.workspace, team.author, {"blockId": "pay", "name": "Pay <out>", **asks}, status="draft"
    )
    client = staff(team.author)
    for page, action, row in (
        (TEMPLATES, "publish_newest", version.template_id),
        (VERSIONS, "publish", version.pk),
    ):
        text = act(client, page, action, row)
        assert "Publish all the same?" in text
        assert "The level user needs 9, and " in text
        assert "Pay &lt;out&gt;" in text
        assert TemplateVersion.objects.get().status == "draft"
    data = {"action": "publish", "_selected_action": [str(version.pk)], "confirmed": "yes"}
    assert "Published: 1." in client.post(reverse(VERSIONS), data, follow=True).content.decode()
    assert TemplateVersion.objects.get().status == "published"


def test_viewers_are_offered_no_action(team: Team) -> None:
    version = write_template(team.workspace, team.author, status="draft")
    client = staff(team.viewer)
    for page, action, row in (
        (TEMPLATES, "publish_newest", version.template_id),
        (TEMPLATES, "archive", version.template_id),
        (VERSIONS, "publish", version.pk),
    ):
        act(client, page, action, row)
    assert TemplateVersion.objects.get().status == "draft"


def test_authors_elsewhere_are_refused_here(team: Team, strangers: Team) -> None:
    version = write_template(team.workspace, team.author, status="draft")
    grant(user=strangers.author, role=Role.VIEWER, workspace=team.workspace)
    text = act(staff(strangers.author), TEMPLATES, "publish_newest", version.template_id)
    assert "You may not write templates in this workspace." in text
    assert TemplateVersion.objects.get().status == "draft"


@pytest.mark.parametrize("page", [TEMPLATES, VERSIONS])
def test_a_longer_list_costs_no_more_queries(team: Team, page: str) -> None:
    client = staff(team.author)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get(reverse(page)).status_code == 200
        assert not any('."definition"' in query["sql"] for query in queries)
        return len(queries)

    write_template(team.workspace, team.author)
    cost()  # fills caches
    few = cost()
    for _ in range(10):
        write_template(team.workspace, team.author)
    assert cost() == few
