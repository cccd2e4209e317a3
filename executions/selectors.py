"""Reads of executions: what a user may see, and the rows that API, pages and admin show.

Every way in goes through `visible_to`; what starts from an `Execution` or a `BlockExecution` rests on
one that was found here.  Big values are left in the database: rows carry a size where a value is too
big to be shown inline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.contrib.postgres.aggregates import ArrayAgg
from django.db import connection, models
from django.db.models import Case, Count, F, JSONField, OuterRef, Q, QuerySet, Subquery, Sum, When, Window
from django.db.models.expressions import RawSQL
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast, Coalesce

from agentflow.conf import LIMITS, MB
from agentflow.errors import NotFound
from agentflow.events import store
from agentflow.events.models import Event, Level
from agentflow.events.store import Cursor
from agentflow.governance.access import Principal
from agentflow.types import JSONObject, JSONValue

from . import facts
from .engine import journal
from .engine.places import GOES_ON, LIVE, UNLIMITED
from .models import (
    AgentStep,
    Blob,
    BlockAttempt,
    BlockExecution,
    Execution,
    LateResult,
    RecoveryPoint,
    RoutingReceipt,
    Timer,
)
from .ports import HumanInteraction, human_history
from .states import SETTLED, BlockStatus

# However small each value is, one answer carries no more than this of them.
INLINE_VALUES_BYTES = 8 * MB

ORDERINGS = {
    "createdAt": F("created_at"),
    "startedAt": F("started_at"),
    "completedAt": F("completed_at"),
    "status": F("status"),
    "templateName": F("template_version__template__name"),
}


# -- executions ----------------------------------------------------------------


def executions(user: Principal) -> QuerySet[Execution]:
    """The executions `user` may see, with what a summary names and without the big columns."""
    return (
        Execution.objects.visible_to(user)
        .select_related("template_version__template", "created_by")
        .defer("input", "template_version__definition", "template_version__template__search_text")
    )


def find(user: Principal, execution_id: UUID) -> Execution:
    """One execution.

    Raises:
        NotFound: there is none, or `user` may not see it.
    """
    execution = executions(user).filter(pk=execution_id).first()
    if execution is None:
        raise NotFound("There is no such execution.", execution_id=str(execution_id))
    return execution


@dataclass(frozen=True, slots=True)
class Filter:
    """Which executions a list shows; None and empty mean any."""

    statuses: Collection[str] = ()
    template_id: UUID | None = None
    workspace_id: UUID | None = None
    simulated: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    business_key: str | None = None
    stuck: bool | None = None
    search: str = ""
    ordering: str = "-createdAt"


def matching(user: Principal, chosen: Filter) -> QuerySet[Execution]:
    """The executions of a list, in order."""
    rows = executions(user)
    if chosen.statuses:
        rows = rows.filter(status__in=chosen.statuses)
    if chosen.template_id:
        rows = rows.filter(template_version__template_id=chosen.template_id)
    if chosen.workspace_id:
        rows = rows.filter(workspace_id=chosen.workspace_id)
    if chosen.simulated is not None:
        rows = rows.filter(simulation__isnull=not chosen.simulated)
    if chosen.created_after:
        rows = rows.filter(created_at__gte=chosen.created_after)
    if chosen.created_before:
        rows = rows.filter(created_at__lt=chosen.created_before)
    if chosen.business_key is not None:
        rows = rows.filter(business_key=chosen.business_key)
    if chosen.stuck is not None:
        rows = rows.filter(stuck()) if chosen.stuck else rows.exclude(stuck())
    if chosen.search:
        rows = rows.filter(named(chosen.search))
    key = ORDERINGS[chosen.ordering.removeprefix("-")]
    first = key.desc(nulls_last=True) if chosen.ordering.startswith("-") else key.asc(nulls_last=True)
    return rows.order_by(first, "-created_at", "pk")


def stuck() -> Q:
    """Executions of which the clock found that they are stuck."""
    return Q(pk__in=Timer.objects.filter(stuck_at__isnull=False).values("execution"))


def named(text: str) -> Q:
    """By a part of the template's name or the beginning of the id."""
    found = Q(template_version__template__name__icontains=text)
    digits = text.strip().replace("-", "").lower()
    if 0 < len(digits) <= 32 and all(c in "0123456789abcdef" for c in digits):
        low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        found |= Q(pk__gte=low, pk__lte=high)
    return found


