"""The rows of one epoch copied to another: of the same execution by a restart, of a new one by a fork.

Blocks that run again begin anew; the others are carried as they ended, and point to the row in which
they did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from agentflow.workflow.plan import Plan
from agentflow.workflow.restart import RestartPlan, Settled
from executions.engine.facts import Facts
from executions.engine.run import raw_cursor
from executions.models import BlockExecution
from executions.states import SETTLED


@dataclass(frozen=True, slots=True)
class Origin:
    """The epoch whose rows are copied."""

    execution_id: UUID
    epoch: int


def settled_blocks(facts: Facts, epoch: int) -> dict[int, Settled]:
    """How the blocks of an epoch ended, those that have; compensations are of their epoch only."""
    rows = BlockExecution.objects.filter(
        execution=facts.execution_id,
        epoch=epoch,
        idx__lt=len(facts.plan.blocks),
        iteration=0,
        status__in=SETTLED,
    ).order_by("idx")
    return {
        idx: Settled(status, reason, None if choice is None else tuple(choice))
        for idx, status, reason, choice in rows.values_list("idx", "status", "reason", "choice")
    }


def undone_blocks(facts: Facts) -> set[tuple[int, int]]:
    """Epochs and positions in which a block stands as completed whose compensation has completed since."""
    plan = facts.plan
    if not plan.compensations:
        return set()
    rows = BlockExecution.objects.filter(execution=facts.execution_id, iteration=0, status="completed")
    worked_in: dict[tuple[int, int], int] = {}  # the row in which it was worked on
    compensated: list[tuple[int, int]] = []
    for pk, origin, epoch, idx in rows.values_list("pk", "carried_from", "epoch", "idx"):
        worked_in[epoch, idx] = origin or pk
        undoes = plan[idx].compensates
        if undoes is not None:
            compensated.append((epoch, undoes))
    undone = {worked_in[place] for place in compensated}
    return {place for place, origin in worked_in.items() if origin in undone}


# The sequences that a block's effect has had, in all epochs: with the next one where it happened, which it
# did in the accepted rounds of a `repeat` that came to no end, too.
_NEXT_KEY = (
    "(SELECT max(CASE WHEN %(reset)s OR k.status = 'completed' OR EXISTS (SELECT 1"
    " FROM executions_blockattempt a WHERE a.block_id = k.id AND a.attempt = k.attempt AND a.outcome = 'ok')"
    " THEN (SELECT max(i.effect_seq) + 1"
    " FROM executions_blockexecution i WHERE i.execution_id = k.execution_id AND i.epoch = k.epoch"
    " AND i.idx = k.idx) ELSE k.effect_seq END) FROM executions_blockexecution k"
    " WHERE k.execution_id = %(execution)s AND k.epoch = ANY(%(epochs)s::int[]) AND k.idx = old.idx"
    " AND k.iteration = 0)"
)

# Columns that are not simply the old row's where a block is carried, or new where it runs again.
# The key of an effect changes only where one that happened is asked for again, or with a reset: an
# effect whose outcome is unknown keeps it, so that the provider knows the call.  Items of a `forEach`
# have keys of their own, above which the block's rises too.
_COLUMNS: Mapping[str, tuple[str, str]] = {  # column -> (carried, runs again)
    "execution_id": ("%(execution)s", "%(execution)s"),
    "epoch": ("%(epoch)s", "%(epoch)s"),
    "idx": ("old.idx", "old.idx"),
    "iteration": ("old.iteration", "0"),
    "block_id": ("old.block_id", "old.block_id"),
    "status": ("old.status", "'blocked'"),
    # A partial join may be carried though blocks before it run again: they will close its edges.
    "todo": ("coalesce(x.todo, old.todo)", "x.todo"),
    "dead": ("coalesce(x.dead, old.dead)", "x.dead"),
    "failed": ("coalesce(x.failed, old.failed)", "x.failed"),
    "effect": ("old.effect", "old.effect"),
    "effect_seq": ("old.effect_seq", f"coalesce({_NEXT_KEY}, 0)"),
    "carried_from": ("coalesce(old.carried_from, old.id)", "NULL"),
}


@cache
def _next_rows() -> str:
    """Copies the rows of an epoch to another; a column added later is carried without being named here."""
    names, values = [], []
    for field in BlockExecution._meta.concrete_fields:
        if field.primary_key or field.column is None:
            continue
        carried, again = _COLUMNS.get(field.column, (f"old.{field.column}", _fresh(field)))
        names.append(field.column)
        values.append(carried if carried == again else f"CASE WHEN x.again THEN {again} ELSE {carried} END")
    return (
        f"INSERT INTO executions_blockexecution ({', '.join(names)}) SELECT {', '.join(values)}"
        " FROM executions_blockexecution old LEFT JOIN unnest(%(idxs)s::int[], %(todos)s::int[],"
        " %(deads)s::int[], %(faileds)s::int[], %(agains)s::bool[]) AS x(idx, todo, dead, failed, again)"
        " ON x.idx = old.idx WHERE old.execution_id = %(source)s AND old.epoch = %(source_epoch)s"
        " AND old.idx < %(blocks)s AND (x.again IS NOT TRUE OR old.iteration = 0)"
        " ORDER BY old.idx, old.iteration"
    )


def _fresh(field: object) -> str:
    default = getattr(field, "get_default", lambda: None)()
    if default is None:
        return "NULL"
    return str(default) if isinstance(default, int) else "'" + str(default).replace("'", "''") + "'"


def copy(
    found: RestartPlan, origin: Origin, *, blocks: int, execution_id: UUID, epoch: int, reset: bool = False
) -> None:
    """Write the rows of an execution's new epoch, which has so many blocks besides compensations."""
    counters = [*found.reruns.values(), *found.joins.values()]
    raw_cursor().execute(
        _next_rows(),
        {
            "idxs": [*found.reruns, *found.joins],
            "todos": [c.todo for c in counters],
            "deads": [c.dead for c in counters],
            "faileds": [c.failed for c in counters],
            "agains": [True] * len(found.reruns) + [False] * len(found.joins),
            "reset": reset,
            "blocks": blocks,
            "execution": execution_id,
            "epoch": epoch,
            "source": origin.execution_id,
            "source_epoch": origin.epoch,
            "epochs": list(range(1, epoch)),
        },
    )


