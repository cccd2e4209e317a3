"""Random workflows for the state machine: small graphs with people, tries, items, waits and children."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.graphs import samples

EVENT = "paid"
_CONSTRUCTS: list[dict[str, Any]] = [
    {"forEach": {"items": "[1, 2, 3]", "maxConcurrency": 2}},
    {"forEach": {"items": "[1, 2]"}},
    {"wait": {"seconds": 30}},
    {"wait": {"event": EVENT}, "timeout": 600_000},
    {"repeat": {"until": "index >= 1", "maxIterations": 3}},
    {"join": "any"},
    {"toolType": "UseCase", "agentId": None, "effect": "pure"},
]


@st.composite
def flows(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A definition and an input.  Where a block calls another workflow its template is filled in later."""
    sample = draw(samples(max_blocks=5))
    blocks = [_block(draw, block) for block in sample.definition["blocks"]]
    given = {**sample.definition["globalSettings"]}
    if draw(st.integers(0, 5)) == 0:
        given["timeout"] = 900_000
    return {**sample.definition, "blocks": blocks, "globalSettings": given}, sample.input


def _block(draw: st.DrawFn, block: dict[str, Any]) -> dict[str, Any]:
    called = "agentId" in block
    if "humanInLoop" in block:
        block = {**block, "humanInLoop": {**block["humanInLoop"], "timeout": 3_600_000}}
    if not called:
        return block
    block = {
        **block,
        "agentId": "builtin.echo",
        "effect": draw(st.sampled_from(["pure", "keyed", "once"])),
        "retryPolicy": {
            "maxRetries": draw(st.integers(0, 2)),
            "onExhausted": draw(st.sampled_from(["ask", "fail"])),
        },
    }
    if draw(st.integers(0, 3)) == 0:
        block |= draw(st.sampled_from(_CONSTRUCTS))
    return {name: value for name, value in block.items() if value is not None}
