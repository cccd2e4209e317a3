"""Other ways for blocks of one run: another agent, configuration or input than its version says.

Pure.  The run's row has `{"<blockId>": {"agentId": ..., "configuration": {...}, "input": ...}}`; what is
not named stays.  Edges and positions are the version's, so rows of blocks stand for the same as before.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentflow.types import JSONObject
from agentflow.workflow.definition import Block

PATCHED = ("agentId", "configuration", "input")


def patched_definition(definition: JSONObject, patches: Mapping[str, JSONObject]) -> JSONObject:
    """The definition with its blocks as they are to run; what it has no block for is left out."""
    blocks = [_patched(block, patches.get(block["blockId"])) for block in definition["blocks"]]
    return {**definition, "blocks": blocks}


def _patched(block: JSONObject, patch: JSONObject | None) -> JSONObject:
    if not patch:
        return block
    made: JSONObject = dict(block)
    made.update((name, patch[name]) for name in ("agentId", "input") if name in patch)
    if "agentId" in patch:  # how it is called is the other agent's to say
        made.pop("toolType", None)
        made.pop("agentType", None)
    if "configuration" in patch:
        made["configuration"] = laid_over(block.get("configuration") or {}, patch["configuration"])
    return made


def step_of(block: Block) -> JSONObject:
    """Of a block what can be changed for one run, as it is shown."""
    found: JSONObject = {"configuration": dict(block.configuration)}
    if block.agent_id:
        found = {"agentId": block.agent_id, **found}
    return {**found, "input": block.input} if block.input is not None else found


def laid_over(below: JSONObject, above: JSONObject) -> JSONObject:
    """By name, one level deep; null takes a name away."""
    merged = {**below, **above}
    return {name: value for name, value in merged.items() if value is not None}


def merged(patches: Mapping[str, JSONObject], block_id: str, patch: JSONObject) -> dict[str, JSONObject]:
    """What a run is patched with once this has been added."""
    before = patches.get(block_id) or {}
    made = {**before, **patch}
    if "configuration" in before and "configuration" in patch:
        made["configuration"] = {**before["configuration"], **patch["configuration"]}
    return {**patches, block_id: made}
