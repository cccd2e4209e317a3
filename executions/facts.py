"""What a version's definition says of its blocks, as far as readers of an execution need it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import compensation_id
from templates_app.models import TemplateVersion


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """One block as its author wrote it.  `dependencies` includes the blocks whose branches name it."""

    name: str
    agent_id: str | None = None
    capabilities: tuple[str, ...] = ()
    tool_type: str | None = None
    dependencies: tuple[str, ...] = ()
    human_kind: str = ""
    human_level: str = ""
    compensates: str = ""  # the block that this one undoes


NOTHING_KNOWN = BlockFacts(name="")


@lru_cache(maxsize=32)
def of_version(version_id: int) -> dict[str, BlockFacts]:
    """The facts of a version's blocks by blockId; read once per process, for a version never changes.

    Read from the JSON as it was stored: an old execution can be shown although today's rules would
    refuse its definition.
    """
    definition: JSONObject = TemplateVersion.objects.values_list("definition", flat=True).get(pk=version_id)
    return of_definition(definition)


def compensates(version_id: int) -> bool:
    """Whether a block of the version has a compensation."""
    return any(known.compensates for known in of_version(version_id).values())


def of_definition(definition: JSONObject) -> dict[str, BlockFacts]:
    blocks = definition.get("blocks") or []
    waits_for: dict[str, dict[str, None]] = {  # dicts as ordered sets
        block["blockId"]: dict.fromkeys(block.get("dependencies") or ()) for block in blocks
    }
    for block in blocks:
        for branch in (block.get("conditions") or {}).get("branches") or ():
            for target in branch.get("nextBlocks") or ():
                waits_for.setdefault(target, {})[block["blockId"]] = None
    settings = definition.get("globalSettings") or {}
    asked = settings.get("humanInLoopDefaults") or {}
    found = {block["blockId"]: _block(block, tuple(waits_for[block["blockId"]]), asked) for block in blocks}
    for block in blocks:
        if block.get("compensation"):
            found[compensation_id(block["blockId"])] = _compensation(block)
    return found


def _compensation(block: JSONObject) -> BlockFacts:
    undo, block_id = block["compensation"], block["blockId"]
    return BlockFacts(
        name=f"Undo: {block.get('name') or block_id}",
        agent_id=undo.get("agentId"),
        tool_type=undo.get("toolType"),
        dependencies=(block_id,),
        compensates=block_id,
    )


def _block(block: JSONObject, dependencies: tuple[str, ...], asked_defaults: JSONObject) -> BlockFacts:
    own: JSONValue = block.get("humanInLoop")
    asked = {**asked_defaults, **own} if own else {}
    if asked.get("required") is False:
        asked = {}
    return BlockFacts(
        name=block.get("name") or block["blockId"],
        agent_id=block.get("agentId"),
        capabilities=tuple(block.get("capabilities") or ()),
        tool_type=block.get("toolType"),
        dependencies=dependencies,
        human_kind=asked.get("type", "approval") if asked else "",
        human_level=asked.get("approvalLevel", "user") if asked else "",
    )