class Progress(NamedTuple):
    settled: int
    total: int


def progress(execution_ids: Iterable[UUID]) -> dict[UUID, Progress]:
    """How far executions have come, in one query."""
    rows = (
        BlockExecution.objects.filter(execution__in=list(execution_ids), epoch=F("execution__epoch"))
        .values_list("execution")
        .annotate(settled=Count("pk", filter=Q(status__in=SETTLED)), total=Count("pk"))
        .order_by()
    )
    return {execution_id: Progress(settled, total) for execution_id, settled, total in rows}


def database_now() -> datetime:
    """Times in rows are from the database's clock, and compared only with it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


# -- blocks --------------------------------------------------------------------


class _Bytes(models.Func):
    """Length of a JSON value's text."""

    function = "octet_length"
    output_field = models.BigIntegerField()


def _size(field: str) -> models.Func:
    return _Bytes(Cast(field, models.TextField()))


def _blob_bytes(field: str) -> Subquery:
    return Subquery(
        Blob.objects.filter(pk=OuterRef(field)).values("bytes"), output_field=models.BigIntegerField()
    )


class BlockRow(NamedTuple):
    """One block, as a tuple: an execution has up to 10,000 of them.

    `output_bytes` is None where there is no output; an output too big to be shown is left out, and so
    is an input.
    """

    pk: int
    block_id: str
    status: str
    attempt: int
    effect: str
    reason: str
    started_at: datetime | None
    completed_at: datetime | None
    available_at: datetime | None
    lease_expires_at: datetime | None
    todo: int
    choice: JSONValue
    error: JSONValue
    input: JSONValue = None
    input_bytes: int | None = None
    output: JSONValue = None
    output_bytes: int | None = None
    edited_by: JSONValue = None  # the name of who edited the output
    edited_at: JSONValue = None
    edit_reason: JSONValue = None

    @property
    def settled(self) -> bool:
        return self.status in SETTLED


_ROW_COLUMNS = (
    "pk",
    "block_id",
    "status",
    "attempt",
    "effect",
    "reason",
    "started_at",
    "completed_at",
    "available_at",
    "lease_expires_at",
    "todo",
    "choice",
    "error",
)


_VALUE_COLUMNS = (
    "shown_input",
    "input_bytes",
    "shown_output",
    "output_bytes",
    "edit__by",
    "edit__at",
    "edit__reason",
)


@dataclass(frozen=True, slots=True)
class AgentQueue:
    """Who is served before a block that waits for an agent."""

    agent_id: str
    limit: int | None
    rate: int | None
    held: int
    before: int


def items_by_status(execution: Execution) -> dict[str, dict[str, int]]:
    """How many items of each `forEach` block, by its blockId, have which status."""
    rows = execution.blocks.filter(epoch=execution.epoch, iteration__gt=0)
    found: dict[str, dict[str, int]] = {}
    for block_id, status, count in rows.values_list("block_id", "status").annotate(Count("pk")):
        found.setdefault(block_id, {})[status] = count
    return found


@dataclass(frozen=True, slots=True)
class Queue:
    """Who comes before something that waits for a place of a concurrency key, as executions' ids."""

    key: str
    limit: int
    holders: tuple[str, ...]
    before: tuple[str, ...]


def place_queues(execution: Execution) -> dict[int | None, Queue]:
    """By block row (None: the run itself), what waits for a place."""
    with connection.cursor() as cursor:
        cursor.execute(_PLACE_QUEUES, {"execution": execution.pk})
        return {
            block: Queue(key, limit, tuple(holders or ()), tuple(before or ()))
            for block, key, limit, holders, before in cursor.fetchall()
        }


