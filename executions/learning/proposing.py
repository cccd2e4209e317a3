"""From facts to proposals: what would mend the failures that come again and again.

    propose(Facts(...)) -> [Proposed(Kind.TIMEOUT, "charge", {"timeout": 45000}, evidence, predicted)]

Pure.  A proposal is a merge patch (RFC 7396) of one block.  There is one at most of each kind for a block,
none with too little evidence, and none with which the definition would not validate.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentflow.errors import AgentflowError
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check

from .facts import Facts, Proposed
from .patterns import RULES


def propose(facts: Facts) -> list[Proposed]:
    """In the order of the definition's blocks."""
    definition = parse(facts.definition)
    return [
        found
        for block in definition.blocks
        if (seen := facts.by_block.get(block.block_id))
        for rule in RULES
        if (found := rule(facts, definition, block, seen)) is not None and _fits(facts.definition, found)
    ]


def patched(definition: JSONObject, patches: Sequence[tuple[str, JSONObject]]) -> JSONObject:
    """The definition with merge patches of its blocks."""
    blocks: list[JSONObject] = list(definition["blocks"])
    for block_id, patch in patches:
        blocks = [merge(each, patch) if each["blockId"] == block_id else each for each in blocks]
    return {**definition, "blocks": blocks}


def merge(target: JSONValue, patch: JSONValue) -> JSONObject:
    """RFC 7396: objects are merged, null removes, all else replaces."""
    found: JSONObject = dict(target) if isinstance(target, dict) else {}
    assert isinstance(patch, dict)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merge(found.get(name), value) if isinstance(value, dict) else value
    return found


def _fits(definition: JSONObject, found: Proposed) -> bool:
    made = patched(definition, [(found.block_id, found.patch)])
    if made == definition:
        return False
    try:
        return not any(issue.severity == "error" for issue in check(parse(made)))
    except AgentflowError:
        return False
