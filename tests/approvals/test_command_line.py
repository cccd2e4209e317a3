"""Questions are read and answered on the command line, with the rights of the person named."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from agentflow.governance.models import AuditEntry, User
from approvals.models import Approval
from tests.approvals.conftest import Office
from tests.factories.approvals import ApprovalFactory
from tests.factories.executions import ExecutionFactory


def command(part: str, *args: Any, by: User) -> None:
    call_command("approvals", part, *map(str, args), "--by", by.username)


def test_a_question_is_listed_shown_and_answered(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*args: Any, by: User = office.approver) -> Any:
        command(*args, by=by)
        return capsys.readouterr().out

    approval = ApprovalFactory.create(workspace=office.workspace, request={"title": "Pay \x1b[2J 640?"})
    theirs = ApprovalFactory.create()
    listed = said("list", "--workspace", office.workspace.slug, "--kind", "approval")
    assert f"{approval.pk}" in listed
    assert f"{theirs.pk}" not in listed
    assert "\x1b" not in listed
    assert "Nothing waits" in said("list", by=office.viewer)
    (one,) = json.loads(said("list", "--json"))
    shown = json.loads(said("show", approval.pk))
    assert shown["contentHash"] == one["contentHash"] == approval.content_hash
    assert (shown["request"], shown["mayDecide"], shown["votes"]) == (approval.request, True, [])
    assert not json.loads(said("show", approval.pk, by=office.viewer))["mayDecide"]

    answer = (
        "respond",
        approval.pk,
        "--reject",
        "--comments",
        "Too much.",
        "--content-hash",
        shown["contentHash"],
    )
    for _ in range(2):  # the same again changes nothing
        assert json.loads(said(*answer))["decision"] == "reject"
    (vote,) = json.loads(said("show", approval.pk, by=office.viewer))["votes"]
    assert (vote["user"], vote["channel"], vote["comments"]) == (office.approver.username, "cli", "Too much.")
    entry = AuditEntry.objects.get(action="approval.respond")
    assert (entry.channel, entry.actor_name) == ("cli", office.approver.username)
    with pytest.raises(CommandError, match="rejected this at"):
        command(*answer, by=office.colleague)


def test_what_is_asked_for_is_filled_in(office: Office) -> None:
    schema = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "integer"}}}
    approval = ApprovalFactory.create(workspace=office.workspace, kind="input", input_schema=schema)
    answer = ("respond", approval.pk, "--approve", "--content-hash", approval.content_hash, "--response")
    for response, words in (
        ("{", "not JSON"),
        ('{"amount": "\\u0000"}', "NUL"),
        ('{"amount": "much"}', "/response/amount"),
    ):
        with pytest.raises(CommandError, match=words):
            command(*answer, response, by=office.approver)
    command(*answer, '{"amount": 5}', by=office.approver)
    approval.refresh_from_db()
    assert (approval.status, approval.response) == ("approved", {"amount": 5})


def test_a_question_is_sent_back(office: Office) -> None:
    execution = ExecutionFactory.create(
        workspace=office.workspace,
        definition={
            "name": "Drafts",
            "blocks": [
                {"blockId": "draft", "agentId": "builtin.echo"},
                {"blockId": "ask", "dependencies": ["draft"], "humanInLoop": {"maxRework": 1}},
            ],
        },
        completed=["draft"],
        waiting_human=["ask"],
    )
    approval = ApprovalFactory.create(execution=execution)
    back = ("rework", approval.pk, "--content-hash", approval.content_hash, "--comments")
    with pytest.raises(CommandError, match="what should be done otherwise"):
        command(*back, " ", by=office.approver)
    with pytest.raises(CommandError, match="after"):
        command(*back, "Shorter.", "--block", "after", by=office.approver)
    command(*back, "Shorter.", "--block", "draft", by=office.approver)
    vote = approval.votes.get()
    assert (vote.decision, vote.comments, vote.channel) == ("rework", "Shorter.", "cli")


def test_nobody_has_more_rights_than_elsewhere(office: Office) -> None:
    approval: Approval = ApprovalFactory.create(workspace=office.workspace)

    def refused(words: str, part: str, pk: Any, *args: str, by: User = office.approver) -> None:
        with pytest.raises(CommandError, match=words) as caught:
            command(part, pk, *args, by=by)
        assert caught.value.returncode == 1

    yes = ("--approve", "--content-hash", approval.content_hash)
    refused("no such approval", "show", approval.pk, by=office.stranger)
    refused("no such approval", "respond", approval.pk, *yes, by=office.stranger)
    refused("no such approval", "show", uuid4())
    refused("may not", "respond", approval.pk, *yes, by=office.viewer)
    refused("not what you saw", "respond", approval.pk, "--approve", "--content-hash", "0" * 64)
    refused("10000 characters", "respond", approval.pk, *yes, "--comments", "x" * 10_001)
    refused("no user 'ghost'", "show", approval.pk, by=User(username="ghost"))
    office.approver.is_active = False
    office.approver.save()
    refused("no user", "respond", approval.pk, *yes)
    with pytest.raises(CommandError, match="content-hash"):
        command("respond", approval.pk, "--approve", by=office.colleague)
    with pytest.raises(CommandError, match="no workspace"):
        command("list", "--workspace", office.workspace.slug, by=office.stranger)
    approval.refresh_from_db()
    assert approval.status == "pending"
