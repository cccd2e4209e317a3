"""Proposals from rows, and what people make of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from agentflow.governance.models import AuditEntry, User, Workspace
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from executions.incidents import feed
from executions.learning import looking
from executions.learning.models import Proposal, ProposalLook, StrategyTally
from executions.models import BlockAttempt, BlockExecution, Execution
from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring
from tests.factories.governance import WorkspaceFactory, client_of, member
from tests.factories.templates import write_template
from tests.work import statements

API = "/api/v1"
BLOCKS: list[JSONObject] = [
    {"blockId": "charge", "agentId": "builtin.echo", "timeout": 10_000},
    {"blockId": "send", "agentId": "builtin.echo", "dependencies": ["charge"]},
]


@pytest.fixture
def workspace(transactional_db: None) -> Workspace:
    return WorkspaceFactory.create()


@pytest.fixture
def writer(workspace: Workspace) -> User:
    return member(workspace, Role.AUTHOR, is_staff=True)


@pytest.fixture
def version(workspace: Workspace, writer: User) -> TemplateVersion:
    return write_template(workspace, writer, *BLOCKS, name="Order")


def ran(
    version: TemplateVersion, block_id: str, count: int, failure: JSONObject | None = None, s: float = 1
) -> None:
    """So many runs of a version in which the block's one attempt came to this."""
    ended = timezone.now()
    executions = Execution.objects.bulk_create(
        Execution(
            workspace_id=version.template.workspace_id,
            template_version=version,
            max_parallel=1,
            open_sinks=1,
            status="running",
            created_by=version.created_by,
        )
        for _ in range(count)
    )
    blocks = BlockExecution.objects.bulk_create(
        BlockExecution(
            execution=execution,
            idx=0,
            block_id=block_id,
            status="waiting_human" if failure else "completed",
            todo=0,
            attempt=1,
            effect="pure",
        )
        for execution in executions
    )
    BlockAttempt.objects.bulk_create(
        BlockAttempt(
            block=block,
            attempt=1,
            outcome="error" if failure else "ok",
            agent_id="builtin.echo",
            failure=failure,
            started_at=ended - timedelta(seconds=s),
            ended_at=ended,
        )
        for block in blocks
    )


def failed(code: str, kind: str = "configuration") -> JSONObject:
    told = {"kind": kind, "code": code, "message": "said", "outcomeUnknown": False}
    return {**told, "recovery": {"strategy": "ask", "cause": kind}}


@pytest.fixture
def failing(version: TemplateVersion) -> Template:
    """Charging is slow, and sending meets what a retry mended elsewhere."""
    ran(version, "charge", 90, s=4)
    ran(version, "charge", 10, failed("timeout", "transient"), s=10)
    ran(version, "send", 30)
    ran(version, "send", 15, failed("http_409"))
    StrategyTally.objects.create(
        workspace=version.template.workspace,
        template=None,
        cause="configuration",
        code="http_409",
        strategy="retry",
        week=timezone.now().date(),
        taken=40,
        tries=40,
        recovered=36,
        seconds=40,
    )
    looking.look(version.template_id)
    return version.template


@pytest.fixture
def author(writer: User) -> APIClient:
    return client_of(writer)


def of_kind(template: Template, kind: str, state: str = "open") -> Proposal:
    return Proposal.objects.get(template=template, kind=kind, state=state)


def test_patterns_in_rows_become_proposals_once_and_go_with_their_evidence(
    failing: Template, version: TemplateVersion
) -> None:
    timeout, retry = of_kind(failing, "timeout"), of_kind(failing, "retry")
    assert (timeout.block_id, timeout.base, retry.block_id) == ("charge", 1, "send")
    assert retry.evidence["executionCount"] == 15
    assert len(retry.evidence["executions"]) == 10
    assert retry.predicted["share"] == pytest.approx(15 / 45 * 5 / 42, abs=1e-3)
    ran(version, "send", 15, failed("http_409"))
    looking.look(failing.pk)
    assert Proposal.objects.count() == 2
    assert of_kind(failing, "retry").evidence["failures"] == 30
    assert of_kind(failing, "retry").pk == retry.pk
    Execution.objects.update(created_at=timezone.now() - timedelta(days=15))
    looking.look(failing.pk)
    assert set(Proposal.objects.values_list("state", flat=True)) == {"withdrawn"}


