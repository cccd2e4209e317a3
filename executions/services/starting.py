"""Accepting an execution: one statement writes the run, its blocks and the clock's timer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db import IntegrityError, transaction

from agentflow.agents import registry
from agentflow.agents.calls import StartChild
from agentflow.agents.registry import AgentSpec
from agentflow.conf import LIMITS
from agentflow.errors import Conflict, InvalidInput, NotFound
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from agentflow.workflow.definition import Block
from agentflow.workflow.expressions import ExpressionError
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.faults import is_unsure
from agentflow.workflow.plan import Key
from executions import blobs, dispatch
from executions.engine import statements
from executions.engine.facts import Facts, as_text, version_facts, workspace_names
from executions.engine.judging import Change
from executions.engine.opening import place_key
from executions.engine.places import ask_for_run
from executions.engine.run import check_timer, raw_cursor
from executions.models import Execution
from templates_app.models import TemplateVersion
from templates_app.services import checking, references

from . import pinning

Asked = tuple[str, int, int]  # concurrency key, limit, priority


class BusinessKeyTaken(Conflict):
    """An execution of the template with this business key is active."""

    code = "business_key_active"
    remedy = "Wait for its end, cancel it, or use another key."


def start(
    *,
    version: TemplateVersion,
    by: User,
    input: JSONObject,
    simulation: JSONObject | None = None,
    business_key: str | None = None,
    durability: str | None = None,
    specs: Mapping[str, AgentSpec] | None = None,
) -> Execution:
    """Accept an execution of `version`.  Once this commits it is never lost.

    The caller has checked the permission, the input and that nothing stands against a real start.  `specs`
    are the agents that it names, where they are known already.
    The hint for the first walker is sent after the commit; without it the clock finds the run.

    Raises:
        NotFound: the version was deleted meanwhile.
        BusinessKeyTaken: another execution of the template has that key and has not ended.
        InvalidInput: the input gives no concurrency key.
    """
    execution_id = uuid.uuid4()
    workspace_id = version.template.workspace_id
    place = None if simulation is not None else place_of(version, input)
    if specs is None:
        specs = {} if simulation is not None else references.agents_of(version)
    pins = () if simulation is not None else checking.pinned(version, specs)
    with transaction.atomic(savepoint=False):  # who is refused in a transaction undoes all of it
        insert(
            execution_id=execution_id,
            workspace_id=workspace_id,
            version_id=version.pk,
            input=input,
            simulation=simulation,
            created_by_id=by.pk,
            durability=durability,
            place=place,
            specs=specs,
        )
        pinning.write(execution_id, pins)
        if business_key is not None:
            claim_key(execution_id, version.template_id, business_key)
        audit.record(
            action="execution.start",
            by=by,
            workspace_id=workspace_id,
            target_type="execution",
            target_id=str(execution_id),
            detail={
                "templateId": str(version.template_id),
                "version": version.number,
                "simulated": simulation is not None,
                **({"businessKey": business_key} if business_key is not None else {}),
                **({"durability": durability} if durability is not None else {}),
            },
        )
        dispatch.on_commit_hint(execution_id, workspace_id=workspace_id)
    return Execution(
        pk=execution_id,
        workspace_id=workspace_id,
        template_version=version,
        input=input,
        simulation=simulation,
        business_key=business_key,
    )


def place_of(version: TemplateVersion, input: JSONObject) -> Asked | None:
    """The place of a concurrency key that a run needs, if its version asks for one.

    Raises:
        InvalidInput: the input gives no key.
    """
    key = version_facts(version.pk).plan.run_key
    if key is None:
        return None
    try:
        workspace = version.template.workspace
        return asked(key, input, workspace_names(workspace.pk, workspace.slug, workspace.name))
    except ExpressionError as error:
        issue = {
            "pointer": "/input",
            "code": "no_concurrency_key",
            "message": f"The input gives no concurrency key: {error}",
            "remedy": "Send what globalSettings.concurrency.key of the version names.",
        }
        raise InvalidInput(issue["message"], issues=[issue]) from error


def asked(key: Key, input: JSONObject, workspace: JSONObject) -> Asked:
    """The place that a run with this input needs.

    Raises:
        ExpressionError: the input gives no key.
    """
    return place_key(key.mapping.resolve({"input": input, "workspace": workspace})), key.limit, key.priority


def claim_key(execution_id: UUID, template_id: UUID, key: str) -> None:
    try:
        with transaction.atomic():
            Execution.objects.filter(pk=execution_id).update(business_key=key, business_template=template_id)
    except IntegrityError as error:
        raise key_taken(template_id, key) from error


def key_taken(template_id: UUID, key: str) -> BusinessKeyTaken:
    """Names the execution that has the key, if it has not ended since."""
    active = Execution.objects.filter(
        business_template=template_id, business_key=key, completed_at__isnull=True
    ).first()
    if active is None:
        return BusinessKeyTaken(remedy="Try again: the execution that had the key has just ended.")
    return BusinessKeyTaken(
        f"The execution {active.pk} with this business key is {active.status}.", execution_id=str(active.pk)
    )


def hold(version_id: int) -> None:
    """Keep the version from being deleted until this commits.

    Raises:
        NotFound: it was deleted since the caller read it.
    """
    held = raw_cursor().execute(
        "SELECT 1 FROM templates_app_templateversion WHERE id = %s FOR KEY SHARE", (version_id,)
    )
    if held.fetchone() is None:
        raise NotFound()


@dataclass(frozen=True, slots=True)
class Child:
    """A sub-workflow to be started in the transaction in which its parent's block begins to wait."""

    parent: Facts
    version_id: int
    input: JSONObject
    place: Asked | None = None

    def insert(self, change: Change) -> UUID:
        """Unique per attempt of the parent's block, so a repeated settle starts no second child."""
        child_id = uuid.uuid4()
        insert(
            execution_id=child_id,
            workspace_id=self.parent.workspace_id,
            version_id=self.version_id,
            input=self.input,
            simulation=None,
            created_by_id=self.parent.created_by_id,
            parent_block_id=change.pk,
            parent_attempt=change.attempt,
            depth=self.parent.depth + 1,
            root=self.parent.root_id,
            durability="strict" if self.parent.strict else None,  # else as its own template says
            place=self.place,
        )
        if change.step:
            of_step = {"block": change.pk, "attempt": change.attempt, "step": change.step, "child": child_id}
            raw_cursor().execute(statements.CHILD_OF_STEP, of_step)
        dispatch.on_commit_hint(child_id, workspace_id=self.parent.workspace_id)
        return child_id


