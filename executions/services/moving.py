"""Move: an execution goes on as a new one, with another version of its template.

The rows of an execution are always of one version, so what goes on is a fork: it has the input, keeps what
has settled and both versions say alike, and runs the rest.  The execution that it comes from ends, in the
same transaction.  Nothing is repeated that may have had an effect: such an execution does not fit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

from django.db import transaction

from agentflow.agents import registry
from agentflow.errors import Conflict, NotFound
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from agentflow.workflow import json_schema
from agentflow.workflow.moving import Move, Pairing, move_plan, pair, repeated
from agentflow.workflow.restart import Settled
from executions import dispatch
from executions.engine.facts import facts_of, version_facts
from executions.engine.judging import CALLBACK, CHILD, TOOL_CHILD
from executions.engine.run import Run, locked, raw_cursor
from executions.models import Execution
from executions.states import SETTLED, TERMINAL
from executions.states import ExecutionStatus as E
from templates_app.compiled import definition_of
from templates_app.models import TemplateVersion
from templates_app.services import checking, references

from . import carrying, control, pinning, starting
from .forking import begin_fork

AT_ONCE = 500  # executions whose blocks are read by one statement
MOVED = "moved"  # the code of an execution that goes on as another


class CannotMove(Conflict):
    """What is asked for does not fit the block or the execution as it is now."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # what stands against it


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether an execution can go on with a version; `code` is empty where nothing stands against it."""

    code: str = ""
    message: str = ""
    kept: tuple[str, ...] = ()  # settled, and reused
    reruns: tuple[str, ...] = ()
    move: Move | None = None

    def as_json(self) -> JSONObject:
        return {"kept": list(self.kept), "reruns": list(self.reruns)}


@dataclass(slots=True)
class _Seen:
    """The blocks of one execution, as far as a move asks for them."""

    status: str
    epoch: int
    child: bool
    version_id: int
    settled: dict[int, Settled] = field(default_factory=dict)
    happened: set[tuple[int, int]] = field(
        default_factory=set
    )  # epoch and position: it did something, or may have
    at_work: list[str] = field(default_factory=list)


_EXECUTIONS = """
SELECT id, status, epoch, parent_block_id IS NOT NULL, template_version_id FROM executions_execution
WHERE id = ANY(%(executions)s::uuid[])
"""
_SETTLED = """
SELECT b.execution_id, b.idx, b.status, b.reason, b.choice
FROM executions_blockexecution b JOIN executions_execution e ON e.id = b.execution_id AND e.epoch = b.epoch
WHERE e.id = ANY(%(executions)s::uuid[]) AND b.iteration = 0 AND b.status = ANY(%(settled)s)
ORDER BY b.idx
"""
_AT_WORK = """
SELECT b.execution_id, b.block_id
FROM executions_blockexecution b JOIN executions_execution e ON e.id = b.execution_id AND e.epoch = b.epoch
WHERE e.id = ANY(%(executions)s::uuid[])
  AND (b.status = 'running' OR b.status = 'waiting_external' AND b.reason = ANY(%(calls)s))
ORDER BY b.idx
"""
_HAPPENED = """
SELECT b.execution_id, b.epoch, b.idx FROM executions_blockexecution b
WHERE b.execution_id = ANY(%(executions)s::uuid[]) AND b.effect <> 'pure' AND b.attempt > 0
  AND (b.status = 'completed' OR EXISTS (
    SELECT 1 FROM executions_blockattempt a WHERE a.block_id = b.id
      AND (a.outcome <> 'error' OR a.failure->>'outcomeUnknown' IS DISTINCT FROM 'false')))
