"""Hypothesis strategies: JSON of any kind, and definitions that are valid."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# NUL and surrogates are no text that may be stored; tests that want them say so.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
durations = st.integers(1, 10**9)

retry_policies = st.fixed_dictionaries(
    {},
    optional={
        "maxRetries": st.integers(0, 100),
        "backoffStrategy": st.sampled_from(["fixed", "linear", "exponential"]),
        "retryConditions": st.lists(
            st.sampled_from(["transient", "agent", "timeout", "http_503"]), max_size=3
        ),
        "initialDelay": st.integers(0, 10**6),
        "maxDelay": st.integers(0, 10**6),
        "multiplier": st.floats(1, 100),
        "jitter": st.booleans(),
        "onExhausted": st.sampled_from(["ask", "fail"]),
    },
)
humans = st.fixed_dictionaries(
    {},
    optional={
        "required": st.booleans(),
        "type": st.sampled_from(["approval", "input"]),
        "approvalLevel": st.sampled_from(["user", "finance.lead", "équipe-1"]),
        "inputSchema": st.just({"type": "object", "properties": {"ok": {"type": "boolean"}}}),
        "onReject": st.sampled_from(["fail", "skip", "continue"]),
        "timeout": durations,
        "title": texts,
        "description": texts,
    },
)


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    """A definition without any issue: its blocks depend on earlier ones only."""
    names = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    blocks = [_block(draw, name, names[:position]) for position, name in enumerate(names)]
    _add_choice(draw, blocks)
    body: dict[str, Any] = {"name": draw(ids), "blocks": blocks}
    optional = {
        "description": texts,
        "version": ids,
        "tags": st.lists(ids, max_size=3),
        "metadata": st.fixed_dictionaries(
            {}, optional={"estimatedDuration": st.integers(0, 10**12), "complexity": ids, "category": ids}
        ),
        "globalSettings": st.fixed_dictionaries(
            {},
            optional={
                "timeout": durations,
                "maxParallelBlocks": st.integers(1, 10_000),
                "defaultRetryPolicy": retry_policies,
                "humanInLoopDefaults": humans,
            },
        ),
    }
    body.update(draw(st.fixed_dictionaries({}, optional=optional)))
    return body


def _block(draw: st.DrawFn, name: str, earlier: list[str]) -> dict[str, Any]:
    block: dict[str, Any] = {"blockId": name}
    if earlier:
        block["dependencies"] = draw(st.lists(st.sampled_from(earlier), max_size=3, unique=True))
    optional = {
        "name": texts,
        "description": texts,
        "agentId": ids,
        "toolType": st.just("LLM"),
        "configuration": json_objects,
        "input": st.just({"fixed": 1, "sum": "${1 + 1}", "text": "order ${input.id} costs $${"}),
        "humanInLoop": humans,
        "retryPolicy": retry_policies,
        "join": st.sampled_from(["merge", "all"]),
        "when": st.sampled_from(["true", "input.total > 10", "has(context.x)"]),
        "timeout": durations,
        "effect": st.sampled_from(["pure", "keyed", "once"]),
        "onUnknownOutcome": st.sampled_from(["ask", "fail"]),
    }
    block.update(draw(st.fixed_dictionaries({}, optional=optional)))
    return block


def _add_choice(draw: st.DrawFn, blocks: list[dict[str, Any]]) -> None:
    """Let the first block choose between two of its own, which nothing else waits for."""
    if not draw(st.booleans()):
        return
    kind = draw(st.sampled_from(["if", "switch", "inclusive"]))
    taken = {block["blockId"] for block in blocks}
    left, right = (f"{side}{len(''.join(taken))}" for side in ("left", "right"))
    if {left, right} & taken:
        return
    conditions: dict[str, Any] = {
        "type": kind,
        "branches": [
            {"condition": "a" if kind == "switch" else "input.total > 3", "nextBlocks": [left]},
            {"condition": "default", "nextBlocks": [right]},
        ],
    }
    if kind == "switch":
        conditions["expression"] = "input.kind"
    blocks[0]["conditions"] = conditions
    blocks += [{"blockId": left}, {"blockId": right, "dependencies": [blocks[0]["blockId"]]}]
