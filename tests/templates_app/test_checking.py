from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from agentflow.agents.models import Agent
from agentflow.conf import LIMITS
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring, checking
from templates_app.states import VersionStatus
from tests.factories.templates import write_template

from .conftest import URL, Team, body

pytestmark = pytest.mark.django_db


def calls(template_id: object, block_id: str = "child", **configuration: object) -> JSONObject:
    return {
        "blockId": block_id,
        "toolType": "UseCase",
        "configuration": {"templateId": str(template_id), **configuration},
    }


def issues_of(version: TemplateVersion) -> set[tuple[str, str, str]]:
    return {(issue.severity, issue.code, issue.pointer) for issue in checking.start_issues(version)}


def register(team: Team, agent_id: str, **fields: object) -> Agent:
    return Agent.objects.create(
        workspace=team.workspace, agent_id=agent_id, name=agent_id, **{"tool_type": "API", **fields}
    )


def test_agents_that_are_missing_or_off_stand_against_a_start_and_not_against_storing(
    author: APIClient, team: Team, strangers: Team
) -> None:
    register(team, "known")
    register(team, "off", enabled=False)
    register(strangers, "theirs")
    blocks = [{"blockId": name, "agentId": name} for name in ("known", "off", "theirs", "builtin.echo")]
    made = author.post(URL, body(*blocks), format="json")
    assert made.status_code == 201
    report = author.post(f"{URL}/{made.json()['templateId']}/validate").json()
    assert report["valid"] is False
    assert {(issue["severity"], issue["code"], issue["pointer"]) for issue in report["issues"]} == {
        ("start", "agent_disabled", "/blocks/1/agentId"),
        ("start", "unknown_agent", "/blocks/2/agentId"),
    }
    assert all(issue["message"] and issue["remedy"] for issue in report["issues"])


def test_a_template_with_all_it_names_is_valid(author: APIClient, team: Team) -> None:
    version = write_template(team.workspace, team.author, {"blockId": "a", "agentId": "builtin.echo"})
    report = author.post(f"{URL}/{version.template_id}/validate", {}, format="json").json()
    assert report == {"valid": True, "issues": []}


def test_a_definition_in_the_body_is_checked_in_place_of_the_stored_one(
    author: APIClient, team: Team
) -> None:
    version = write_template(team.workspace, team.author)
    url = f"{URL}/{version.template_id}/validate"
    answer = author.post(url, body({"blockId": "a", "agentId": "nobody"}), format="json")
    assert [issue["code"] for issue in answer.json()["issues"]] == ["unknown_agent"]
    malformed = author.post(url, {"name": 1, "blocks": [{"id": "x"}]}, format="json")
    assert malformed.status_code == 200
    assert malformed.json()["valid"] is False
    assert {issue["pointer"] for issue in malformed.json()["issues"]} == {
        "/name",
        "/blocks/0/blockId",
        "/blocks/0/id",
    }
    assert TemplateVersion.objects.count() == 1


def test_a_version_is_named_to_be_checked(author: APIClient, team: Team) -> None:
    version = write_template(team.workspace, team.author, {"blockId": "a", "agentId": "nobody"})
    url = f"{URL}/{version.template_id}"
    author.put(url, body(), format="json")
    assert author.post(f"{url}/validate").json()["valid"] is True
    assert author.post(f"{url}/validate?version=1").json()["valid"] is False
    assert author.post(f"{url}/validate?version=5").status_code == 404


def test_approval_levels_are_the_workspaces_own(team: Team) -> None:
    version = write_template(
        team.workspace,
        team.author,
        {"blockId": "a", "humanInLoop": {"approvalLevel": "nobody.knows"}},
        {"blockId": "b", "humanInLoop": {"approvalLevel": "user"}},
        {"blockId": "c", "humanInLoop": {"required": False, "approvalLevel": "unused"}},
        globalSettings={"humanInLoopDefaults": {"approvalLevel": "no.default"}},
    )
    assert issues_of(version) == {
        ("start", "unknown_approval_level", "/globalSettings/humanInLoopDefaults/approvalLevel"),
        ("start", "unknown_approval_level", "/blocks/0/humanInLoop/approvalLevel"),
    }