def test_looking_is_a_fixed_number_of_statements_however_much_has_failed(
    failing: Template, version: TemplateVersion
) -> None:
    def asked() -> int:
        return len(statements(lambda: looking.look(failing.pk))[0])

    before = asked()
    ran(version, "send", 200, failed("http_409"))
    assert asked() == before < 20


def test_the_clock_looks_through_templates_that_fail_and_not_again_for_an_hour(
    failing: Template, version: TemplateVersion
) -> None:
    Proposal.objects.all().delete()
    ProposalLook.objects.all().delete()
    assert looking.look_due() == 0  # no incident lately
    row = BlockExecution.objects.filter(block_id="send").last()
    assert row is not None
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO executions_failurenote (block, fingerprint, failure) VALUES (%s, 'f', %s::jsonb)",
            [row.pk, '{"kind": "configuration", "code": "http_409", "message": "said"}'],
        )
    feed.count()
    assert (looking.look_due(), looking.look_due()) == (1, 0)
    assert of_kind(failing, "retry").evidence["incidents"] != []
    ProposalLook.objects.update(at=timezone.now() - timedelta(hours=2))
    assert looking.look_due() == 1


def test_an_accepted_proposal_is_a_draft_that_nobody_has_published(
    failing: Template, author: APIClient, writer: User
) -> None:
    retry = of_kind(failing, "retry")
    detail = author.get(f"{API}/proposals/{retry.pk}").json()
    assert (detail["before"]["blockId"], detail["measured"]) == ("send", None)
    assert detail["after"]["retryPolicy"]["retryConditions"] == ["transient", "agent", "http_409"]
    done = author.post(f"{API}/proposals/{retry.pk}/accept", {"reason": "Yes."}, format="json")
    assert done.json() == {"success": True, "templateId": str(failing.pk), "versionNumber": 2}
    draft = failing.versions.get(number=2)
    assert (draft.status, draft.definition["blocks"][1]) == ("draft", detail["after"])
    entry = AuditEntry.objects.get(action="proposal.accept")
    assert entry.detail["versionNumber"] == 2
    retry.refresh_from_db()
    assert (retry.state, retry.made, retry.decided_by) == ("accepted", 2, writer)
    # The other one is about the draft now: it has the block as it was.
    assert of_kind(failing, "timeout").base == 2
    assert not Proposal.objects.filter(kind="retry", state="open").exists()
    again = author.post(f"{API}/proposals/{retry.pk}/accept", {}, format="json")
    assert (again.status_code, again.json()["code"]) == (409, "proposal_decided")
    ran(draft, "send", 38)
    ran(draft, "send", 2, failed("http_409"))
    measured = author.get(f"{API}/proposals/{retry.pk}").json()["measured"]
    assert measured == {"share": 0.05, "failures": 2, "of": 40}


def test_several_proposals_are_one_draft(failing: Template, author: APIClient) -> None:
    done = author.post(f"{API}/templates/{failing.pk}/adapt", {}, format="json")
    assert done.json()["versionNumber"] == 2
    charge, send = failing.versions.get(number=2).definition["blocks"]
    assert charge["timeout"] > 10_000
    assert "http_409" in send["retryPolicy"]["retryConditions"]
    none = author.post(f"{API}/templates/{failing.pk}/adapt", {}, format="json")
    assert (none.status_code, none.json()["code"]) == (422, "nothing_proposed")


