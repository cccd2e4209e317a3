"""Deciding a question: exactly once, by somebody who may, on what they saw."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from agentflow.api import context
from agentflow.errors import Conflict
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONValue
from executions.services import human

from .. import rights
from ..models import Approval, ApprovalKind, DecisionKind
from ..states import APPROVAL, ApprovalStatus
from . import answers, climbing, gate, handing, holding, levels, mending, releasing, swapping, trail, votes
from . import edits as editing
from .holding import AlreadyDecided

S = ApprovalStatus


class ContentChanged(Conflict):
    """What is asked now is not what you saw."""

    code = "content_changed"
    remedy = "Reload, read it again and answer with the new contentHash."


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
        holding.Stale: the agent that its block would call was swapped.
        answers.BadResponse, edits.NotEditable, edits.BadEdits: the response does not fit.
        mending.ForOperators, fixes.FixInvalid, fixes.DoesNotFit: the step may not be changed so.
    """
    execution, approval = holding.locked(approval_id, by)
    if (said := votes.known(approval, by)) is not None:
        access.require(by, Permission.DECIDE, approval.workspace_id)
        if said.decision != DecisionKind.REWORK and votes.same(said, approved, response, comments):
            return approval
        if approval.status != S.PENDING:
            raise holding.closed(approval)
        raise holding.AlreadyVoted(approval_id=str(approval_id))
    right = rights.require_asked(approval, by)
    if approval.status != S.PENDING:
        raise holding.closed(approval)
    if content_hash is not None and content_hash != approval.content_hash:
        raise ContentChanged(approval_id=str(approval_id))
    swapping.require_same_agent(approval)
    answer = _read(approval, by, approved=approved, response=response, comments=comments)
    handing.require_unclaimed(approval, by)
    votes.keep(approval, by, answer, right=right, channel=channel or context.current().channel)
    decisive = _settled(approval, by, answer)
    if decisive is None:
        return approval
    record(approval, by, decisive)
    releasing.hold(execution, approval)
    human.answered(
        execution=execution,
        block_pk=approval.block_execution_id,
        kind=approval.kind,
        approved=approved,
        response=decisive.response,
        by=by,
        approval_id=approval.pk,
        comments=decisive.comments,
    )
    releasing.look(execution, approval, by)
    return approval


def _read(
    approval: Approval, by: User, *, approved: bool, response: JSONValue, comments: str
) -> votes.Answer:
    """The answer with its changes worked out, if it fits what was asked."""
    answers.check_bounds(response)
    edits = None
    if approved:
        response, edits = editing.applied(response, approval.request)
        if approval.kind == ApprovalKind.EDIT and edits:
            editing.check_state(response, approval.request)
    answers.check(
        kind=approval.kind, approved=approved, response=response, input_schema=approval.input_schema
    )
    if approved and approval.kind == ApprovalKind.FIX:
        edits = mending.checked(approval, by, response)
    return votes.Answer(approved, response, comments, edits)


def _settled(approval: Approval, by: User, answer: votes.Answer) -> votes.Answer | None:
    """What the answers so far come to: a refusal decides at once, a yes once all levels agree."""
    if not answer.approved:
        return answer
    if answer.edits and approval.kind != ApprovalKind.FIX:
        votes.show_changed(approval, by, answer)
    if not votes.level_agrees(approval):
        _keep_on(approval, by, answer, "approval_voted")
        return None
    index = levels.following(approval)
    if index is not None:
        climbing.enter(approval, index)
        _keep_on(approval, by, answer, "approval_advanced")
        return None
    return votes.whole(approval, answer)


def _keep_on(approval: Approval, by: User, answer: votes.Answer, event: str) -> None:
    """One of several has answered; the question stays open."""
    gate.tell(
        event,
        approval,
        approver=by.get_username(),
        decision=answer.decision(approval.kind).value,
        quorum=approval.quorum,
    )
    _audit("vote", approval, by, answer)


def record(approval: Approval, by: User, answer: votes.Answer) -> None:
    """Close a question with the answer that decides it."""
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
    approval.status, approval.decision, approval.responder = to, decision, by
    approval.response, approval.comments = answer.response, answer.comments
    gate.drop_timers([approval.pk])
    gate.tell(
        "approval_responded",
        approval,
        approved=answer.approved,
        decision=decision.value,
        approver=by.get_username(),
    )
    _audit("respond", approval, by, answer)


def _audit(action: str, approval: Approval, by: User, answer: votes.Answer) -> None:
    trail.record(
        action,
        approval,
        by,
        kind=approval.kind,
        approved=answer.approved,
        decision=answer.decision(approval.kind).value,
        contentHash=approval.content_hash,
        **({"edits": answer.edits} if answer.edits else {}),
    )
