"""Sending an execution back: the decision that is neither yes nor no, so often as the template allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from agentflow.api import context
from agentflow.errors import Conflict
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from executions.engine.facts import facts_of
from executions.services import reworking

from .. import rights
from ..models import Approval, ApprovalKind, DecisionKind
from ..states import ApprovalStatus
from . import handing, holding, releasing, responding, votes

K = ApprovalKind
KINDS = frozenset({K.APPROVAL, K.INPUT, K.REVIEW, K.EDIT})  # asked by the template


class NoRework(Conflict):
    """This question is about one call; nothing is sent back by it."""

    code = "no_rework"
    remedy = "Answer it with one of its options, or reject it."


class ReworkUsedUp(Conflict):
    """This step has sent the execution back as often as its template allows."""

    code = "rework_used_up"
    remedy = "Approve it, with changes if it allows them, or reject it; `humanInLoop.maxRework` is the bound."


@transaction.atomic
def send_back(
    *,
    approval_id: UUID,
    by: User,
    comments: str,
    blocks: Sequence[str] = (),
    content_hash: str | None = None,
    channel: str = "",
) -> Approval:
    """Close a question and let blocks before it run again, with all that depends on them.

    As `responding.respond`: the same again by the same person is success without a change.

    Raises:
        NotFound, NotPermitted, AlreadyDecided, Expired, Withdrawn, ContentChanged
        NoRework, ReworkUsedUp, reworking.NotRunning, reworking.NothingBefore, reworking.NotUpstream
    """
    execution, approval = holding.locked(approval_id, by)
    access.require(by, Permission.DECIDE, approval.workspace_id)
    if approval.kind not in KINDS:
        raise NoRework(approval_id=str(approval_id))
    named = reworking.blocks_named(execution, block_id=approval.block_id, kind=approval.kind, named=blocks)
    answer = votes.Answer(False, {"blocks": list(named)}, comments, rework=True)
    if (said := votes.known(approval, by)) is not None:
        if said.decision == DecisionKind.REWORK and votes.same(said, False, answer.response, comments):
            return approval
        if approval.status != ApprovalStatus.PENDING:
            raise holding.closed(approval)
        raise holding.AlreadyVoted(approval_id=str(approval_id))
    right = rights.require_asked(approval, by)
    if approval.status != ApprovalStatus.PENDING:
        raise holding.closed(approval)
    if content_hash is not None and content_hash != approval.content_hash:
        raise responding.ContentChanged(approval_id=str(approval_id))
    handing.require_unclaimed(approval, by)
    reworking.require_running(execution)
    done = rounds(approval)
    if done >= most_rounds(approval):
        raise ReworkUsedUp(approval_id=str(approval_id))
    votes.keep(approval, by, answer, right=right, channel=channel or context.current().channel)
    responding.record(approval, by, answer)
    releasing.hold(execution, approval)
    releasing.look(execution, approval, by)
    reworking.send_back(
        execution=execution,
        block_pk=approval.block_execution_id,
        rework=reworking.Rework(named, comments, by.get_username(), by.pk, done + 1),
    )
    return approval


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a question may send its execution back to, and how often it has."""

    ways: tuple[reworking.WayBack, ...]
    done: int
    most: int

    @property
    def left(self) -> int:
        return max(self.most - self.done, 0)


def offer(approval: Approval) -> Offer | None:
    """None: nothing is sent back by this question; two queries."""
    if approval.status != ApprovalStatus.PENDING or approval.kind not in KINDS:
        return None
    most = most_rounds(approval)
    if not most:
        return None
    ways = reworking.ways_back(
        approval.execution_id,
        epoch=approval.execution.epoch,
        block_id=approval.block_id,
        kind=approval.kind,
    )
    return Offer(tuple(ways), rounds(approval), most) if ways else None


def rounds(approval: Approval) -> int:
    """How often the question's block has sent the execution back."""
    asked = Approval.objects.filter(execution=approval.execution_id, block_id=approval.block_id)
    return asked.filter(decision=DecisionKind.REWORK).count()


def most_rounds(approval: Approval) -> int:
    facts = facts_of(approval.execution_id)
    assert facts is not None
    human = facts.plan[facts.plan.index[approval.block_id]].human
    return human.max_rework if human is not None else 0
