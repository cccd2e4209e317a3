"""What a run keeps that goes on with another version."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.workflow.moving import move_plan, pair, repeated
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan
from agentflow.workflow.restart import Settled

DONE = Settled("completed")


def plan(*blocks: dict[str, Any], **settings: Any) -> Plan:
    return compile_plan(parse({"name": "t", "blocks": list(blocks), "globalSettings": settings}))


def block(block_id: str, *before: str, **fields: Any) -> dict[str, Any]:
    return {"blockId": block_id, "agentId": "x", "dependencies": list(before), **fields}


def _branch(*block_ids: str, **fields: Any) -> dict[str, Any]:
    return {"nextBlocks": list(block_ids), **fields}


def moved(old: Plan, new: Plan, **settled: Settled) -> tuple[set[str], set[str]]:
    move = move_plan(pair(old, new), {old.index[name]: ended for name, ended in settled.items()})
    assert {old[before].block_id for before in move.kept} == {
        new[after].block_id for after in move.kept.values()
    }
    return {new[idx].block_id for idx in move.kept.values()}, {new[idx].block_id for idx in move.found.reruns}


OLD = plan(block("a"), block("b", "a"), block("c", "b"))


@pytest.mark.parametrize(
    ("new", "kept", "reruns"),
    [
        (plan(block("a"), block("b", "a"), block("c", "b", agentId="y")), {"a", "b"}, {"c"}),
        (plan(block("a"), block("b", "a", agentId="y"), block("c", "b")), {"a"}, {"b", "c"}),
        (plan(block("a", agentId="y"), block("b", "a"), block("c", "b")), set(), {"a", "b", "c"}),
        (plan(block("a"), block("x", "a"), block("b", "a", "x"), block("c", "b")), {"a"}, {"x", "b", "c"}),
        (plan(block("z"), block("a"), block("b", "a"), block("d", "b", "z")), {"a", "b"}, {"z", "d"}),
        (plan(block("a", name="A", timeout=5000), block("b", "a"), block("c", "b")), {"a", "b"}, {"c"}),
    ],
)
def test_what_both_versions_say_alike_is_kept_as_far_as_all_before_it_is(
    new: Plan, kept: set[str], reruns: set[str]
) -> None:
    assert moved(OLD, new, a=DONE, b=DONE, c=Settled("failed")) == (kept, reruns)


def test_edges_of_what_is_kept_are_closed_in_the_new_version() -> None:
    chooses = {
        "conditions": {
            "type": "if",
            "branches": [_branch("b", condition="true"), _branch("c", condition="default")],
        }
    }
    old = plan(block("a", **chooses), block("b", "a"), block("c", "a"))
    new = plan(block("n"), block("a", **chooses), block("b", "a"), block("c", "a", "n"))
    move = move_plan(pair(old, new), {0: Settled("completed", choice=(0,))})
    counters = {new[idx].block_id: each for idx, each in move.found.reruns.items()}
    assert (counters["b"].todo, counters["b"].dead) == (0, 0)
    assert (counters["c"].todo, counters["c"].dead) == (1, 1)
    assert move.found.open_sinks == 2


def test_a_gate_that_asks_others_now_asks_again() -> None:
    gate = {"blockId": "g", "humanInLoop": {"type": "approval"}}
    old, new = plan(gate), plan(gate, humanInLoopDefaults={"approvalLevel": "manager"})
    assert pair(old, new).alike == {}


def test_what_happened_and_would_run_again_is_named() -> None:
    new = plan(block("a", agentId="y"), block("b", "a"), block("c", "b"))
    pairing = pair(OLD, new)
    move = move_plan(pairing, {0: DONE, 1: DONE})
    assert repeated(pairing, move, {1}) == ["b"]
    assert repeated(pairing, move_plan(pair(OLD, OLD), {0: DONE, 1: DONE}), {0, 1}) == []
    assert (pairing.changed, pairing.gone, pairing.added) == (("a",), (), ())
