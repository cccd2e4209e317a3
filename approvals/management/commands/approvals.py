"""`manage.py approvals`: what waits for a person, and their answer, with that person's rights.

manage.py approvals list --by ann [--workspace shop] [--kind review] [--json]
manage.py approvals show APPROVAL --by ann
manage.py approvals respond APPROVAL --by ann --approve --content-hash HASH [--response JSON]
manage.py approvals respond APPROVAL --by ann --reject --content-hash HASH --comments "Outside the period."
manage.py approvals rework APPROVAL --by ann --content-hash HASH --comments "Shorter." [--block draft]
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentflow.api.context import origin
from agentflow.api.parsers import loads
from agentflow.api.text import printable
from agentflow.errors import AgentflowError, InvalidInput
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from approvals import selectors
from approvals.models import Approval, ApprovalKind
from approvals.services import responding, rework
from approvals.services.votes import COMMENTS_CHARS
from approvals.states import ApprovalStatus
from approvals.words import question_of

CHANNEL = "cli"


class Command(BaseCommand):
    help = "List what waits for a person's answer, show a question, and answer it as that person."

    def add_arguments(self, parser: CommandParser) -> None:
        parts = parser.add_subparsers(dest="part", required=True)
        listed = parts.add_parser("list", help="What waits for this person, the nearest deadline first.")
        listed.add_argument("--workspace", help="Only this workspace's, by its slug.")
        listed.add_argument("--kind", choices=ApprovalKind.values)
        listed.add_argument("--limit", type=int, default=50)
        listed.add_argument("--json", action="store_true")
        _by(listed)
        _one(parts.add_parser("show", help="One question: what is asked, its contentHash, who said what."))
        answer = _one(parts.add_parser("respond", help="Answer a question."))
        decision = answer.add_mutually_exclusive_group(required=True)
        decision.add_argument("--approve", dest="approved", action="store_true")
        decision.add_argument("--reject", dest="approved", action="store_false")
        answer.add_argument("--response", help="As the REST API takes it, in JSON.")
        answer.add_argument("--comments", default="")
        back = _one(parts.add_parser("rework", help="Let blocks before it run again."))
        back.add_argument("--comments", required=True, help="What should be done otherwise.")
        back.add_argument("--block", action="append", default=[], help="May be repeated; those before it.")
        for part in (answer, back):
            part.add_argument(
                "--content-hash", required=True, help="What you have read, as `approvals show` says it."
            )

    def handle(self, *args: Any, **options: Any) -> None:
        by = _user(options)
        try:
            with origin(channel=CHANNEL):
                getattr(self, f"_{options['part']}")(by, options)
        except AgentflowError as error:
            issues = [
                f"\n  {each.get('pointer')}: {each.get('message')}" for each in getattr(error, "issues", ())
            ]
            raise CommandError(
                " ".join(filter(None, (error.message, error.remedy_text))) + "".join(issues)
            ) from error

    def _list(self, by: User, options: dict[str, Any]) -> None:
        chosen = selectors.Filter(workspace_id=_workspace(by, options["workspace"]), kind=options["kind"])
        rows = selectors.shown(selectors.pending_for(by, chosen).select_related("workspace"))
        found = list(rows[: max(options["limit"], 1)])
        if options["json"]:
            self._print([_as_json(each) for each in found])
            return
        for each in found:
            self.stdout.write(_line(each))
        if not found:
            self.stdout.write("Nothing waits for an answer.")

    def _show(self, by: User, options: dict[str, Any]) -> None:
        approval = selectors.find(by, options["approval"])
        self._print(
            {
                **_as_json(approval),
                "request": approval.request,
                "inputSchema": approval.input_schema,
                "mayDecide": approval.status == ApprovalStatus.PENDING
                and selectors.decidable_by(by).filter(pk=approval.pk).exists(),
                "votes": [
                    {
                        "user": vote.user.get_username(),
                        "onBehalfOf": vote.on_behalf_of.get_username() if vote.on_behalf_of else None,
                        "decision": vote.decision,
                        "comments": vote.comments,
                        "channel": vote.channel,
                        "at": vote.at,
                    }
                    for vote in selectors.votes_of(approval)
                ],
            }
        )

    def _respond(self, by: User, options: dict[str, Any]) -> None:
        responding.respond(
            approval_id=options["approval"],
            by=by,
            approved=options["approved"],
            response=_json(options["response"]),
            comments=_text(options["comments"]),
            content_hash=options["content_hash"],
            channel=CHANNEL,
        )
        self._print(_as_json(selectors.find(by, options["approval"])))

    def _rework(self, by: User, options: dict[str, Any]) -> None:
        comments = _text(options["comments"])
        if not comments:
            raise InvalidInput("Say in --comments what should be done otherwise.")
        rework.send_back(
            approval_id=options["approval"],
            by=by,
            comments=comments,
            blocks=[_text(each) for each in options["block"]],
            content_hash=options["content_hash"],
            channel=CHANNEL,
        )
        self._print(_as_json(selectors.find(by, options["approval"])))

    def _print(self, value: JSONObject | list[JSONObject]) -> None:
        self.stdout.write(json.dumps(value, indent=2, default=str))


def _by(part: Any) -> None:
    part.add_argument("--by", required=True, help="Username of the person who answers for it.")


def _one(part: Any) -> Any:
    part.add_argument("approval", type=UUID)
    _by(part)
    return part


def _user(options: dict[str, Any]) -> User:
    found = User.objects.filter(username=options["by"], is_active=True).first()
    if found is None:
        raise CommandError(f"There is no user {options['by']!r}.")
    return found


def _workspace(by: User, slug: str | None) -> UUID | None:
    if slug is None:
        return None
    found = access.workspaces(by).filter(slug=slug).values_list("pk", flat=True).first()
    if found is None:
        raise CommandError(f"There is no workspace {slug!r}.")
    return found


def _json(text: str | None) -> JSONValue:
    """What was typed, held against what the REST API takes."""
    return None if text is None else loads(text.encode("utf-8", "surrogateescape"))


def _text(text: str) -> str:
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
    if len(text) > COMMENTS_CHARS:
        raise InvalidInput(f"A comment has {COMMENTS_CHARS} characters at most.")
    return text


def _as_json(approval: Approval) -> JSONObject:
    return {
        "approvalId": str(approval.pk),
        "executionId": str(approval.execution_id),
        "blockId": approval.block_id,
        "blockName": approval.block_name,
        "type": approval.kind,
        "question": question_of(approval),
        "level": approval.level,
        "quorum": approval.quorum,
        "status": approval.status,
        "decision": approval.decision,
        "contentHash": approval.content_hash,
        "requestedAt": approval.requested_at.isoformat(),
        "respondBy": approval.respond_by.isoformat(),
        "claimedBy": approval.claimer,
    }


def _line(each: Approval) -> str:
    return (
        f"{each.respond_by:%Y-%m-%d %H:%M:%S}  {each.sla_state:<8}  {each.kind:<8}  {each.workspace.slug:<12}"
        f"  {printable(question_of(each), 80)}  {each.pk}"
    )
