"""Deciding a question: exactly once, by somebody who may, on what they saw."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from agentflow.api import context
from agentflow.errors import Conflict, NotFound, NotPermitted
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue
from executions.models import Execution
from executions.services import human, locking

from ..models import Approval
from ..selectors import belongs_to_level
from ..states import APPROVAL, ApprovalStatus
from . import answers, gate, votes
from . import edits as editing

S = ApprovalStatus


class AlreadyDecided(Conflict):
    """Somebody has decided this already."""

    code = "already_decided"
    remedy = "Nothing is left to do; reload to see what was decided."


class Expired(Conflict):
    """The time to answer is over."""

    code = "approval_expired"
    remedy = "Nothing is left to do; reload to see what followed."


class Withdrawn(Conflict):
    """The question was withdrawn: nobody needs the answer any more."""

    code = "approval_cancelled"
    remedy = "Nothing is left to do; reload to see what followed."


class ContentChanged(Conflict):
    """What is asked now is not what you saw."""

    code = "content_changed"
    remedy = "Reload, read it again and answer with the new contentHash."


class AlreadyVoted(Conflict):
    """You have answered this differently before."""

    code = "already_voted"
    remedy = "Leave it to the others who are asked; reload to see what is still missing."


@transaction.atomic
def respond(
    *,
    approval_id: UUID,
    by: User,
    approved: bool,
    response: JSONValue = None,
    comments: str = "",
    content_hash: str | None = None,
    channel: str = "",
) -> Approval:
    """Answer a question and move its block on, in one transaction.

    1. Locks the execution, then the approval; so an answer, a timeout and a withdrawal come one
       after the other, and rights are looked at as they are at that moment.
    2. The same answer by the same person again is success without a change.
    3. Every answer is kept as a vote with its evidence; `channel` is where it came from, the request's
       own unless named.

    Raises:
        NotFound: there is no such approval, or `by` may not see it.
        NotPermitted: `by` may see it, but is not one of those who are asked.
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
        ContentChanged: `content_hash` names something else than what is asked.
        answers.BadResponse, edits.NotEditable, edits.BadEdits: the response does not fit.
    """
    execution, approval = locked(approval_id, by)
    right = _require_asked(approval, by)
    if (said := votes.known(approval, by)) is not None:
        if votes.same(said, approved, response, comments):
            return approval
        raise (
            _closed(approval) if approval.status != S.PENDING else AlreadyVoted(approval_id=str(approval_id))
        )
    if approval.status != S.PENDING:
        raise _closed(approval)
    if content_hash is not None and content_hash != approval.content_hash:
        raise ContentChanged(approval_id=str(approval_id))
    answer = _read(approval, approved=approved, response=response, comments=comments)
    votes.keep(approval, by, answer, right=right, channel=channel or context.current().channel)
    _record(approval, by, answer)
    human.answered(
        execution=execution,
        block_pk=approval.block_execution_id,
        kind=approval.kind,
        approved=approved,
        response=answer.response,
        by=by,
        approval_id=approval.pk,
    )
    return approval


def locked(approval_id: UUID, by: User) -> tuple[Execution, Approval]:
    """The execution and the approval, both held until the transaction ends.

    Raises:
        NotFound: there is no such approval, or `by` may not see it.
    """
    seen = Approval.objects.visible_to(by).filter(pk=approval_id).only("execution_id").first()
    if seen is None:
        raise NotFound("There is no such approval.", approval_id=str(approval_id))
    execution = locking.lock(seen.execution_id)
    return execution, Approval.objects.select_for_update(no_key=True).get(pk=approval_id)


def _read(approval: Approval, *, approved: bool, response: JSONValue, comments: str) -> votes.Answer:
    """The answer with its changes worked out, if it fits what was asked."""
    answers.check_bounds(response)
    edits = None
    if approved:
        response, edits = editing.applied(response, approval.request)
    answers.check(
        kind=approval.kind, approved=approved, response=response, input_schema=approval.input_schema
    )
    return votes.Answer(approved, response, comments, edits)


def _require_asked(approval: Approval, by: User) -> JSONObject:
    """By what right `by` decides this."""
    access.require(by, Permission.DECIDE, approval.workspace_id)
    if not belongs_to_level(by, approval.workspace_id, approval.level):
        raise NotPermitted(
            f"This is for the level {approval.level} to decide, and you are not in its group.",
            remedy="Leave it to a member of that group, or ask an administrator to add you.",
            level=approval.level,
        )
    return {"name": Permission.DECIDE.value, "level": approval.level, "via": "level"}


def _record(approval: Approval, by: User, answer: votes.Answer) -> None:
    to = S.APPROVED if answer.approved else S.REJECTED
    decision = answer.decision(approval.kind)
    moved = Approval.objects.filter(
        pk=approval.pk, version=approval.version, status__in=APPROVAL.leaving(to)
    ).update(
        status=to,
        decision=decision,
        responder=by,
        response=answer.response,
        comments=answer.comments,
        responded_at=Now(),
        closed_at=Now(),
        version=F("version") + 1,
    )
    if not moved:
        raise AlreadyDecided(approval_id=str(approval.pk))
    approval.refresh_from_db()
    gate.drop_timers([approval.pk])
    gate.tell(
        "approval_responded",
        approval,
        approved=answer.approved,
        decision=decision.value,
        approver=by.get_username(),
    )
    audit.record(
        action="approval.respond",
        by=by,
        workspace_id=approval.workspace_id,
        target_type="approval",
        target_id=str(approval.pk),
        detail={
            "executionId": str(approval.execution_id),
            "blockId": approval.block_id,
            "kind": approval.kind,
            "approved": answer.approved,
            "decision": decision.value,
            "contentHash": approval.content_hash,
            **({"edits": answer.edits} if answer.edits else {}),
        },
    )


def _closed(approval: Approval) -> Conflict:
    """Why a question is no longer open, told so that the loser of a race knows what happened."""
    facts = {"approval_id": str(approval.pk), "status": approval.status}
    if approval.status == S.EXPIRED:
        return Expired(**facts)
    if approval.status == S.CANCELLED:
        return Withdrawn(**facts)
    assert approval.responder is not None  # a constraint of the table
    assert approval.responded_at is not None
    who = approval.responder.get_full_name() or approval.responder.get_username()
    at = approval.responded_at.isoformat(timespec="seconds")
    return AlreadyDecided(f"{who} {approval.status} this at {at}.", **facts)