def resolve_child(parent: Facts, wanted: StartChild) -> Child | Failure:
    """The version a sub-workflow runs: pinned when the execution above all was accepted."""
    if parent.depth + 1 > LIMITS.usecase_depth:
        return _cannot("too_deep", f"Sub-workflows are nested more than {LIMITS.usecase_depth} deep.")
    version_id = pinning.version_of(parent.root_id, parent.workspace_id, wanted)
    if version_id is None:
        which = f"version {wanted.version}" if wanted.version is not None else "published version"
        return _cannot("unknown_template", f"There is no {which} of template {wanted.template_id} here.")
    key = version_facts(version_id).plan.run_key
    try:
        given = blobs.parted(wanted.input, workspace_id=parent.workspace_id)
        place = None if key is None else asked(key, given, parent.workspace)
    except blobs.TooLarge as error:
        return _cannot("input_too_large", f"The sub-workflow's input: {error}")
    except ExpressionError as error:
        return _cannot(error.code, f"The sub-workflow's concurrency key: {error}")
    return Child(parent=parent, version_id=version_id, input=given, place=place)


def simulated_effect(block: Block, simulation: JSONObject) -> str:
    """Nothing happens outside; where the script leaves open whether something did, as the block has it."""
    entries = (simulation.get("failures") or {}).get(block.block_id, [])
    return str(block.effect or "once") if is_unsure(entries) else "pure"


def _cannot(code: str, message: str) -> Failure:
    return Failure(FailureKind.CONFIGURATION, code, message)


def insert(
    *,
    execution_id: UUID,
    workspace_id: UUID,
    version_id: int,
    input: JSONObject,
    simulation: JSONObject | None,
    created_by_id: int | None,
    parent_block_id: int | None = None,
    parent_attempt: int | None = None,
    depth: int = 0,
    root: UUID | None = None,
    durability: str | None = None,
    place: Asked | None = None,
    with_blocks: bool = True,
    specs: Mapping[str, AgentSpec] | None = None,
) -> None:
    """The run with its timer, its event and, unless somebody else writes them, its blocks.

    `specs` are the agents that its blocks name, where they are known already.

    Raises:
        NotFound: the version was deleted since the caller read it.
    """
    plan = version_facts(version_id).plan
    planned_blocks = plan.blocks if with_blocks else ()
    blocks = [planned.block for planned in planned_blocks]
    effects = (
        registry.effects(workspace_id, blocks, specs)
        if simulation is None
        else [simulated_effect(block, simulation) for block in blocks]
    )
    inserted = raw_cursor().execute(
        statements.START,
        {
            "execution": execution_id,
            "workspace": workspace_id,
            "version": version_id,
            "input": as_text(input) or "{}",
            "input_blobs": as_text(blobs.members_of(input)),
            "simulation": as_text(simulation),
            "max_parallel": plan.max_parallel,
            "open_sinks": len(plan.sinks),
            "parent_block": parent_block_id,
            "parent_attempt": parent_attempt,
            "depth": depth,
            "root": root,
            "created_by": created_by_id,
            "durability": durability or plan.durability,
            "timeout_ms": plan.timeout_ms,
            "block_ids": [block.block_id for block in blocks],
            "todos": [len(planned.preds) for planned in planned_blocks],
            "readies": [not planned.preds and not planned.special for planned in planned_blocks],
            "effects": effects,
            "timer": check_timer(execution_id),
            "payload": as_text({"status": "pending"}),
        },
    )
    if inserted.rowcount == 0:
        raise NotFound()
    if place is not None:
        ask_for_run(execution_id, workspace_id, place)