@cache
def _kept_rows() -> str:
    names = [
        field.column
        for field in BlockExecution._meta.concrete_fields
        if not field.primary_key and field.column is not None
    ]
    values = {name: _COLUMNS[name][0] if name in _COLUMNS else f"old.{name}" for name in names}
    values["idx"] = "x.idx"
    return (
        f"INSERT INTO executions_blockexecution ({', '.join(names)}) SELECT {', '.join(values.values())}"
        " FROM executions_blockexecution old JOIN unnest(%(olds)s::int[], %(idxs)s::int[], %(todos)s::int[],"
        " %(deads)s::int[], %(faileds)s::int[]) AS x(old, idx, todo, dead, failed) ON x.old = old.idx"
        " WHERE old.execution_id = %(source)s AND old.epoch = %(source_epoch)s ORDER BY x.idx, old.iteration"
    )


_NEW_ROWS = """
INSERT INTO executions_blockexecution (execution_id, epoch, idx, iteration, round, block_id, status, todo,
    dead, failed, attempt, crashes, tries_from, effect, effect_seq, reason)
SELECT %(execution)s, %(epoch)s, x.idx, 0, 0, x.block_id, 'blocked', x.todo,
    x.dead, x.failed, 0, 0, 0, x.effect, 0, ''
FROM unnest(%(idxs)s::int[], %(block_ids)s::text[], %(todos)s::int[], %(deads)s::int[], %(faileds)s::int[],
    %(effects)s::text[]) AS x(idx, block_id, todo, dead, failed, effect)
"""


def copy_kept(found: RestartPlan, kept: Mapping[int, int], origin: Origin, execution_id: UUID) -> None:
    """Write the rows of blocks that another version keeps; `kept`: position -> position in that version."""
    joins = [found.joins.get(new) for new in kept.values()]
    raw_cursor().execute(
        _kept_rows(),
        {
            "olds": list(kept),
            "idxs": list(kept.values()),
            "todos": [each and each.todo for each in joins],
            "deads": [each and each.dead for each in joins],
            "faileds": [each and each.failed for each in joins],
            "execution": execution_id,
            "epoch": 1,
            "source": origin.execution_id,
            "source_epoch": origin.epoch,
        },
    )


def write_new(found: RestartPlan, plan: Plan, effects: Sequence[str], execution_id: UUID) -> None:
    """Write the rows of blocks that begin anew in another version; `effects` of those, in their order."""
    raw_cursor().execute(
        _NEW_ROWS,
        {
            "execution": execution_id,
            "epoch": 1,
            "idxs": list(found.reruns),
            "block_ids": [plan[idx].block_id for idx in found.reruns],
            "todos": [counters.todo for counters in found.reruns.values()],
            "deads": [counters.dead for counters in found.reruns.values()],
            "faileds": [counters.failed for counters in found.reruns.values()],
            "effects": list(effects),
        },
    )