_PLACE_QUEUES = """
SELECT m.block_id, m.key, m.places, q.holders, q.before FROM executions_place m
LEFT JOIN executions_blockexecution o ON o.id = m.block_id
CROSS JOIN LATERAL (
  SELECT array_agg(p.execution_id::text ORDER BY p.id) FILTER (WHERE p.held) AS holders,
         array_agg(p.execution_id::text ORDER BY p.priority DESC, p.id) FILTER (WHERE NOT p.held) AS before
  FROM executions_place p JOIN executions_execution e ON e.id = p.execution_id
  LEFT JOIN executions_blockexecution b ON b.id = p.block_id
  WHERE p.workspace_id = m.workspace_id AND p.kind = m.kind AND p.key = m.key AND e.completed_at IS NULL
    AND (b.id IS NULL OR b.completed_at IS NULL)
    AND (p.held OR (e.status IN ('pending', 'running')
                    AND (p.priority > m.priority OR (p.priority = m.priority AND p.id < m.id))))) q
WHERE m.execution_id = %(execution)s AND NOT m.held AND m.kind <> 'agent'
  AND (o.id IS NULL OR o.iteration = 0)
"""


def agents_waited_for(execution: Execution) -> dict[int, list[AgentQueue]]:
    """By block row, the agents that it waits for; none: any that is fit."""
    found: dict[int, list[AgentQueue]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_AGENT_QUEUES, {"execution": execution.pk})
        for block_pk, agent_id, *counts in cursor.fetchall():
            queues = found.setdefault(block_pk, [])
            if agent_id:
                queues.append(AgentQueue(agent_id, *counts))
    return found


_AGENT_QUEUES = f"""
SELECT m.block_id, m.key, nullif(m.places, {UNLIMITED}), m.rate, q.held, q.before FROM executions_place m
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE p.held)::int AS held, count(*) FILTER (WHERE NOT p.held)::int AS before
  FROM executions_place p JOIN executions_execution e ON e.id = p.execution_id
  JOIN executions_blockexecution b ON b.id = p.block_id
  WHERE p.workspace_id = m.workspace_id AND p.kind = m.kind AND p.key = m.key AND ({LIVE})
    AND (p.held OR ({GOES_ON}
                    AND (p.priority > m.priority OR (p.priority = m.priority AND p.id < m.id))))) q
WHERE m.execution_id = %(execution)s AND NOT m.held AND m.kind = 'agent' ORDER BY m.id
"""


def _blocks(execution: Execution) -> QuerySet[BlockExecution]:
    return execution.blocks.filter(epoch=execution.epoch, iteration=0).order_by("idx")


