"""Fork: a new execution that goes on from a moment of another, with other input or outputs if asked for.

The new execution runs the same version.  Blocks that had settled at the moment are carried over and
point to the rows of the execution in which they were worked on; their children stay with it, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from django.db import transaction

from agentflow.conf import KB, LIMITS, MB
from agentflow.errors import Conflict, NotFound, Unprocessable
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.issues import pointer
from agentflow.workflow.plan import Plan
from agentflow.workflow.restart import RestartPlan, Settled, return_plan
from executions import dispatch, selectors
from executions.engine.facts import Facts, as_text, facts_of
from executions.engine.run import locked, raw_cursor
from executions.models import Execution
from executions.snapshot import json_bytes

from . import admission, carrying, pinning, starting
from .restarting import block_index


class NothingToRun(Conflict):
    """Every block had settled, so that a fork would have nothing to run."""

    code = "nothing_to_run"
    remedy = "Name the block to go back to in `fromBlock`, or an earlier recovery point."


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """The moment is a recovery point, or now; `from_block` and all behind it run again in any case.

    `outputs` take the place of what carried blocks gave.  None: as in the execution that is forked.
    """

    point_id: int | None = None
    from_block: str | None = None
    input: JSONObject | None = None
    outputs: Mapping[str, JSONValue] = field(default_factory=dict)
    simulation: JSONObject | None = None
    business_key: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a fork begins with."""

    epoch: int
    settled: Mapping[int, Settled]
    found: RestartPlan


def fork(*, source: Execution, by: User, request: ForkRequest) -> Execution:
    """Accept a fork of `source`, which may be running.

    The lock of the source is held while its rows are read, so that the moment is one.  A fork of a
    child has no parent: what waits for the child does not learn of it.

    Raises:
        NotFound: it has no such recovery point.
        InvalidInput: there is no such block, or input or simulation do not fit.
        Unprocessable: an output is for a block that is not carried, or too large.
        NothingToRun, BusinessKeyTaken, NotPermitted, NotStartable
    """
    admission.check_fork(by=by, execution=source, input=request.input, simulation=request.simulation)
    facts = facts_of(source.pk)
    if facts is None:
        raise NotFound()
    execution_id = uuid.uuid4()
    with transaction.atomic():
        starting.hold(source.template_version_id)
        with locked(facts) as run:
            moment = _moment(facts, run.epoch, request)
            _check_outputs(facts.plan, moment, request.outputs)
            _insert(execution_id, facts, source, moment, request, by)
            _edit(execution_id, facts.plan, request, by)
        pinning.copy(execution_id, source=facts.root_id)
        if request.business_key is not None:
            starting.claim_key(execution_id, facts.version.template_id, request.business_key)
        _audit(execution_id, facts, moment, request, by)
        dispatch.on_commit_hint(execution_id)
    return Execution(pk=execution_id, workspace_id=facts.workspace_id)


def preview(*, source: Execution, request: ForkRequest) -> JSONObject:
    """What a fork would run again, and what it would carry over; raises what `fork` would of that.

    Raises:
        NotFound, InvalidInput, NothingToRun
    """
    facts = facts_of(source.pk)
    if facts is None:
        raise NotFound()
    with locked(facts) as run:
        moment = _moment(facts, run.epoch, request)
    reruns = moment.found.reruns
    return {
        "reruns": [facts.plan[idx].block_id for idx in reruns],
        "carried": [facts.plan[idx].block_id for idx in moment.settled if idx not in reruns],
    }


def _moment(facts: Facts, epoch: int, request: ForkRequest) -> Moment:
    plan = facts.plan
    kept: set[int] | None = None
    if request.point_id is not None:
        point = selectors.point(facts.execution_id, request.point_id)
        epoch, kept = point.epoch, set(point.idxs)
    settled = carrying.settled_blocks(facts, epoch)
    if kept is None:
        kept = set(settled)
    kept -= {idx for at, idx in carrying.undone_blocks(facts) if at == epoch}
    if request.from_block is not None:
        kept -= plan.from_here(block_index(plan, request.from_block))
    found = return_plan(plan, settled, kept)
    if not found.reruns:
        raise NothingToRun
    return Moment(epoch, settled, found)


def _check_outputs(plan: Plan, moment: Moment, outputs: Mapping[str, JSONValue]) -> None:
    issues: list[JSONObject] = []
    for block_id, value in outputs.items():
        idx = plan.index.get(block_id)
        carried = idx is not None and idx not in moment.found.reruns
        if idx is None or plan[idx].compensates is not None:
            issues.append(_issue(block_id, "unknown_block", "The execution has no such block."))
        elif not carried or moment.settled[idx].status != "completed":
            said = "The block is not carried over: it runs again, or did not complete."
            issues.append(_issue(block_id, "not_carried", said))
        elif (words := too_large(plan, idx, value)) is not None:
            issues.append(_issue(block_id, "output_too_large", words))
    if issues:
        raise Unprocessable(str(issues[0]["message"]), issues=issues)


