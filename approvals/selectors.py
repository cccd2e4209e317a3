"""Reads of approvals: what a person may decide, may see, and what follows an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet
from django.db.models.functions import Coalesce, Now

from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.types import JSONObject
from agentflow.workflow import parsing
from agentflow.workflow.conditions import NoBranchMatched, choose, compile_conditions
from agentflow.workflow.definition import Assignees, Block, Definition
from agentflow.workflow.expressions import ExpressionError
from executions.ports import HumanInteraction, LevelAsk
from templates_app.models import TemplateVersion

from . import rights
from .models import Approval, ApprovalAssignee, ApprovalComment, ApprovalKind, ApprovalLevel, ApprovalVote
from .services import absences, policies
from .services.levels import Book
from .states import ApprovalStatus

ORDERINGS = {
    "respondBy": "respond_by",
    "requestedAt": "requested_at",
}
HISTORY_ORDERINGS = {"requestedAt": "requested_at"}
_CLOSED_OR_NOW = Coalesce("closed_at", Now())
_LATE = Q(respond_by__lte=_CLOSED_OR_NOW)
_SOON = Q(closed_at=None, due_soon_at__lte=Now())
# As `Approval.sla_state`.
SLA = {"ok": ~_LATE & ~_SOON, "due_soon": _SOON & ~_LATE, "overdue": _LATE}


decidable_by = rights.decidable_by


class Levels:
    """Binds `templates_app.ports.approval_levels`."""

    def known_levels(self, workspace_id: UUID) -> set[str]:
        return set(ApprovalLevel.objects.filter(workspace=workspace_id).values_list("name", flat=True))

    def people(
        self, workspace_id: UUID, levels: Collection[str], *, absent: bool = False
    ) -> Mapping[str, frozenset[int]]:
        return {level: rights.people_of(workspace_id, level, absent=absent) for level in levels}

    def assigned(
        self, workspace_id: UUID, assignees: Assignees, *, absent: bool = False
    ) -> tuple[frozenset[int], list[str]]:
        named = LevelAsk("", 0, users=assignees.users, groups=assignees.groups, roles=assignees.roles)
        found = Book(workspace_id).named(named)
        people = rights.people_among(workspace_id, found.users, found.groups, absent=absent)
        return people, list(found.notes)

    def deputy_loops(self, workspace_id: UUID) -> list[tuple[int, ...]]:
        return absences.loops(workspace_id)

    def author_may_pass(self, workspace_id: UUID) -> bool:
        return policies.policy_of(workspace_id).own_templates


# -- lists and one ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which approvals a list shows; None means any."""

    workspace_id: UUID | None = None
    execution_id: UUID | None = None
    block_id: str | None = None
    kind: str | None = None
    statuses: Sequence[str] = ()
    sla: str | None = None
    ordering: str = ""


def pending_for(user: access.Principal, chosen: Filter | None = None) -> QuerySet[Approval]:
    """What waits for `user`, the nearest deadline first unless ordered otherwise; for `shown`."""
    rows = decidable_by(user).filter(status=ApprovalStatus.PENDING)
    return _ordered(_narrowed(rows, chosen or Filter()), chosen, ORDERINGS, "respondBy")


def history_for(user: access.Principal, chosen: Filter | None = None) -> QuerySet[Approval]:
    """All approvals `user` may see, decided or not, the latest first unless told otherwise; for `shown`."""
    rows = _of_known_workspaces(user)
    return _ordered(_narrowed(rows, chosen or Filter()), chosen, HISTORY_ORDERINGS, "-requestedAt")


def _of_known_workspaces(user: access.Principal) -> QuerySet[Approval]:
    """As `visible`, the workspaces read before: else the planner does not take the index of each."""
    if getattr(user, "is_superuser", False) and user.is_active:
        return Approval.objects.all()
    workspace_ids = list(access.workspaces(user).values_list("pk", flat=True))
    return Approval.objects.filter(workspace__in=workspace_ids)


def visible(user: access.Principal) -> QuerySet[Approval]:
    """All approvals of the workspaces `user` may look at."""
    return Approval.objects.visible_to(user)


def find(user: access.Principal, approval_id: UUID) -> Approval:
    """One approval that `user` may see; whether they may decide it is `decidable_by`'s business.

    Raises:
        NotFound: there is none, or it may not be seen.
    """
    approval = shown(visible(user)).filter(pk=approval_id).first()
    if approval is None:
        raise NotFound("There is no such approval.", approval_id=str(approval_id))
    return approval


