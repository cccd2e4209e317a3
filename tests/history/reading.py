"""The rows of executions, some at a time, each batch as of one moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Model, QuerySet

from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan
from approvals.models import Approval, ApprovalAssignee, ApprovalVote
from executions.incidents.models import FailureNote, IncidentBlock
from executions.models import AgentStep, BlockAttempt, BlockExecution, EventWait, Execution, LateResult, Timer
from executions.selectors import database_now

M = TypeVar("M", bound=Model)
BATCH = 50
Place = tuple[int, int, int]  # epoch, idx, iteration

FOLDED = ("block_changed", "execution_changed")


@dataclass
class Story:
    """One execution with everything that is recorded of it."""

    execution: Execution
    plan: Plan
    now: datetime
    rows: dict[Place, BlockExecution] = field(default_factory=dict)
    attempts: dict[int, list[BlockAttempt]] = field(default_factory=dict)
    late: dict[int, list[LateResult]] = field(default_factory=dict)
    approvals: list[Approval] = field(default_factory=list)
    timers: dict[str, Timer] = field(default_factory=dict)
    waits: dict[int, EventWait] = field(default_factory=dict)
    children: dict[tuple[int | None, int | None], Execution] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    steps: dict[str, list[AgentStep]] = field(default_factory=dict)  # by operation
    counted: dict[int, int] = field(default_factory=dict)  # failures of a block, by incidents or to be
    votes: dict[UUID, list[ApprovalVote]] = field(default_factory=dict)
    delegations: dict[UUID, list[ApprovalAssignee]] = field(default_factory=dict)
    audit: list[AuditEntry] = field(default_factory=list)
    decisions: list[AuditEntry] = field(default_factory=list)  # of its approvals

    def current(self) -> list[BlockExecution]:
        """The rows of the present epoch, items after their block."""
        epoch = self.execution.epoch
        return [row for place, row in sorted(self.rows.items()) if place[0] == epoch]

    def own(self) -> list[BlockExecution]:
        """Rows of every epoch that are no copies of earlier ones."""
        return [row for _, row in sorted(self.rows.items()) if row.carried_from is None]

    def check_timer(self) -> Timer | None:
        return self.timers.get(f"check:{self.execution.pk}")


def stories(execution_ids: Sequence[UUID] | None) -> Iterator[Story]:
    wanted = execution_ids
    if wanted is None:
        wanted = list(Execution.objects.order_by("created_at").values_list("pk", flat=True))
    for start in range(0, len(wanted), BATCH):
        with _one_moment():
            yield from _read(wanted[start : start + BATCH])


def _one_moment() -> AbstractContextManager[object]:
    """One snapshot; a test that is in a transaction already has what it has."""
    return nullcontext() if connection.in_atomic_block else _snapshot()


class _snapshot:
    def __enter__(self) -> None:
        self._atomic = transaction.atomic()
        self._atomic.__enter__()
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    def __exit__(self, *error: Any) -> None:
        self._atomic.__exit__(*error)


def _read(ids: Sequence[UUID]) -> list[Story]:
    now = database_now()
    runs = Execution.objects.filter(pk__in=ids).select_related("template_version__template")
    plans: dict[int, Plan] = {}
    found: dict[UUID, Story] = {}
    for run in runs.order_by("created_at"):
        version = run.template_version
        if version.pk not in plans:
            plans[version.pk] = compile_plan(parse(version.definition))
        found[run.pk] = Story(run, plans[version.pk], now)
    owner: dict[int, Story] = {}
    for row in BlockExecution.objects.filter(execution__in=found):
        story = owner[row.pk] = found[row.execution_id]
        story.rows[row.epoch, row.idx, row.iteration] = row
    for attempts in _grouped(BlockAttempt.objects.order_by("attempt"), owner).items():
        owner[attempts[0]].attempts[attempts[0]] = attempts[1]
    for late in _grouped(LateResult.objects.order_by("pk"), owner).items():
        owner[late[0]].late[late[0]] = late[1]
    for step in AgentStep.objects.filter(block__execution__in=found).order_by("number"):
        owner[step.block_id].steps.setdefault(step.operation, []).append(step)
    _read_failures(owner)
    for wait in EventWait.objects.filter(execution__in=found):
        found[wait.execution_id].waits[wait.block_id] = wait
    for timer in Timer.objects.filter(execution__in=found):
        found[timer.execution_id].timers[timer.key] = timer
    for child in Execution.objects.filter(parent_block__execution__in=found):
        assert child.parent_block_id is not None
        owner[child.parent_block_id].children[child.parent_block_id, child.parent_attempt] = child
    _read_people(found)
    for event in Event.objects.filter(execution_id__in=found).exclude(type="block_log").order_by("id"):
        assert event.execution_id is not None
        found[event.execution_id].events.append(event)
    entries = AuditEntry.objects.filter(target_type="execution", target_id__in=[str(pk) for pk in found])
    for entry in entries.order_by("id"):
        found[UUID(entry.target_id)].audit.append(entry)
    return list(found.values())


def _grouped(rows: QuerySet[M], owner: dict[int, Story]) -> dict[int, list[M]]:
    by_block: dict[int, list[M]] = defaultdict(list)
    for row in rows.filter(block__in=owner):
        by_block[row.block_id].append(row)  # type: ignore[attr-defined]  # both models have a block
    return by_block


def _read_failures(owner: dict[int, Story]) -> None:
    """What incidents count, and what the clock has yet to count."""
    counted: Counter[int] = Counter()
    for kept in IncidentBlock.objects.filter(block__in=owner):
        counted[kept.block_id] += kept.failures
    counted.update(note.block for note in FailureNote.objects.filter(block__in=owner))
    for block, failures in counted.items():
        owner[block].counted[block] = failures


def _read_people(found: dict[UUID, Story]) -> None:
    asked: dict[str, Story] = {}
    for approval in Approval.objects.filter(execution__in=found).order_by("requested_at", "pk"):
        story = asked[str(approval.pk)] = found[approval.execution_id]
        story.approvals.append(approval)
    for vote in ApprovalVote.objects.filter(approval__in=list(asked)).select_related("approval"):
        asked[str(vote.approval_id)].votes.setdefault(vote.approval_id, []).append(vote)
    for given in ApprovalAssignee.objects.filter(approval__in=list(asked), delegated_by__isnull=False):
        asked[str(given.approval_id)].delegations.setdefault(given.approval_id, []).append(given)
    entries = AuditEntry.objects.filter(target_type="approval", target_id__in=list(asked))
    for entry in entries.order_by("id"):
        if entry.action == "approval.respond":
            asked[entry.target_id].decisions.append(entry)
