"""Who takes a question: claims, delegations, reassignments, and what is said about it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from agentflow.errors import Conflict, InvalidInput, NotPermitted, Unprocessable
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from .. import rights
from ..models import CLAIM, Approval, ApprovalAssignee, ApprovalComment, ApprovalLevel
from . import gate, holding, times, trail, votes
from .levels import ALL, ANY

MOST_DELEGATIONS = 3


class ClaimedByOther(Conflict):
    """Somebody else is at it."""

    code = "claimed_by_other"
    remedy = (
        "Wait until they answer or release it; an operator may release it, and it lapses after 30 minutes."
    )


class NotClaimable(Conflict):
    """Several people have to answer this, so nobody takes it alone."""

    code = "not_claimable"
    remedy = "Answer it."


class DelegationLoop(Conflict):
    """It would come back to somebody who gave it away."""

    code = "delegation_loop"
    remedy = "Give it to somebody else, or ask an operator to reassign it."


class TooManyDelegations(Conflict):
    """It has been handed on often enough."""

    code = "too_many_delegations"
    remedy = "Answer it, or ask an operator to reassign it."


class BadRecipient(Unprocessable):
    """Whom it should go to may not decide it."""

    code = "bad_recipient"
    remedy = "Name somebody who may decide approvals in this workspace and is not barred."


def holder(approval: Approval) -> User | None:
    """Who has claimed it, if that still counts."""
    if approval.claimed_at is None or approval.claimed_at + CLAIM <= times.clock():
        return None
    return approval.claimed_by


def require_unclaimed(approval: Approval, by: User) -> None:
    """Pass unless somebody else is at it.

    Raises:
        ClaimedByOther
    """
    other = holder(approval)
    if other is not None and other != by:
        raise ClaimedByOther(f"{_name(other)} has claimed this.", claimed_by=other.get_username())


@transaction.atomic
def claim(*, approval_id: UUID, by: User) -> Approval:
    """Take it, so that nobody else answers it meanwhile; again, to hold it longer.

    Raises:
        NotFound, NotPermitted, Barred: as for an answer.
        ClaimedByOther, NotClaimable, AlreadyVoted
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
    """
    approval = holding.opened(approval_id, by)
    _require_no_vote(approval, by)
    rights.require_asked(approval, by)
    if approval.quorum != ANY:
        raise NotClaimable
    require_unclaimed(approval, by)
    Approval.objects.filter(pk=approval.pk).update(claimed_by=by, claimed_at=Now())
    return _told(approval, "claim", by, {})


@transaction.atomic
def release(*, approval_id: UUID, by: User) -> Approval:
    """Let others have it again.  An operator may release what somebody else holds.

    Raises:
        NotFound, NotPermitted
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
    """
    approval = holding.opened(approval_id, by)
    held = holder(approval)
    if held is None:
        return approval
    if held != by:
        access.require(by, Permission.OPERATE, approval.workspace_id)
    Approval.objects.filter(pk=approval.pk).update(claimed_by=None, claimed_at=None)
    return _told(approval, "release", by, {"onBehalfOf": held.get_username()} if held != by else {})


@transaction.atomic
def delegate(*, approval_id: UUID, by: User, to: str, reason: str) -> Approval:
    """Give one's own part in it to somebody else, who is asked in one's place at this level; a deputy
    gives the part of who is absent.

    Raises:
        NotFound, NotPermitted, Barred: as for an answer.
        BadRecipient, DelegationLoop, TooManyDelegations, ClaimedByOther, AlreadyVoted
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
    """
    approval = holding.opened(approval_id, by)
    _require_no_vote(approval, by)
    right = rights.require_asked(approval, by)
    giver: int = right.get("onBehalfOfId", by.pk)
    require_unclaimed(approval, by)
    recipient = _recipient(approval, to)
    if recipient.pk == giver:
        raise BadRecipient("It is yours already.", pointer="/to")
    rows = list(approval.assignees.filter(level_index=approval.level_index, delegated_by__isnull=False))
    if any(row.delegated_by_id == recipient.pk for row in rows):
        raise DelegationLoop(f"{_name(recipient)} gave it away before.")
    if len(_chain(rows, giver)) >= MOST_DELEGATIONS:
        raise TooManyDelegations
    ApprovalAssignee.objects.create(
        approval=approval,
        level_index=approval.level_index,
        user=recipient,
        delegated_by_id=giver,
        reason=reason,
    )
    _require_enough(approval, "/to")
    Approval.objects.filter(pk=approval.pk).update(claimed_by=None, claimed_at=None)
    behalf = {"onBehalfOf": right["onBehalfOf"]} if "onBehalfOf" in right else {}
    return _told(approval, "delegate", by, {**behalf, "to": recipient.get_username(), "reason": reason})


def _require_no_vote(approval: Approval, by: User) -> None:
    if votes.known(approval, by) is not None:
        raise holding.AlreadyVoted(approval_id=str(approval.pk))


def _require_enough(approval: Approval, pointer: str) -> None:
    """Pass if the level can still reach its quorum, asked as it is now."""
    if approval.quorum in (ANY, ALL):
        return
    reachable = votes.agreed(approval).count() + len(rights.eligible(approval) - rights.voted(approval))
    if reachable < int(approval.quorum):
        raise BadRecipient(
            f"{approval.quorum} have to agree here, and then no more than {reachable} could.",
            pointer=pointer,
            remedy="Name somebody who is not asked yet, or a level or group with enough people.",
        )


def _chain(rows: list[ApprovalAssignee], to: int) -> list[int]:
    """Those through whose hands it came to `to`."""
    givers = {row.user_id: row.delegated_by_id for row in rows}
    found: list[int] = []
    at = givers.get(to)
    while at is not None and at not in found:
        found.append(at)
        at = givers.get(at)
    return found


@transaction.atomic
def reassign(
    *, approval_id: UUID, by: User, reason: str, to_user: str = "", to_level: str = "", to_group: str = ""
) -> Approval:
    """As an operator: let a person, a level or a group answer at this level in place of those asked now.

    Raises:
        NotFound, NotPermitted
        InvalidInput: not exactly one of the three is given.
        BadRecipient
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
    """
    approval = holding.opened(approval_id, by)
    access.require(by, Permission.OPERATE, approval.workspace_id)
    if sum(map(bool, (to_user, to_level, to_group))) != 1:
        raise InvalidInput("Name a person, a level or a group.", pointer="/to")
    before = _asked_now(approval)
    approval.assignees.filter(level_index=approval.level_index).delete()
    fields: dict[str, Any] = {"assigned": True}
    if to_user:
        recipient = _recipient(approval, to_user)
        ApprovalAssignee.objects.create(
            approval=approval, level_index=approval.level_index, user=recipient, reason=reason
        )
    elif to_group:
        group = Group.objects.filter(name=to_group).first()
        if group is None or not _may_decide(approval).filter(groups=group).exists():
            raise BadRecipient(f"Nobody in the group {to_group!r} may decide here.", pointer="/toGroup")
        ApprovalAssignee.objects.create(
            approval=approval, level_index=approval.level_index, group=group, reason=reason
        )
    else:
        _require_level(approval, to_level)
        fields = {"assigned": False, "level": to_level}
    Approval.objects.filter(pk=approval.pk).update(
        **fields, claimed_by=None, claimed_at=None, assignment_note="", version=F("version") + 1
    )
    approval.refresh_from_db()
    _require_enough(approval, "/to" if to_user else "/toGroup" if to_group else "/toLevel")
    to = to_user or to_group or to_level
    return _told(approval, "reassign", by, {"onBehalfOf": before, "to": to, "reason": reason})


def _require_level(approval: Approval, level: str) -> None:
    known = ApprovalLevel.objects.filter(workspace=approval.workspace_id, name=level).exists()
    if level != "user" and not known:
        raise BadRecipient(f"The workspace has no level {level!r}.", pointer="/toLevel")


@transaction.atomic
def comment(*, approval_id: UUID, by: User, text: str) -> ApprovalComment:
    """Say something about it, open or not.

    Raises:
        NotFound, NotPermitted: those who may decide or operate in the workspace say something.
    """
    _, approval = holding.locked(approval_id, by)
    allowed = (Permission.DECIDE, Permission.OPERATE)
    if not any(access.can(by, each, approval.workspace_id) for each in allowed):
        raise NotPermitted("Those who may decide or operate here comment.")
    remark = ApprovalComment.objects.create(approval=approval, user=by, text=text)
    _told(approval, "comment", by, {"commentId": remark.pk})
    return remark


def _may_decide(approval: Approval) -> QuerySet[User]:
    people = access.holders(Permission.DECIDE, [approval.workspace_id])
    return people.exclude(pk__in=[int(each) for each in approval.barred])


def _recipient(approval: Approval, name: str) -> User:
    found = _may_decide(approval).filter(username=name).first()
    if found is None:
        raise BadRecipient(f"{name!r} may not decide this.", pointer="/to")
    if found.pk in rights.voted(approval):
        raise BadRecipient(f"{_name(found)} has answered this already.", pointer="/to")
    return found


def _asked_now(approval: Approval) -> list[str]:
    rows = approval.assignees.filter(level_index=approval.level_index).select_related("user", "group")
    named = [str(row.user or row.group) for row in rows]
    return named if approval.assigned else [f"level {approval.level}", *named]


def _name(user: User) -> str:
    return user.get_full_name() or user.get_username()


def _told(approval: Approval, action: str, by: User, detail: JSONObject) -> Approval:
    """Record it, let those who watch know, and give the row as it is now."""
    approval.refresh_from_db()
    events = {"claim": "claimed", "release": "released", "delegate": "delegated", "reassign": "reassigned"}
    facts = {name: value for name, value in detail.items() if name in ("to", "commentId")}
    gate.tell(f"approval_{events.get(action, 'commented')}", approval, by=by.get_username(), **facts)
    trail.record(action, approval, by, **detail)
    return approval