def votes_of(approval: Approval) -> QuerySet[ApprovalVote]:
    """What each person said to it, the first first."""
    return approval.votes.select_related("user", "on_behalf_of")


def levels_of(approval: Approval) -> list[JSONObject]:
    """The levels it goes through, as far as anybody may know."""
    return [
        {
            "level": level["level"],
            "quorum": level["quorum"],
            "timeout": level["timeout_ms"],
            "escalation": level["climbs"],
        }
        for level in approval.levels
    ]


def assignees_of(approval: Approval) -> QuerySet[ApprovalAssignee]:
    """Who is named at the present level."""
    rows = approval.assignees.filter(level_index=approval.level_index)
    return rows.select_related("user", "group", "delegated_by")


def remarks_of(approval: Approval) -> QuerySet[ApprovalComment]:
    """What was said about it, the first first."""
    return approval.remarks.select_related("user")


def shown(rows: QuerySet[Approval]) -> QuerySet[Approval]:
    """With what a row names of its execution and template, and without their big columns."""
    return (
        rows.select_related("execution__template_version__template", "responder", "claimed_by", "sample")
        .annotate(
            simulated=ExpressionWrapper(Q(execution__simulation__isnull=False), output_field=BooleanField())
        )
        .defer(
            "execution__input",
            "execution__simulation",
            "execution__error",
            "execution__template_version__definition",
            "execution__template_version__template__search_text",
        )
    )


def _narrowed(rows: QuerySet[Approval], chosen: Filter) -> QuerySet[Approval]:
    if chosen.workspace_id is not None:
        rows = rows.filter(workspace=chosen.workspace_id)
    if chosen.execution_id is not None:
        rows = rows.filter(execution=chosen.execution_id)
    if chosen.block_id is not None:
        rows = rows.filter(block_id=chosen.block_id)
    if chosen.kind is not None:
        rows = rows.filter(kind=chosen.kind)
    if chosen.sla is not None:
        rows = rows.filter(SLA[chosen.sla])
    if chosen.statuses:
        rows = rows.filter(status__in=list(chosen.statuses))
    return rows


def _ordered(
    rows: QuerySet[Approval], chosen: Filter | None, known: dict[str, str], default: str
) -> QuerySet[Approval]:
    ordering = (chosen.ordering if chosen else "") or default
    sign = "-" if ordering.startswith("-") else ""
    return rows.order_by(f"{sign}{known[ordering.removeprefix('-')]}", f"{sign}id")


def history(*, execution_id: UUID, block_pks: Sequence[int] | None = None) -> list[HumanInteraction]:
    """What people were asked in one execution.  Binds `executions.ports.human_history`."""
    rows = Approval.objects.filter(execution=execution_id).select_related("responder")
    if block_pks is not None:
        rows = rows.filter(block_execution__in=list(block_pks))
    answered = {ApprovalStatus.APPROVED.value: True, ApprovalStatus.REJECTED.value: False}
    return [
        HumanInteraction(
            approval_id=row.pk,
            block_pk=row.block_execution_id,
            kind=row.kind,
            level=row.level,
            status=row.status,
            requested_at=row.requested_at,
            respond_by=row.respond_by,
            responded_at=row.responded_at,
            approved=answered.get(row.status),
            response=row.response,
            comments=row.comments,
            approver=row.responder.get_username() if row.responder else "",
            carried_from=row.carried_from,
        )
        for row in rows.defer("request", "input_schema").order_by("requested_at", "id")
    ]


def people_asked(*, workspace_id: UUID, blocks: QuerySet[Any, Any]) -> int:
    """How many people are asked about these blocks now.  Binds `executions.ports.people_asked`."""
    rows = Approval.objects.filter(block_execution__in=blocks, status=ApprovalStatus.PENDING)
    levels = rows.filter(assigned=False).values_list("level", flat=True).distinct()
    people: set[int] = set()
    for level in levels:
        people |= rights.people_of(workspace_id, level)
    named = ApprovalAssignee.objects.filter(approval__in=rows, level_index=F("approval__level_index"))
    pairs = set(named.values_list("user", "group"))
    users, groups = {user for user, _ in pairs if user}, {group for _, group in pairs if group}
    return len(people | rights.people_among(workspace_id, users, groups))