def test_a_called_template_must_be_there_published_and_ours(team: Team, strangers: Team) -> None:
    good = write_template(team.workspace, team.author)
    draft = write_template(team.workspace, team.author, status="draft")
    foreign = write_template(strangers.workspace, strangers.author)
    archived = write_template(team.workspace, team.author)
    Template.objects.filter(pk=archived.template_id).update(archived_at=archived.created_at)
    version = write_template(
        team.workspace,
        team.author,
        calls(good.template_id, "good"),
        calls(good.template_id, "pinned", version=1),
        calls(uuid4(), "absent"),
        calls(foreign.template_id, "foreign"),
        calls(draft.template_id, "draft"),
        calls(draft.template_id, "pinned draft", version=1),
        calls(good.template_id, "no such version", version=9),
        calls(archived.template_id, "archived"),
        calls("Refund", "a name"),
        {"blockId": "none", "toolType": "UseCase"},
    )
    assert issues_of(version) == {
        ("start", "unknown_template", "/blocks/2/configuration/templateId"),
        ("start", "unknown_template", "/blocks/3/configuration/templateId"),
        ("start", "template_not_published", "/blocks/4/configuration/templateId"),
        ("start", "template_not_published", "/blocks/5/configuration/templateId"),
        ("start", "unknown_version", "/blocks/6/configuration/templateId"),
        ("start", "template_archived", "/blocks/7/configuration/templateId"),
        ("start", "no_template", "/blocks/8/configuration"),
        ("start", "no_template", "/blocks/9/configuration"),
    }


def test_a_template_that_calls_itself_is_refused(author: APIClient, team: Team) -> None:
    version = write_template(team.workspace, team.author, name="Ouroboros")
    refused = author.put(
        f"{URL}/{version.template_id}", body({"blockId": "a"}, calls(version.template_id)), format="json"
    )
    assert refused.status_code == 422
    (issue,) = refused.json()["issues"]
    assert (issue["severity"], issue["code"]) == ("error", "template_recursion")
    assert issue["pointer"] == "/blocks/1/configuration/templateId"
    assert "pattern 22, recursion" in issue["message"]
    assert TemplateVersion.objects.count() == 1


def test_a_call_that_leads_back_through_others_is_refused_with_its_way(author: APIClient, team: Team) -> None:
    first = write_template(team.workspace, team.author, name="First")
    second = write_template(team.workspace, team.author, calls(first.template_id), name="Second")
    third = write_template(team.workspace, team.author, calls(second.template_id), name="Third")
    refused = author.put(f"{URL}/{first.template_id}", body(calls(third.template_id)), format="json")
    assert refused.status_code == 422
    assert "'Third' calls 'Second' calls 'First'" in refused.json()["issues"][0]["message"]


def test_a_way_back_through_an_agent_is_found_too(author: APIClient, team: Team) -> None:
    first = write_template(team.workspace, team.author, name="First")
    register(team, "run-first", tool_type="UseCase", configuration={"templateId": str(first.template_id)})
    middle = write_template(team.workspace, team.author, {"blockId": "a", "agentId": "run-first"})
    refused = author.put(f"{URL}/{first.template_id}", body(calls(middle.template_id)), format="json")
    assert refused.json()["issues"][0]["code"] == "template_recursion"


def test_publishing_a_draft_that_has_come_to_call_itself_is_refused(author: APIClient, team: Team) -> None:
    first = write_template(team.workspace, team.author, name="First")
    second = write_template(team.workspace, team.author, name="Second")
    draft = parse(body(calls(second.template_id)))
    authoring.update_template(
        template_id=first.template_id, by=team.author, definition=draft, status=VersionStatus.DRAFT
    )
    author.put(f"{URL}/{second.template_id}", body(calls(first.template_id)), format="json")
    refused = author.post(f"{URL}/{first.template_id}/versions/2/publish")
    assert (refused.status_code, refused.json()["issues"][0]["code"]) == (422, "template_recursion")


def test_calls_that_go_too_deep_are_told(team: Team) -> None:
    version = write_template(team.workspace, team.author)
    for _ in range(LIMITS.usecase_depth):
        version = write_template(team.workspace, team.author, calls(version.template_id))
        assert issues_of(version) == set()
    version = write_template(team.workspace, team.author, calls(version.template_id))
    assert issues_of(version) == {("start", "calls_too_deep", "/blocks/0/configuration/templateId")}


def test_checking_many_blocks_costs_no_more_queries(team: Team) -> None:
    other = write_template(team.workspace, team.author)

    def cost(count: int) -> int:
        blocks = [{"blockId": f"a{n}", "agentId": f"agent{n}"} for n in range(count)]
        blocks += [calls(other.template_id, f"c{n}") for n in range(count)]
        definition = parse(body(*blocks))
        with CaptureQueriesContext(connection) as queries:
            checking.row_issues(definition, workspace_id=team.workspace.pk, template_id=None)
        return len(queries)

    assert cost(1) == cost(50) <= 6
