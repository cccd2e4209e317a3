from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from rest_framework.test import APIClient

from agentflow.governance.models import AuditEntry
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from templates_app.models import Template, TemplateVersion
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of
from tests.factories.templates import write_template

from .conftest import URL, Team, body

pytestmark = pytest.mark.django_db


def test_a_created_template_is_answered_in_full_and_found_at_its_location(
    author: APIClient, team: Team
) -> None:
    sent = body({"blockId": "pay", "configuration": {"z": 1, "a": 2}}, version="1.0-beta", tags=["money"])
    made = author.post(URL, sent, format="json")
    assert made.status_code == 201, made.content
    answer = made.json()
    assert {name: answer[name] for name in sent} == sent
    assert answer["workspaceId"] == str(team.workspace.pk)
    assert answer["versionNumber"] == answer["publishedVersion"] == 1
    assert answer["status"] == "published"
    assert answer["createdBy"] == team.author.username
    assert len(answer["contentHash"]) == 64
    assert made["ETag"] == f'"{answer["contentHash"]}"'
    assert author.get(made["Location"]).json() == answer


def test_objects_keep_the_order_their_author_gave_their_keys(author: APIClient) -> None:
    schema = {"type": "object", "properties": {"reason": {}, "amount": {}, "a": {}}}
    asked = {"type": "input", "inputSchema": schema}
    made = author.post(URL, body({"blockId": "ask", "humanInLoop": asked}), format="json").json()
    stored = author.get(f"{URL}/{made['templateId']}").json()
    properties = stored["blocks"][0]["humanInLoop"]["inputSchema"]["properties"]
    assert list(properties) == ["reason", "amount", "a"]


def test_what_was_got_can_be_put_back_and_changes_nothing(author: APIClient) -> None:
    made = author.post(
        URL, body({"blockId": "a", "configuration": {"rate": 1.0, "big": 1e3}}), format="json"
    ).json()
    url = f"{URL}/{made['templateId']}"
    got = author.get(url)
    put = author.put(url, got.json(), format="json", headers={"If-Match": got["ETag"]})
    assert put.status_code == 200, put.content
    assert put.json() == got.json()
    assert TemplateVersion.objects.count() == 1
    assert AuditEntry.objects.filter(action__startswith="template.").count() == 1


def test_a_put_makes_a_new_version_and_leaves_the_old_one_as_it_was(author: APIClient) -> None:
    first = author.post(URL, body(), format="json").json()
    url = f"{URL}/{first['templateId']}"
    second = author.put(
        url, body({"blockId": "pay"}, {"blockId": "tell"}, name="Refunds"), format="json"
    ).json()
    assert (second["versionNumber"], second["publishedVersion"]) == (2, 2)
    assert second["contentHash"] != first["contentHash"]
    assert author.get(url).json() == second
    old = author.get(f"{url}?version=1").json()
    assert (old["name"], old["blocks"]) == ("Refund", first["blocks"])
    assert author.get(f"{url}/versions/1").json() == old
    assert author.get(f"{url}?version=3").status_code == 404
    history = author.get(f"{url}/versions").json()
    assert history["total"] == 2
    assert [line["versionNumber"] for line in history["versions"]] == [2, 1]


def test_a_draft_is_not_what_a_start_takes_until_it_is_published(author: APIClient) -> None:
    made = author.post(URL, body(), format="json").json()
    url = f"{URL}/{made['templateId']}"
    draft = author.put(url, body({"blockId": "new"}, status="draft"), format="json").json()
    assert (draft["status"], draft["versionNumber"], draft["publishedVersion"]) == ("draft", 2, 1)
    # Put back as it is, it stays a draft; without the word, it is published.
    assert author.put(url, draft, format="json").json()["status"] == "draft"
    published = author.put(url, body({"blockId": "new"}), format="json").json()
    assert (published["status"], published["versionNumber"], published["publishedVersion"]) == (
        "published",
        2,
        2,
    )