def too_large(plan: Plan, idx: int, value: JSONValue) -> str | None:
    """Why a block cannot have this output, if it is too large."""
    limit = LIMITS.output_bytes if plan[idx].items is None else LIMITS.list_bytes
    size = json_bytes(value)
    if size <= limit:
        return None
    words = f"{limit // MB} MB" if limit >= MB else f"{limit // KB} KB"
    return f"The output has {size} bytes; {words} are allowed."


def _issue(block_id: str, code: str, message: str) -> JSONObject:
    remedy = "Name a block that completed before the moment of the fork."
    return {"pointer": pointer("outputs", block_id), "code": code, "message": message, "remedy": remedy}


_BEGIN = """
UPDATE executions_execution
SET open_sinks = %(sinks)s, failed_blocks = %(failures)s, forked_from_id = %(source)s,
    forked_epoch = %(source_epoch)s, forked_point = %(point)s,
    patches = (SELECT patches FROM executions_execution WHERE id = %(source)s AND %(patched)s)
WHERE id = %(execution)s
"""

_SIMULATED = """
UPDATE executions_blockexecution b SET effect = x.effect
FROM unnest(%(idxs)s::int[], %(effects)s::text[]) AS x(idx, effect)
WHERE b.execution_id = %(execution)s AND b.carried_from IS NULL AND b.idx = x.idx
"""

_EDIT = """
UPDATE executions_blockexecution b
SET edit = jsonb_build_object('output', x.output::jsonb, 'by', %(by)s::text, 'at', statement_timestamp(),
                              'reason', %(reason)s::text)
FROM unnest(%(idxs)s::int[], %(outputs)s::text[]) AS x(idx, output)
WHERE b.execution_id = %(execution)s AND b.epoch = 1 AND b.idx = x.idx AND b.iteration = 0
"""


def _insert(
    execution_id: UUID, facts: Facts, source: Execution, moment: Moment, request: ForkRequest, by: User
) -> None:
    simulation = facts.simulation if request.simulation is None else request.simulation
    given = facts.input if request.input is None else request.input
    starting.insert(
        execution_id=execution_id,
        workspace_id=facts.workspace_id,
        version_id=facts.version.version_id,
        input=given,
        simulation=simulation,
        place=None if simulation is not None else starting.place_of(source.template_version, given),
        created_by_id=by.pk,
        durability=source.durability,
        with_blocks=False,
    )
    begin_fork(
        execution_id, moment.found, source=facts.execution_id, epoch=moment.epoch, point=request.point_id
    )
    origin = carrying.Origin(facts.execution_id, moment.epoch)
    blocks = len(facts.plan.blocks)
    carrying.copy(moment.found, origin, blocks=blocks, execution_id=execution_id, epoch=1)
    if simulation is not None:
        planned = [*facts.plan.blocks, *facts.plan.compensations]
        effects = [starting.simulated_effect(each.block, simulation) for each in planned]
        given = {"execution": execution_id, "idxs": [each.idx for each in planned], "effects": effects}
        raw_cursor().execute(_SIMULATED, given)


def begin_fork(
    execution_id: UUID,
    found: RestartPlan,
    *,
    source: UUID,
    epoch: int,
    point: int | None = None,
    patched: bool = True,
) -> None:
    """Let a new execution say what it comes from, and count what it has left.

    `patched`: what a repair changed for the source holds for it, too.
    """
    raw_cursor().execute(
        _BEGIN,
        {
            "execution": execution_id,
            "sinks": found.open_sinks,
            "failures": found.failed_blocks,
            "source": source,
            "source_epoch": epoch,
            "point": point,
            "patched": patched,
        },
    )


def _edit(execution_id: UUID, plan: Plan, request: ForkRequest, by: User) -> None:
    if request.outputs:
        raw_cursor().execute(
            _EDIT,
            {
                "execution": execution_id,
                "idxs": [plan.index[block_id] for block_id in request.outputs],
                "outputs": [as_text(value) or "null" for value in request.outputs.values()],
                "by": by.get_username(),
                "reason": request.reason,
            },
        )


def _audit(execution_id: UUID, facts: Facts, moment: Moment, request: ForkRequest, by: User) -> None:
    detail: JSONObject = {
        "forkedFrom": str(facts.execution_id),
        "epoch": moment.epoch,
        "recoveryPointId": request.point_id,
        "fromBlock": request.from_block,
        "reason": request.reason,
        "businessKey": request.business_key,
        "editedOutputs": list(request.outputs),
    }
    audit.record(
        action="execution.fork",
        by=by,
        workspace_id=facts.workspace_id,
        target_type="execution",
        target_id=str(execution_id),
        detail={
            "reruns": len(moment.found.reruns),
            "editedInput": request.input is not None,
            **{name: value for name, value in detail.items() if value},
        },
    )
