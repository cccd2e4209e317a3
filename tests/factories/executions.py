"""Executions in any state, as rows, without an engine to bring them there.

execution = ExecutionFactory(graph="a -> b", running=["a"])
assert statuses(execution) == {"a": "running", "b": "blocked"}
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import factory
from django.db.models.functions import Now
from django.utils import timezone

from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan
from executions.incidents.models import Incident
from executions.incidents.repair_models import RepairRun
from executions.learning.models import Proposal
from executions.models import BlockExecution, Execution
from executions.states import SETTLED, TERMINAL, BlockStatus, ExecutionStatus
from templates_app.models import TemplateVersion

from .governance import UserFactory
from .templates import TemplateFactory, TemplateVersionFactory

LEASE = timedelta(seconds=30)
SINCE = timedelta(seconds=5)


def graph_definition(graph: str, name: str = "Run") -> JSONObject:
    """A definition from arrows: `"a -> b, a -> c; d"`.  Blocks stand in the order they are named in."""
    dependencies: dict[str, list[str]] = {}
    for chain in graph.replace(";", ",").split(","):
        before: str | None = None
        for block_id in (part.strip() for part in chain.split("->")):
            own = dependencies.setdefault(block_id, [])
            if before is not None and before not in own:
                own.append(before)
            before = block_id
    return {
        "name": name,
        "blocks": [
            {"blockId": block_id, "agentId": "builtin.echo"} | ({"dependencies": own} if own else {})
            for block_id, own in dependencies.items()
        ],
    }


class ExecutionFactory(factory.django.DjangoModelFactory[Execution]):
    """An execution with a row for each block.

    `running=["a"]`, `completed=[...]` and so on, for every status, put blocks there; of the others
    those whose predecessors are settled are ready, the rest blocked.  `outputs={"a": ...}` gives
    completed blocks their outputs, `blocks={"a": {...}}` any other column.
    """

    class Meta:
        model = Execution
        skip_postgeneration_save = True

    class Params:
        graph = "a -> b"
        definition: Any = None

    template_version = factory.LazyAttribute(lambda run: _version(run))
    workspace = None  # that of the template version, and of a new one if there is none
    created_by = factory.SelfAttribute("template_version.created_by")
    status = ExecutionStatus.RUNNING

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Execution:
        chosen = {status: kwargs.pop(status.value, ()) for status in BlockStatus}
        outputs = kwargs.pop("outputs", {})
        columns = kwargs.pop("blocks", {})
        kwargs["workspace"] = kwargs["template_version"].template.workspace
        plan = compile_plan(parse(kwargs["template_version"].definition))
        states = _states(plan, chosen)
        kwargs.setdefault("max_parallel", plan.max_parallel)
        kwargs.setdefault("open_sinks", sum(states[plan[idx].block_id] not in SETTLED for idx in plan.sinks))
        kwargs.setdefault("failed_blocks", sum(found == BlockStatus.FAILED for found in states.values()))
        if kwargs["status"] != ExecutionStatus.PENDING:
            kwargs.setdefault("started_at", Now())
        if kwargs["status"] in TERMINAL:
            kwargs.setdefault("completed_at", Now())
        execution = Execution.objects.create(**kwargs)
        BlockExecution.objects.bulk_create(
            _block(execution, plan, idx, states, outputs, columns) for idx in range(len(plan.blocks))
        )
        return Execution.objects.get(pk=execution.pk)


def _version(run: Any) -> TemplateVersion:
    template = TemplateFactory.create(workspace=run.workspace) if run.workspace else TemplateFactory.create()
    definition = run.definition or graph_definition(run.graph, template.name)
    return TemplateVersionFactory.create(template=template, definition=definition)


def _states(plan: Plan, chosen: dict[BlockStatus, Sequence[str]]) -> dict[str, BlockStatus]:
    states = {block_id: status for status, block_ids in chosen.items() for block_id in block_ids}
    unknown = states.keys() - plan.index.keys()
    if unknown:
        raise ValueError(f"the graph has no {', '.join(sorted(unknown))}")
    for planned in plan.blocks:  # in topological order
        if planned.block_id not in states:
            open_before = any(states[plan[idx].block_id] not in SETTLED for idx in planned.preds)
            states[planned.block_id] = BlockStatus.BLOCKED if open_before else BlockStatus.READY
    return states


def _block(
    execution: Execution,
    plan: Plan,
    idx: int,
    states: dict[str, BlockStatus],
    outputs: JSONObject,
    columns: dict[str, dict[str, Any]],
) -> BlockExecution:
    planned = plan[idx]
    status = states[planned.block_id]
    tried = status not in {BlockStatus.BLOCKED, BlockStatus.READY, BlockStatus.SKIPPED}
    values: dict[str, Any] = {
        "status": status,
        "todo": sum(states[plan[pred].block_id] not in SETTLED for pred in planned.preds),
        "attempt": int(tried),
        "effect": "pure",
        "started_at": Now() - SINCE if tried else None,
        "completed_at": Now() if status in SETTLED else None,
        "output": outputs.get(planned.block_id, {} if status == BlockStatus.COMPLETED else None),
        "lease_expires_at": Now() + LEASE if status == BlockStatus.RUNNING else None,
    }
    values |= columns.get(planned.block_id, {})
    return BlockExecution(execution=execution, idx=idx, block_id=planned.block_id, **values)


def statuses(execution: Execution) -> dict[str, str]:
    """Block statuses by blockId, read afresh, in the order of the plan."""
    rows = BlockExecution.objects.filter(execution=execution, epoch=execution.epoch, iteration=0).order_by(
        "idx"
    )
    return dict(rows.values_list("block_id", "status"))


class IncidentFactory(factory.django.DjangoModelFactory[Incident]):
    """An incident without rows behind it: `IncidentFactory(workspace=..., template=..., block_id="a")`."""

    class Meta:
        model = Incident

    block_id = "a"
    code = "http_503"
    kind = "transient"
    fingerprint = factory.Sequence("{:032}".format)
    simulated = False
    sample = factory.LazyAttribute(
        lambda made: {"kind": made.kind, "code": made.code, "message": "The shop is away."}
    )
    sample_block = 0
    first_seen = last_seen = factory.LazyFunction(timezone.now)
    count = 1


class ProposalFactory(factory.django.DjangoModelFactory[Proposal]):
    """A proposal without rows behind it: `ProposalFactory(workspace=..., template=...)`."""

    class Meta:
        model = Proposal

    base = 1
    block_id = "a"
    kind = "timeout"
    patch: dict[str, Any] = {"timeout": 20_000}
    evidence: dict[str, Any] = {
        "measure": "attempts",
        "codes": ["timeout"],
        "failures": 12,
        "of": 96,
        "share": 0.125,
        "executions": [],
        "executionCount": 12,
        "incidents": [],
        "days": 14,
        "runsAtMost": 1000,
    }
    predicted: dict[str, Any] = {"share": 0.01, "because": "It is slow."}


class RepairFactory(factory.django.DjangoModelFactory[RepairRun]):
    """A repair that has ended, without blocks."""

    class Meta:
        model = RepairRun

    fix: dict[str, Any] = {"action": "skip"}
    state = "done"
    created_by = factory.SubFactory(UserFactory)