def test_a_proposal_for_a_version_that_is_not_the_newest_is_refused(
    failing: Template, author: APIClient, writer: User
) -> None:
    retry = of_kind(failing, "retry")
    newer = parse({"name": "Order", "blocks": [*BLOCKS, {"blockId": "more"}]})
    authoring.update_template(template_id=failing.pk, by=writer, definition=newer)
    refused = author.post(f"{API}/proposals/{retry.pk}/accept", {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "stale_proposal")
    assert author.post(f"{API}/templates/{failing.pk}/proposals", {}, format="json").status_code == 200
    assert author.post(f"{API}/proposals/{retry.pk}/accept", {}, format="json").json()["versionNumber"] == 3


def test_what_was_dismissed_is_not_proposed_again(failing: Template, author: APIClient) -> None:
    retry = of_kind(failing, "retry")
    path = f"{API}/proposals/{retry.pk}/dismiss"
    refused = author.post(path, {}, format="json")
    assert [issue["pointer"] for issue in refused.json()["issues"]] == ["/reason"]
    assert author.post(path, {"reason": "It is on purpose."}, format="json").json() == {"success": True}
    looking.look(failing.pk)
    assert not Proposal.objects.filter(kind="retry", state="open").exists()
    Proposal.objects.filter(pk=retry.pk).update(decided_at=timezone.now() - timedelta(days=31))
    looking.look(failing.pk)
    assert of_kind(failing, "retry").pk != retry.pk


def test_proposals_are_for_those_who_may_see_and_write_the_template(
    failing: Template, workspace: Workspace, author: APIClient
) -> None:
    retry = of_kind(failing, "retry")
    paths = [f"{API}/proposals/{retry.pk}", f"{API}/templates/{failing.pk}/proposals"]
    commands = [
        (f"{paths[0]}/accept", {}),
        (f"{paths[0]}/dismiss", {"reason": "no"}),
        (f"{API}/templates/{failing.pk}/adapt", {}),
        (paths[1], {}),
    ]
    stranger = client_of(member(WorkspaceFactory.create(), Role.ADMIN))
    reader = client_of(member(workspace, Role.VIEWER))
    for path in paths:
        assert stranger.get(path).status_code == 404
        assert reader.get(path).status_code == 200
    for path, body in commands:
        assert stranger.post(path, body, format="json").status_code == 404
        assert reader.post(path, body, format="json").status_code == 403
    assert stranger.get(f"{API}/proposals").json()["total"] == 0
    listed = reader.get(f"{API}/proposals", {"templateId": str(failing.pk), "kind": "retry,guard"}).json()
    assert [each["proposalId"] for each in listed["proposals"]] == [str(retry.pk)]
    assert reader.get(f"{API}/proposals", {"state": "strange"}).status_code == 400
    bad: JSONObject
    for bad in ({"proposalIds": []}, {"proposalIds": ["x"]}, {"why": 1}):
        assert author.post(commands[2][0], bad, format="json").status_code == 400
    foreign = author.post(commands[2][0], {"proposalIds": [str(uuid4())]}, format="json")
    assert foreign.status_code == 404


def test_operators_see_evidence_effect_and_change_and_authors_decide(
    failing: Template, workspace: Workspace, writer: User, client: Client
) -> None:
    timeout, retry = of_kind(failing, "timeout"), of_kind(failing, "retry")
    path = "/admin/executions/proposal/"
    client.force_login(member(workspace, Role.OPERATOR, is_staff=True))
    listed = client.get(path).content.decode()
    assert "send: try again" in listed
    assert "33.3%" in listed
    page = client.get(f"{path}{retry.pk}/change/").content.decode()
    assert "it helped in 36 of 40 tries" in page
    assert '<span class="new">+' in page
    assert "Accept as a draft version" not in page
    assert client.post(f"{path}{retry.pk}/do/accept/").status_code == 403
    client.force_login(writer)

    def said(response: Any) -> list[str]:
        return [str(message) for message in response.context["messages"]]

    done = client.post(f"{path}{retry.pk}/do/accept/", follow=True)
    assert said(done) == ["Version 2 is a draft with this change."]
    assert "nothing has run yet" in done.content.decode()
    assert said(client.post(f"{path}{timeout.pk}/do/dismiss/", follow=True)) == ["Say why it is dismissed."]
    client.post(f"{path}{timeout.pk}/do/dismiss/", {"reason": "It is slow."})
    timeout.refresh_from_db()
    assert (timeout.state, timeout.reason) == ("dismissed", "It is slow.")