def block_rows(
    execution: Execution,
    *,
    values: bool = False,
    statuses: Collection[str] = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[BlockRow]:
    """The blocks of an execution in the order of its plan; `values` fetches inputs and outputs too."""
    rows = _blocks(execution)
    if statuses:
        rows = rows.filter(status__in=statuses)
    columns: tuple[str, ...] = _ROW_COLUMNS
    if values:
        rows = _with_values(rows)
        columns += _VALUE_COLUMNS
    window = rows.values_list(*columns)[offset : None if limit is None else offset + limit]
    return [BlockRow(*row) for row in window]


def _with_values(rows: QuerySet[BlockExecution]) -> QuerySet[BlockExecution]:
    rows = rows.annotate(
        given=Case(When(edit__isnull=False, then=KeyTransform("output", "edit")), default=F("output"))
    )
    rows = rows.annotate(
        inline_input=_size("input"),
        inline_output=_size("given"),
        input_bytes=Coalesce("inline_input", _blob_bytes("input_blob")),
        output_bytes=Case(
            When(edit__isnull=False, then=F("inline_output")),
            default=Coalesce("inline_output", _blob_bytes("output_blob")),
        ),
    )
    # Counted in the order of the plan: the first values of a huge execution are shown, the rest by reference.
    order = [F("idx").asc(), F("iteration").asc()]
    rows = rows.annotate(
        input_so_far=Window(Sum("inline_input"), order_by=order),
        output_so_far=Window(Sum("inline_output"), order_by=order),
    )
    return rows.annotate(
        **{
            f"shown_{name}": Case(
                When(
                    Q(
                        **{
                            f"inline_{name}__lte": LIMITS.inline_value_bytes,
                            f"{name}_so_far__lte": INLINE_VALUES_BYTES,
                        }
                    ),
                    then=F(column),
                ),
                output_field=JSONField(),
            )
            for name, column in (("input", "input"), ("output", "given"))
        }
    )


def count_blocks(execution: Execution, *, statuses: Collection[str] = ()) -> int:
    rows = execution.blocks.filter(epoch=execution.epoch)
    return (rows.filter(status__in=statuses) if statuses else rows).count()


def count_by_status(execution: Execution) -> dict[str, int]:
    """How many blocks are in each status that one of them is in, in the order of a block's life."""
    rows = execution.blocks.filter(epoch=execution.epoch).values_list("status").annotate(found=Count("pk"))
    counts = dict(rows.order_by())
    return {status: counts[status] for status in BlockStatus.values if status in counts}


def blocks_by_status(execution: Execution) -> dict[str, list[str]]:
    """The blockIds of an execution by status, each in the order of the plan."""
    rows = (
        execution.blocks.filter(epoch=execution.epoch)
        .values_list("status")
        .annotate(ids=ArrayAgg("block_id", order_by=("idx", "iteration")))
        .order_by()
    )
    return dict(rows)


def find_block(execution: Execution, ref: str) -> BlockExecution:
    """A block by its blockId or, where no block is called so, by the number of its row.

    Raises:
        NotFound: the execution has no such block.
    """
    rows = _blocks(execution)
    block = rows.filter(block_id=ref).first()
    if block is None and ref.isascii() and ref.isdigit() and len(ref) <= 18:
        block = rows.filter(pk=int(ref)).first()
    if block is None:
        raise NotFound("The execution has no such block.", block_id=ref)
    return block


def compensations(execution: Execution) -> list[str]:
    """The blocks of an execution that undo others, in the order of its plan."""
    ids = _blocks(execution).values_list("block_id", flat=True)
    known = facts.of_version(execution.template_version_id)
    return [block_id for block_id in ids if known.get(block_id, facts.NOTHING_KNOWN).compensates]


def items(block: BlockExecution, *, statuses: Collection[str] = ()) -> QuerySet[BlockExecution]:
    """The rows of a `forEach` block, in the order of its items; with a carried block, those it had then."""
    where = (block.execution_id, block.epoch)
    if block.carried_from is not None:
        origin = BlockExecution.objects.values_list("execution", "epoch")
        where = origin.filter(pk=block.carried_from).first() or where
    rows = BlockExecution.objects.filter(execution=where[0], epoch=where[1], idx=block.idx, iteration__gt=0)
    return (rows.filter(status__in=statuses) if statuses else rows).order_by("iteration")


def attempts(block: BlockExecution) -> QuerySet[BlockAttempt]:
    return BlockAttempt.objects.filter(block=block.carried_from or block.pk).order_by("attempt")


def steps(block: BlockExecution) -> QuerySet[AgentStep]:
    """Of a block's agent that works in several, and of those that it called, with the `path` of each.

    Also those before a restart that it went on from.
    """
    origin = block
    if block.carried_from is not None:
        origin = BlockExecution.objects.filter(pk=block.carried_from).first() or block
    of = journal.operation(origin.execution_id, origin.block_id, origin.iteration, origin.effect_seq)
    rows = AgentStep.objects.filter(
        block__execution=origin.execution_id,
        block__block_id=origin.block_id,
        block__iteration=origin.iteration,
    )
    return (
        rows.filter(Q(operation=of) | Q(operation__startswith=f"{of}{journal.STEP}"))
        .annotate(path=RawSQL(_STEP_PATH, [len(of) + len(journal.STEP) + 1, journal.STEP]))
        .order_by("path")
    )


# The numbers of the calls that a step is a part of, and its own: the order in which steps were done.
_STEP_PATH = """
string_to_array(
  substr(executions_agentstep.operation || ':step:' || executions_agentstep.number, %s), %s)::int[]
"""


def receipts(block: BlockExecution) -> dict[int, JSONObject]:
    """By attempt, why it went to its agent."""
    rows = RoutingReceipt.objects.filter(block=block.carried_from or block.pk)
    return dict(rows.values_list("attempt", "receipt"))


def late_results(block: BlockExecution) -> QuerySet[LateResult]:
    return LateResult.objects.filter(block=block.carried_from or block.pk).order_by("pk")


def positions(execution: Execution) -> dict[int, int]:
    """Positions in the plan by the row in which a block was worked on, in this epoch or before."""
    rows = execution.blocks.filter(epoch=execution.epoch).values_list("pk", "carried_from", "idx")
    return {origin or pk: idx for pk, origin, idx in rows}


def carried(execution: Execution) -> dict[int, int]:
    """The rows that were carried over: the row in which a block ended -> the one that is shown."""
    if execution.epoch == 1 and execution.forked_from_id is None:
        return {}
    rows = execution.blocks.filter(epoch=execution.epoch, carried_from__isnull=False)
    return {origin: pk for origin, pk in rows.values_list("carried_from", "pk") if origin is not None}


def questions(execution: Execution, block_pks: Collection[int] | None = None) -> list[HumanInteraction]:
    """What people were asked about blocks that an execution shows, or about these rows; oldest first."""
    found: list[HumanInteraction] = []
    if execution.forked_from_id is not None:
        pks = carried(execution) if block_pks is None else block_pks
        elsewhere = BlockExecution.objects.filter(pk__in=pks).exclude(execution=execution)
        by_execution: dict[UUID, list[int]] = {}
        for pk, source in elsewhere.values_list("pk", "execution"):
            by_execution.setdefault(source, []).append(pk)
        for source, asked in by_execution.items():
            found += human_history()(execution_id=source, block_pks=asked)
    found += human_history()(
        execution_id=execution.pk, block_pks=None if block_pks is None else list(block_pks)
    )
    return found


def outputs(execution: Execution, block_ids: Collection[str]) -> list[BlockRow]:
    """Those blocks with their outputs, completed ones only."""
    rows = _with_values(_blocks(execution).filter(block_id__in=block_ids, status=BlockStatus.COMPLETED))
    columns = (*_ROW_COLUMNS, *_VALUE_COLUMNS)
    return [BlockRow(*row) for row in rows.values_list(*columns)]


def edited_by(execution: Execution) -> dict[str, str]:
    """Who put in the output of each block whose output was edited."""
    rows = _blocks(execution).filter(edit__isnull=False).values_list("block_id", "edit__by")
    return {block_id: str(by) for block_id, by in rows}


def children(block_pks: Iterable[int]) -> dict[int, UUID]:
    """The latest execution that each of these blocks started as its child, where it started one."""
    rows = (
        Execution.objects.filter(parent_block__in=list(block_pks))
        .order_by("parent_attempt")
        .values_list("parent_block", "pk")
    )
    return {block_pk: child for block_pk, child in rows if block_pk is not None}


def parents(found: Iterable[Execution]) -> dict[UUID, UUID]:
    """The execution that started each of these as its child, where one did."""
    started_by = {row.pk: row.parent_block_id for row in found if row.parent_block_id is not None}
    if not started_by:
        return {}
    rows = BlockExecution.objects.filter(pk__in=set(started_by.values())).values_list("pk", "execution")
    runs = dict(rows)
    return {child: runs[block_pk] for child, block_pk in started_by.items() if block_pk in runs}


# -- recovery points -----------------------------------------------------------


def points(execution: Execution) -> QuerySet[RecoveryPoint]:
    """The recovery points of an execution, the newest first."""
    return execution.recovery_points.select_related("created_by").order_by("-pk")


def point(execution_id: UUID, point_id: int) -> RecoveryPoint:
    """One recovery point.

    Raises:
        NotFound: the execution has no such one.
    """
    found = RecoveryPoint.objects.filter(pk=point_id, execution=execution_id).first()
    if found is None:
        raise NotFound("The execution has no such recovery point.", recovery_point_id=point_id)
    return found


# -- logs ----------------------------------------------------------------------


def logs(
    execution: Execution,
    *,
    block_id: str | None = None,
    level: Level | None = None,
    after: Cursor | None = None,
) -> QuerySet[Event]:
    """The events of an execution, oldest first; `level` is the lowest to be shown.

    Only what no transaction still open can precede: following the cursor misses nothing.
    """
    rows = Event.objects.filter(execution_id=execution.pk, xid__lt=store.current().xid)
    if block_id is not None:
        rows = rows.filter(block_id=block_id)
    if level is not None:
        rows = rows.filter(level__gte=level)
    if after is not None:
        rows = rows.filter(Q(xid__gt=after.xid) | Q(xid=after.xid, id__gt=after.id))
    return rows.order_by("xid", "id")
