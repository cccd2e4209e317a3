"""Who is asked, and by what right somebody decides.

Asked are the level's group, or those whom the template, an operator or a delegation names instead; and
whoever stands in for one of them who is absent.  All need the workspace's permission to decide.  Barred
are those who would decide about their own; and who gave a question away is asked no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from agentflow.errors import NotPermitted
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from .models import ANY_APPROVER, Absence, Approval, ApprovalAssignee, ApprovalLevel, ApprovalVote
from .states import ApprovalStatus

MOST_DEPUTIES = 3  # from one absent person to the next


class Barred(NotPermitted):
    """Nobody decides about what is their own."""

    code = "barred"
    remedy = "Leave it to somebody else, or ask an administrator to change the workspace's approval policy."


_BECAUSE = {
    "own_request": "You started this execution, so somebody else decides.",
    "own_template": "You wrote a version of this template and it is its only gate, so somebody else decides.",
}


def decidable_by(user: access.Principal) -> QuerySet[Approval]:
    """Questions, open or not, whose answer `user` may give and has not; who is absent and where the user
    decides is read before, for the planner reads no more than it must only of workspaces that it knows.

    The permission alone is not enough above the level `user`, and neither is the group: a member of
    it who may not decide in the workspace is not asked.
    """
    own = int(user.pk or 0)  # nobody is 0: who has not signed in
    asked = _asked(_level_of([own]), _named([own])) & ~Q(barred__has_key=str(own))
    for workspace_id, people in _stands_in_for(own).items():
        for absent in people:
            place = _asked(_level_of([absent]), _named([absent])) & Q(workspace=workspace_id)
            place &= ~Q(barred__has_key=str(own)) & ~Q(barred__has_key=str(absent))
            asked |= place & _still_has(absent)
    rows = Approval.objects.filter(asked, _still_has(own))
    if getattr(user, "is_superuser", False) and user.is_active:
        return rows
    workspace_ids = access.workspaces(user, Permission.DECIDE).values_list("pk", flat=True)
    return rows.filter(workspace__in=list(workspace_ids))


def _still_has(person: int) -> Q:
    """Their part has been neither given away nor voted with, by themselves or in their place."""
    gave = ApprovalAssignee.objects.filter(
        approval=OuterRef("pk"), level_index=OuterRef("level_index"), delegated_by=person
    )
    voted = ApprovalVote.objects.filter(
        Q(user=person) | Q(on_behalf_of=person), approval=OuterRef("pk"), counts=True
    )
    return Q(~Exists(gave), ~Exists(voted))


def _asked(level: Q, named: Q) -> Q:
    return (Q(assigned=False) & level) | named


def _level_of(people: Collection[int]) -> Q:
    rungs = ApprovalLevel.objects.filter(
        workspace=OuterRef("workspace"), name=OuterRef("level"), group__user__in=people
    )
    return Q(level=ANY_APPROVER) | Q(Exists(rungs))


def _named(people: Collection[int]) -> Q:
    rows = ApprovalAssignee.objects.filter(approval=OuterRef("pk"), level_index=OuterRef("level_index"))
    return Q(Exists(rows.filter(Q(user__in=people) | Q(group__user__in=people))))


def _stands_in_for(user_id: int) -> dict[UUID, list[int]]:
    """Those whose places `user_id` takes now, by workspace: of the absent, and of whom those stood in for."""
    found: dict[UUID, list[int]] = defaultdict(list)
    frontier: dict[UUID | None, set[int]] = {None: {user_id}}
    for _ in range(MOST_DEPUTIES):
        deputies = {each for people in frontier.values() for each in people}
        following: dict[UUID | None, set[int]] = defaultdict(set)
        for workspace_id, absent, deputy in _absences(deputies):
            known = frontier.get(None, set()) | frontier.get(workspace_id, set())
            if deputy in known and absent != user_id and absent not in found[workspace_id]:
                found[workspace_id].append(absent)
                following[workspace_id].add(absent)
        if not following:
            break
        frontier = following
    return {workspace_id: people for workspace_id, people in found.items() if people}


def _absences(deputies: Collection[int]) -> QuerySet[Absence, tuple[UUID, int, int | None]]:
    rows = Absence.objects.filter(deputy__in=deputies, starts_at__lte=Now(), ends_at__gt=Now())
    return rows.values_list("workspace_id", "user_id", "deputy_id")


# -- one question -------------------------------------------------------------------


def require_asked(approval: Approval, by: User) -> JSONObject:
    """By what right `by` decides this, as evidence; `votes.known` has looked at their own vote.

    Raises:
        NotFound, NotPermitted: as `access.require`, or `by` is not one of those asked.
        Barred: `by` would decide about their own.
    """
    access.require(by, Permission.DECIDE, approval.workspace_id)
    if (why := approval.barred.get(str(by.pk))) is not None:
        raise Barred(_BECAUSE.get(why, ""), reason=why)
    right: JSONObject = {"name": Permission.DECIDE.value, "level": approval.level}
    own = list(_assigned(approval, Q(delegated_by=by) | _among([by.pk])))
    gave = any(row.delegated_by_id == by.pk for row in own)
    if not gave:
        if (via := _via(approval, own, [by.pk])) is not None:
            return {**right, "via": via}
        people = _stands_in_for(by.pk).get(approval.workspace_id, [])
        # Who comes to a question that is closed is told who decided it, so nobody's part is taken then.
        taken = voted(approval) if people and approval.status == ApprovalStatus.PENDING else set()
        for absent in people:
            if absent not in taken and _has_place(approval, absent):
                name = User.objects.values_list("username", flat=True).get(pk=absent)
                return {**right, "via": "deputy", "onBehalfOf": name, "onBehalfOfId": absent}
    raise _not_asked(approval, gave)


def voted(approval: Approval) -> set[int]:
    """Those whose part has been voted with, by themselves or in their place."""
    pairs = approval.votes.filter(counts=True).values_list("user_id", "on_behalf_of_id")
    return {each for pair in pairs for each in pair if each is not None}


def _has_place(approval: Approval, absent: int) -> bool:
    """Whether somebody absent is asked, and has not given it away."""
    if str(absent) in approval.barred:
        return False
    rows = list(_assigned(approval, Q(delegated_by=absent) | _among([absent])))
    gave = any(row.delegated_by_id == absent for row in rows)
    return not gave and _via(approval, rows, [absent]) is not None


def _assigned(approval: Approval, which: Q) -> QuerySet[ApprovalAssignee]:
    return approval.assignees.filter(which, level_index=approval.level_index)


def _among(people: Collection[int]) -> Q:
    return Q(user__in=people) | Q(group__user__in=people)


def _via(approval: Approval, named_rows: Iterable[ApprovalAssignee], people: Collection[int]) -> str | None:
    if (named := next(iter(named_rows), None)) is not None:
        return "delegation" if named.delegated_by_id else "assignment"
    if approval.assigned:
        return None
    if approval.level == ANY_APPROVER:
        return "level"
    rungs = ApprovalLevel.objects.filter(
        workspace=approval.workspace_id, name=approval.level, group__user__in=people
    )
    return "level" if rungs.exists() else None


def _not_asked(approval: Approval, gave: bool) -> NotPermitted:
    if gave:
        return NotPermitted("You have given this to somebody else.", remedy="Leave it to them.")
    if approval.assigned:
        return NotPermitted(
            "This was given to others to decide.",
            remedy="Leave it to them, or ask an operator to reassign it.",
            level=approval.level,
        )
    return NotPermitted(
        f"This is for the level {approval.level} to decide, and you are not in its group.",
        remedy="Leave it to a member of that group, or ask an administrator to add you.",
        level=approval.level,
    )


def eligible(approval: Approval) -> set[int]:
    """The people who have to agree where all of the present level do: those asked who are not absent."""
    deciders = access.holders(Permission.DECIDE, [approval.workspace_id])
    rows = list(approval.assignees.filter(level_index=approval.level_index))
    asked = Q(pk__in=[row.user_id for row in rows if row.user_id])
    asked |= Q(groups__in=[row.group_id for row in rows if row.group_id])
    if not approval.assigned:
        asked |= level_members(approval.workspace_id, approval.level)
    absent = Absence.objects.filter(workspace=approval.workspace_id, starts_at__lte=Now(), ends_at__gt=Now())
    people = deciders.filter(asked).exclude(pk__in=absent.values("user"))
    gave = {row.delegated_by_id for row in rows if row.delegated_by_id}
    barred = {int(each) for each in approval.barred}
    return set(people.values_list("pk", flat=True)) - gave - barred


def people_of(workspace_id: UUID, level: str, *, absent: bool = False) -> frozenset[int]:
    """Who may decide at a level now, the absent left out unless wanted too."""
    return _there(workspace_id, level_members(workspace_id, level), absent)


def people_among(
    workspace_id: UUID, users: Collection[int], groups: Collection[int], *, absent: bool = False
) -> frozenset[int]:
    """Who of these people and members may decide now, the absent as in `people_of`."""
    return _there(workspace_id, Q(pk__in=users) | Q(groups__in=groups), absent)


def _there(workspace_id: UUID, people: Q, absent: bool) -> frozenset[int]:
    deciders = access.holders(Permission.DECIDE, [workspace_id]).filter(people)
    if not absent:
        away = Absence.objects.filter(workspace=workspace_id, starts_at__lte=Now(), ends_at__gt=Now())
        deciders = deciders.exclude(pk__in=away.values("user"))
    return frozenset(deciders.values_list("pk", flat=True))


def level_members(workspace_id: UUID, level: str) -> Q:
    """Of users: those whom a level asks, the permission to decide aside."""
    if level == ANY_APPROVER:
        return ~Q(pk__in=[])  # everybody; an empty Q would vanish beside another
    return Q(groups__in=ApprovalLevel.objects.filter(workspace=workspace_id, name=level).values("group"))
