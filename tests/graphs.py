"""Random workflows: graphs with choices, guards, joins, people and failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Sample:
    """A definition with all that decides how it runs."""

    definition: dict[str, Any]
    input: dict[str, Any]
    failing: frozenset[str]
    answers: dict[str, Any]

    def simulation(self) -> dict[str, Any]:
        failures = {name: [{"kind": "critical", "times": 1}] for name in sorted(self.failing)}
        return {"scale": 0, "failures": failures, "answers": self.answers}


@st.composite
def samples(draw: st.DrawFn, max_blocks: int = 24) -> Sample:
    """A valid definition: every edge leads from an earlier block to a later one."""
    count = draw(st.integers(1, max_blocks))
    names = [f"b{i}" if i % 3 else f"é {i}.x" for i in range(count)]
    blocks: list[dict[str, Any]] = []
    owner: dict[int, int] = {}  # a block that some branch names depends on that chooser
    for i, name in enumerate(names):
        earlier = draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
        block: dict[str, Any] = {
            "blockId": name,
            "dependencies": [names[j] for j in earlier],
            "join": draw(st.sampled_from(["merge", "merge", "all"])),
        }
        if draw(st.integers(0, 6)):
            block["agentId"] = "sim.x"
        if earlier and draw(st.integers(0, 5)) == 0:
            block["runOn"] = draw(st.sampled_from(["failure", "always"]))
        if draw(st.integers(0, 7)) == 0:
            block["onError"] = "continue"
        if draw(st.integers(0, 7)) == 0:
            block["priority"] = draw(st.integers(-5, 5))
        blocks.append(block)
    for i in range(count - 1):
        if draw(st.integers(0, 3)) == 0:
            _choice(draw, blocks, names, i, owner)
    for block in blocks:
        if draw(st.integers(0, 7)) == 0:
            block["when"] = draw(st.sampled_from(["input.n > 1", "input.n == 0", "true", "'x' in input"]))
    answers: dict[str, Any] = {}
    for block in blocks:
        if draw(st.integers(0, 9)) == 0:
            kind = draw(st.sampled_from(["approval", "input"]))
            block["humanInLoop"] = {
                "type": kind,
                "onReject": draw(st.sampled_from(["fail", "skip", "continue"])),
            }
            answers[block["blockId"]] = {"approved": draw(st.booleans()), "response": {"said": 1}}
    called = [block["blockId"] for block in blocks if "agentId" in block]
    failing = draw(st.frozensets(st.sampled_from(called), max_size=2)) if called else frozenset()
    definition = {
        "name": "sample",
        "blocks": blocks,
        "globalSettings": {"maxParallelBlocks": draw(st.integers(1, 5))},
    }
    return Sample(definition, {"n": draw(st.integers(0, 3))}, failing, answers)


def _choice(
    draw: st.DrawFn, blocks: list[dict[str, Any]], names: list[str], i: int, owner: dict[int, int]
) -> None:
    later = [j for j in range(i + 1, len(blocks)) if owner.setdefault(j, i) == i]
    if not later:
        return
    kind = draw(st.sampled_from(["switch", "if", "inclusive"]))
    size = draw(st.integers(1, 3))
    conditions: dict[str, Any] = {"type": kind, "branches": []}
    if kind == "switch":
        conditions["expression"] = "input.n"
    for number in range(size):
        targets = draw(st.lists(st.sampled_from(later), max_size=2, unique=True))
        conditions["branches"].append(
            {
                "condition": str(number) if kind == "switch" else f"input.n >= {number}",
                "nextBlocks": [names[j] for j in targets],
            }
        )
    default = draw(st.lists(st.sampled_from(later), max_size=1))
    conditions["branches"].append({"condition": "default", "nextBlocks": [names[j] for j in default]})
    blocks[i]["conditions"] = conditions
