"""The order of compensations, against networkx."""

from __future__ import annotations

from typing import Any

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from agentflow.workflow.compensation import due, runnable, waves
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 9))
    blocks = []
    for number in range(count):
        before = draw(st.lists(st.integers(0, number - 1), unique=True)) if number else []
        body: dict[str, Any] = {
            "blockId": f"b{number}",
            "agentId": "a",
            "dependencies": [f"b{n}" for n in before],
        }
        if draw(st.booleans()):
            body["compensation"] = {"agentId": "undo"}
        blocks.append(body)
    return compile_plan(parse({"name": "t", "blocks": blocks}))


@given(plans(), st.data())
def test_each_completed_block_is_undone_once_and_after_all_that_came_after_it(
    plan: Plan, data: st.DataObject
) -> None:
    graph: nx.DiGraph[int] = nx.DiGraph([(p.idx, succ) for p in plan.blocks for succ in p.succs])
    graph.add_nodes_from(p.idx for p in plan.blocks)
    completed = data.draw(st.sets(st.sampled_from([p.idx for p in plan.blocks])))
    left = set(due(plan, completed))
    assert {plan[idx].compensates for idx in left} == completed & plan.compensated_by.keys()
    depths = [idx for wave in waves(plan, left) for idx in wave]
    assert sorted(depths) == sorted(left)
    while left:
        ready = runnable(plan, left)
        waiting = {plan[idx].compensates for idx in left}
        assert ready == {idx for idx in left if not nx.descendants(graph, plan[idx].compensates) & waiting}
        left.remove(data.draw(st.sampled_from(sorted(ready))))


def test_compensations_stand_behind_all_blocks_and_are_none_of_them() -> None:
    body = [
        {"blockId": "a", "agentId": "x", "compensation": {"agentId": "u"}},
        {"blockId": "b", "agentId": "x", "dependencies": ["a"]},
    ]
    plan = compile_plan(parse({"name": "t", "blocks": body}))
    assert [p.block_id for p in plan.blocks] == ["a", "b"]
    assert [p.block_id for p in plan.compensations] == ["a:compensation"]
    assert plan[2].compensates == 0
    assert plan[2].sources == (0,)
    assert plan.sinks == (1,)