# -- what follows -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    block_id: str
    name: str
    maybe: bool  # a branch, a guard or another predecessor has a say in it
    once: bool = False  # its effect happens outside and cannot be taken back


@dataclass(frozen=True, slots=True)
class Follows:
    """What an answer leads to, as far as the definition tells it.

    `on_reject` names the rule: `fail`, `skip` or `continue`; a fix that is refused always fails.
    """

    approve: tuple[Step, ...]
    reject: tuple[Step, ...]
    on_reject: str
    respond_by: datetime
    then: tuple[Step, ...] = ()  # behind the step itself, where that is what an approval lets run


def what_follows(approval: Approval) -> Follows:
    """The steps an approver should have in mind before answering."""
    version = approval.execution.template_version
    definition = _definition(version.pk, version.content_hash)
    block = next((block for block in definition.blocks if block.block_id == approval.block_id), None)
    if block is None:  # a compensation: its execution ends, nothing follows
        return Follows(approve=(), reject=(), on_reject="fail", respond_by=approval.respond_by)
    alone = approval.kind == ApprovalKind.APPROVAL and not (block.agent_id or block.tool_type)
    nexts = _after(definition, block, _chosen(block, approved=True) if alone else None)
    human = definition.human_of(block)
    on_reject = human.on_reject if human is not None and approval.kind != ApprovalKind.FIX else "fail"
    reaches = {
        "fail": {"failure", "always"},
        "skip": {"always"},
        "continue": {"success", "always"},
    }[on_reject]
    approve = tuple(step for step, run_on in nexts if run_on in {"success", "always"})
    then: tuple[Step, ...] = ()
    asked_before = approval.kind not in (ApprovalKind.INPUT, ApprovalKind.REVIEW)
    if asked_before and (block.agent_id or block.tool_type):
        # It is asked before the block: what is approved is the block itself.
        approve, then = (_step(block, maybe=False),), approve
    if alone and on_reject == "continue":
        nexts = _after(definition, block, _chosen(block, approved=False))
    return Follows(
        approve=approve,
        reject=tuple(step for step, run_on in nexts if run_on in reaches),
        on_reject=on_reject,
        respond_by=approval.respond_by,
        then=then,
    )


def _chosen(block: Block, *, approved: bool) -> frozenset[str] | None:
    """The blocks that a decision alone leads to, of those that branches name; None: the run will tell.

    A step that nobody works on gives the decision itself as its output, so conditions that look at
    nothing but `approved` can be told beforehand.
    """
    if block.conditions is None:
        return None
    texts = [block.conditions.expression or "", *(branch.condition for branch in block.conditions.branches)]
    compiled = compile_conditions(block.conditions)
    if any("response" in text or "input" in text for text in texts) or compiled.block_refs != {
        block.block_id
    }:
        return None
    output = {"approved": approved, "response": None}
    try:
        choice = choose(compiled, {"blocks": {block.block_id: {"output": output, "status": "completed"}}})
    except (NoBranchMatched, ExpressionError):
        return None
    return frozenset(name for taken in choice.taken for name in block.conditions.branches[taken].next_blocks)


def _step(block: Block, maybe: bool) -> Step:
    return Step(block.block_id, block.name or block.block_id, maybe, once=block.effect == "once")


def _after(definition: Definition, block: Block, chosen: frozenset[str] | None) -> list[tuple[Step, str]]:
    """The blocks that directly follow, each with its `runOn`; of those that branches name, the chosen."""
    named = {
        target
        for branch in (block.conditions.branches if block.conditions else ())
        for target in branch.next_blocks
    }
    found: list[tuple[Step, str]] = []
    for other in definition.blocks:
        if chosen is not None and other.block_id in named - chosen:
            continue
        if other.block_id in named or block.block_id in other.dependencies:
            maybe = (
                (other.block_id in named and chosen is None)
                or other.when is not None
                or any(dependency != block.block_id for dependency in other.dependencies)
            )
            found.append((_step(other, maybe), other.run_on))
    return found


@lru_cache(maxsize=32)
def _definition(version_id: int, content_hash: str) -> Definition:
    """A version's definition, which never changes; the hash tells one database's version 7 from another's."""
    return parsing.parse(TemplateVersion.objects.values_list("definition", flat=True).get(pk=version_id))