def test_publish_and_deprecate_move_the_version_a_start_takes_and_may_be_repeated(author: APIClient) -> None:
    made = author.post(URL, body(status="draft"), format="json").json()
    url = f"{URL}/{made['templateId']}"
    assert made["publishedVersion"] is None
    for _ in range(2):
        answer = author.post(f"{url}/versions/1/publish", {}, format="json")
        assert (answer.status_code, answer.json()["status"]) == (200, "published")
    assert author.get(url).json()["publishedVersion"] == 1
    for _ in range(2):
        answer = author.post(f"{url}/versions/1/deprecate")
        assert (answer.status_code, answer.json()["status"]) == (200, "deprecated")
    assert author.get(url).json()["publishedVersion"] is None
    assert author.post(f"{url}/versions/9/publish").status_code == 404
    assert author.post(f"{url}/versions/1/publish", {"x": 1}, format="json").status_code == 400
    moves = AuditEntry.objects.filter(action__startswith="template.").order_by("id")
    assert [entry.action for entry in moves] == ["template.create", "template.publish", "template.deprecate"]


def test_a_deprecated_template_got_and_put_back_stays_deprecated(author: APIClient) -> None:
    made = author.post(URL, body(), format="json").json()
    url = f"{URL}/{made['templateId']}"
    author.post(f"{url}/versions/1/deprecate")
    got = author.get(url).json()
    assert author.put(url, got, format="json").json() == got
    refused = author.put(url, {**got, "name": "Changed"}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_new_status")
    assert refused.json()["issues"][0]["pointer"] == "/status"


@pytest.mark.parametrize("tag", ['"{hash}"', '"1"', "1", 'W/"{hash}"', "*"])
def test_a_put_that_names_the_newest_version_is_taken(author: APIClient, tag: str) -> None:
    made = author.post(URL, body(), format="json").json()
    header = {"If-Match": tag.format(hash=made["contentHash"])}
    put = author.put(f"{URL}/{made['templateId']}", body(name="New"), format="json", headers=header)
    assert put.status_code == 200, put.content


@pytest.mark.parametrize("tag", ['"2"', '"0000"', '"{hash}"'])
def test_a_put_that_names_an_older_version_is_refused(author: APIClient, tag: str) -> None:
    made = author.post(URL, body(), format="json").json()
    url = f"{URL}/{made['templateId']}"
    newest = author.put(url, body(name="Meanwhile"), format="json").json()
    author.put(url, body(name="Once more"), format="json")
    header = {"If-Match": tag.format(hash=newest["contentHash"])}
    refused = author.put(url, body(name="Mine"), format="json", headers=header)
    assert (refused.status_code, refused.json()["code"]) == (412, "stale_version")
    assert refused["Content-Type"] == "application/problem+json"
    assert author.get(url).json()["name"] == "Once more"


def test_a_malformed_if_match_is_refused(author: APIClient) -> None:
    made = author.post(URL, body(), format="json").json()
    refused = author.put(
        f"{URL}/{made['templateId']}", body(), format="json", headers={"If-Match": '"1", "2"'}
    )
    assert refused.status_code == 400


def test_a_template_that_never_ran_is_really_deleted(author: APIClient) -> None:
    made = author.post(URL, body(), format="json").json()
    url = f"{URL}/{made['templateId']}"
    assert author.delete(url).json() == {"success": True}
    assert author.get(url).status_code == author.delete(url).status_code == 404
    assert not Template.objects.exists()
    assert not TemplateVersion.objects.exists()
    assert AuditEntry.objects.get(action="template.delete").target_id == made["templateId"]


def test_a_template_that_ran_is_archived_and_its_execution_keeps_its_version(
    author: APIClient, team: Team
) -> None:
    version = write_template(team.workspace, team.author, name="Ran")
    execution = ExecutionFactory.create(template_version=version)
    url = f"{URL}/{version.template_id}"
    for _ in range(2):
        assert author.delete(url).json() == {"success": True}
    assert author.get(url).json()["archivedAt"] is not None
    assert author.get(URL).json()["total"] == 0
    execution.refresh_from_db()
    assert execution.template_version.definition["name"] == "Ran"
    assert AuditEntry.objects.filter(action="template.archive").count() == 1


def test_the_same_post_with_one_idempotency_key_makes_one_template(author: APIClient) -> None:
    headers = {"Idempotency-Key": "b6d1"}
    first = author.post(URL, body(), format="json", headers=headers)
    second = author.post(URL, body(), format="json", headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert Template.objects.count() == 1
    other = author.post(URL, body(name="Else"), format="json", headers=headers)
    assert other.status_code == 409


def test_a_member_of_several_workspaces_says_which(team: Team, strangers: Team) -> None:
    grant(user=team.author, role=Role.VIEWER, workspace=strangers.workspace)
    client = client_of(team.author)
    refused = client.post(URL, body(), format="json")
    assert refused.status_code == 400
    assert refused.json()["issues"][0]["pointer"] == "/workspaceId"
    mine = client.post(URL, body(workspaceId=str(team.workspace.pk)), format="json")
    assert mine.status_code == 201
    visible = client.post(URL, body(workspaceId=str(strangers.workspace.pk)), format="json")
    assert (visible.status_code, visible.json()["code"]) == (403, "not_permitted")
    absent = client.post(URL, body(workspaceId=str(uuid4())), format="json")
    assert absent.status_code == 404


ROLES = ["viewer", "author", "operator", "approver", "admin"]
WRITERS = {"author", "admin"}


@pytest.mark.parametrize("role", ROLES)
def test_everyone_of_the_workspace_reads_and_only_authors_write(
    author: APIClient, team: Team, role: str
) -> None:
    url = f"{URL}/{author.post(URL, body(), format='json').json()['templateId']}"
    client = client_of(getattr(team, role))
    for path in (URL, url, f"{url}/versions", f"{url}/versions/1"):
        assert client.get(path).status_code == 200, path
    writes = {
        client.post(URL, body(), format="json").status_code: 201,
        client.put(url, body(name="X"), format="json").status_code: 200,
        client.post(f"{url}/validate", {}, format="json").status_code: 200,
        client.post(f"{url}/versions/1/deprecate").status_code: 200,
        client.post(f"{url}/versions/1/publish").status_code: 200,
        client.delete(url).status_code: 200,
    }
    assert set(writes) == ({200, 201} if role in WRITERS else {403})


def _foreign(author: APIClient) -> str:
    return str(author.post(URL, body(), format="json").json()["templateId"])


def _absent(author: APIClient) -> str:
    return str(uuid4())


@pytest.mark.parametrize("relation", [_foreign, _absent])
def test_foreign_and_absent_templates_look_the_same(
    relation: Callable[[APIClient], str], author: APIClient, strangers: Team
) -> None:
    client = client_of(strangers.admin)
    url = f"{URL}/{relation(author)}"
    answers = [
        client.get(url),
        client.get(f"{url}?version=1"),
        client.put(url, body(), format="json"),
        client.delete(url),
        client.post(f"{url}/validate", {}, format="json"),
        client.get(f"{url}/versions"),
        client.get(f"{url}/versions/1"),
        client.post(f"{url}/versions/1/publish"),
        client.post(f"{url}/versions/1/deprecate"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["detail"] for answer in answers} == {"There is no such template."}
    assert client.get(URL).json() == {"templates": [], "total": 0}


def test_nobody_reads_without_signing_in(author: APIClient) -> None:
    url = f"{URL}/{author.post(URL, body(), format='json').json()['templateId']}"
    for path in (URL, url, f"{url}/versions"):
        assert Client().get(path).status_code == 401


def test_the_definition_of_a_version_cannot_be_changed_even_in_sql(author: APIClient) -> None:
    author.post(URL, body(), format="json")
    with pytest.raises(IntegrityError), transaction.atomic():
        TemplateVersion.objects.update(definition={"name": "Forged", "blocks": []})
    with pytest.raises(IntegrityError), transaction.atomic():
        TemplateVersion.objects.update(number=7)
    assert TemplateVersion.objects.get().definition["name"] == "Refund"


@pytest.mark.parametrize("method", ["patch", "post"])
def test_other_methods_are_refused(author: APIClient, method: str) -> None:
    made = author.post(URL, body(), format="json").json()
    assert getattr(author, method)(f"{URL}/{made['templateId']}", {}, format="json").status_code == 405