"""


def fits(executions: Sequence[UUID], version: TemplateVersion) -> dict[UUID, Fit]:
    """Whether each of the executions could go on with the version, and how.  Changes nothing."""
    found: dict[UUID, Fit] = {}
    for at in range(0, len(executions), AT_ONCE):
        chunk = executions[at : at + AT_ONCE]
        misfits = _inputs_that_do_not_hold(chunk, version)
        for execution_id, seen in _read(chunk).items():
            found[execution_id] = misfits.get(execution_id) or _fit(seen, version)
    return found


def _read(executions: Sequence[UUID]) -> dict[UUID, _Seen]:
    asked = {
        "executions": list(executions),
        "settled": [str(status) for status in SETTLED],
        "calls": [CALLBACK, CHILD, TOOL_CHILD],
    }
    cursor = raw_cursor()
    found = {pk: _Seen(*columns) for pk, *columns in cursor.execute(_EXECUTIONS, asked).fetchall()}
    for pk, idx, status, reason, choice in cursor.execute(_SETTLED, asked).fetchall():
        found[pk].settled[idx] = Settled(status, reason, None if choice is None else tuple(choice))
    for pk, block_id in cursor.execute(_AT_WORK, asked).fetchall():
        found[pk].at_work.append(block_id)
    for pk, epoch, idx in cursor.execute(_HAPPENED, asked).fetchall():
        found[pk].happened.add((epoch, idx))
    for pk, seen in found.items():
        if seen.happened:
            _forget_what_was_undone(pk, seen)
    return found


def _forget_what_was_undone(execution_id: UUID, seen: _Seen) -> None:
    """What its compensation undid has not happened, and is not kept."""
    facts = facts_of(execution_id)
    if facts is None:
        return
    undone = carrying.undone_blocks(facts)
    seen.happened -= undone
    for epoch, idx in undone:
        if epoch == seen.epoch:
            seen.settled.pop(idx, None)


def _fit(seen: _Seen, version: TemplateVersion) -> Fit:
    if seen.child:
        return Fit("child_execution", "The execution belongs to another one, which is moved instead.")
    if seen.status in (E.COMPLETED, E.CANCELLING):
        return Fit("execution_ended", f"The execution is {seen.status}.")
    if seen.version_id == version.pk:
        return Fit("same_version", "The execution has this version.")
    if seen.at_work:
        return Fit("at_work", f"Steps are at work just now: {_named(seen.at_work)}.")
    pairing = pairing_of(seen.version_id, version.pk)
    move = move_plan(pairing, seen.settled)
    if not move.found.reruns:
        return Fit("nothing_to_run", "Every step of the version has settled.")
    twice = repeated(pairing, move, {idx for _, idx in seen.happened})
    if twice:
        return Fit(
            "effect_repeated",
            f"What these steps did has happened, or may have, and they would run again: {_named(twice)}.",
        )
    return Fit(
        kept=tuple(pairing.old[idx].block_id for idx in move.kept),
        reruns=tuple(pairing.new[idx].block_id for idx in move.found.reruns),
        move=move,
    )


def _named(block_ids: Sequence[str]) -> str:
    shown = ", ".join(block_ids[:5])
    return shown if len(block_ids) <= 5 else f"{shown} and {len(block_ids) - 5} more"


@lru_cache(maxsize=64)
def pairing_of(old_id: int, new_id: int) -> Pairing:
    return pair(version_facts(old_id).plan, version_facts(new_id).plan)


def _inputs_that_do_not_hold(executions: Iterable[UUID], version: TemplateVersion) -> Mapping[UUID, Fit]:
    schema = definition_of(version.pk).input_schema
    if schema is None:
        return {}
    found: dict[UUID, Fit] = {}
    for pk, given in Execution.objects.filter(pk__in=list(executions)).values_list("pk", "input"):
        issues = json_schema.issues(given, schema, at="/input")
        if issues:
            found[pk] = Fit("input_schema_mismatch", f"{issues[0]['pointer']}: {issues[0]['message']}")
    return found


# -- the move ------------------------------------------------------------------


def move(*, execution_id: UUID, version: TemplateVersion, by: User, reason: str = "") -> UUID:
    """Let the execution go on as a new one with the version; gives that one's id.

    Raises:
        NotFound: there is no such execution, or the version was deleted.
        CannotMove: its blocks or its input do not fit, or something might happen twice.
        BusinessKeyTaken: another execution with its business key has become active since.
        InvalidInput: the input gives no concurrency key.
    """
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    new_id = uuid.uuid4()
    with transaction.atomic():
        starting.hold(version.pk)
        with locked(facts) as run:
            fit = fits([execution_id], version)[execution_id]
            if fit.move is None:
                raise CannotMove(fit.code, fit.message)
            _end(run, new_id, version)
        source = Execution.objects.select_related("template_version").get(pk=execution_id)
        _insert(new_id, source, version, fit.move, by)
        detail: JSONObject = {
            "movedFrom": str(execution_id),
            "version": version.number,
            "reruns": len(fit.reruns),
        }
        _audit("execution.fork", new_id, source, by, {**detail, "reason": reason})
        _audit(
            "execution.move",
            execution_id,
            source,
            by,
            {"movedTo": str(new_id), "version": version.number, "reason": reason},
        )
        dispatch.on_commit_hint(new_id, workspace_id=source.workspace_id)
    return new_id


def _end(run: Run, new_id: UUID, version: TemplateVersion) -> None:
    if run.status not in TERMINAL:
        control.stop(run, code=MOVED, message=f"Goes on as {new_id}, with version {version.number}.")


def _insert(new_id: UUID, source: Execution, version: TemplateVersion, found: Move, by: User) -> None:
    simulated = source.simulation is not None
    starting.insert(
        execution_id=new_id,
        workspace_id=source.workspace_id,
        version_id=version.pk,
        input=source.input,
        simulation=source.simulation,
        place=None if simulated else starting.place_of(version, source.input),
        created_by_id=by.pk,
        durability=source.durability,
        with_blocks=False,
    )
    begin_fork(new_id, found.found, source=source.pk, epoch=source.epoch, patched=False)
    plan = version_facts(version.pk).plan
    blocks = [plan[idx].block for idx in found.found.reruns]
    effects = ["pure"] * len(blocks) if simulated else registry.effects(source.workspace_id, blocks)
    carrying.copy_kept(found.found, found.kept, carrying.Origin(source.pk, source.epoch), new_id)
    carrying.write_new(found.found, plan, effects, new_id)
    if not simulated:
        pinning.write(new_id, checking.pinned(version, references.agents_of(version)))
    if source.business_key is not None:
        starting.claim_key(new_id, version.template_id, source.business_key)


def _audit(action: str, target: UUID, source: Execution, by: User, detail: JSONObject) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=source.workspace_id,
        target_type="execution",
        target_id=str(target),
        detail={name: value for name, value in detail.items() if value},
    )
