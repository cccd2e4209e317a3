"""One block's fix: what it may change, whether that fits, and the change put into its run.

A repair applies one to each block that an incident holds; the answer to a `fix` question is one, too.
"""

from __future__ import annotations

from uuid import UUID

import jsonpatch

from agentflow.events import store
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from executions.engine.run import raw_cursor
from executions.models import BlockExecution, Execution

from ..recovery.patching import merged, patched_definition, step_of
from . import repairs
from .fixes import DoesNotFit, Fix, check, laid, outlook

_NEW_KEY = """
UPDATE executions_blockexecution b SET effect_seq = b.effect_seq + 1
FROM executions_execution e
WHERE e.id = %(execution)s AND b.execution_id = e.id AND b.epoch = e.epoch AND b.block_id = %(block)s
  AND b.status <> 'completed' AND b.error IS NOT NULL AND (b.error->>'outcomeUnknown') IS DISTINCT FROM 'true'
"""


def step(block: BlockExecution) -> JSONObject | None:
    """How the block is called as its run has it now; None: it undoes another one, and is as it is.

    `{"agentId": "risk-a", "configuration": {...}, "input": {...}}`
    """
    execution = block.execution
    return _step(execution, block.block_id, execution.patches or {})


def checked(fix: Fix, block: BlockExecution) -> list[JSONObject]:
    """What a fix changes of how the block is called, as a JSON Patch (RFC 6902).  Changes nothing itself.

    Raises:
        FixInvalid: what it says is not valid, with issues under `/response`.
        DoesNotFit: the block may not be called so.
    """
    execution = block.execution
    patches = execution.patches or {}
    effects = check(
        fix,
        workspace_id=execution.workspace_id,
        block_id=block.block_id,
        versions=[execution.template_version_id],
        patches=patches,
        at="/response",
    )
    _, held = repairs.held_now(block.pk)
    seen = outlook(fix, held, effect=effects[execution.template_version_id])
    if seen.code:
        raise DoesNotFit(seen.code, seen.message)
    before = _step(execution, block.block_id, patches)
    after = _step(execution, block.block_id, merged(patches, block.block_id, fix.patch))
    found: list[JSONObject] = jsonpatch.make_patch(before, after).patch
    return found


def apply(*, execution_id: UUID, block_id: str, patch: JSONObject, said: str) -> None:
    """From the next attempt on the block is called so; its log says why.  The caller holds the run's lock.

    With another input the operation is meant anew, and has a new key: the other side may answer a key that it
    knows as it did before.  Where it is not known what was done, the key stays.

    Raises:
        FixInvalid: it is too much, with what was changed before.
    """
    execution = Execution.objects.only("patches", "workspace_id").get(pk=execution_id)
    patches = laid(execution.patches or {}, block_id, patch)
    Execution.objects.filter(pk=execution_id).update(patches=patches)
    if "input" in patch:
        raw_cursor().execute(_NEW_KEY, {"execution": execution_id, "block": block_id})
    store.append(
        type="block_log",
        workspace_id=execution.workspace_id,
        execution_id=execution_id,
        block_id=block_id,
        payload={"message": f"Changed by {said}: {', '.join(patch)}"},
    )


def _step(execution: Execution, block_id: str, patches: JSONObject) -> JSONObject | None:
    definition = parse(patched_definition(execution.template_version.definition, patches))
    return next((step_of(each) for each in definition.blocks if each.block_id == block_id), None)
