"""The pure graph core against the plain interpreter, in any order in which blocks may end."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.workflow.conditions import choose, holds
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan
from agentflow.workflow.settlement import (
    Closings,
    close_completed,
    close_failed,
    close_skipped,
    skip_reason,
)
from tests.graphs import Sample, samples
from tests.reference import interpret


@settings(max_examples=400, deadline=None)
@given(samples(), st.randoms(use_true_random=False))
def test_settling_in_any_order_gives_what_the_interpreter_gives(sample: Sample, order: random.Random) -> None:
    plan = compile_plan(parse(sample.definition))
    expected = interpret(
        sample.definition, run_input=sample.input, failing=sample.failing, answers=sample.answers
    )
    assert _settle_all(plan, sample, order) == expected


def _settle_all(plan: Plan, sample: Sample, order: random.Random) -> dict[str, str]:
    """Walk the plan with the pure functions alone, taking decided blocks in random order."""
    todo = {p.idx: len(p.preds) for p in plan.blocks}
    dead = dict.fromkeys(todo, 0)
    failed = dict.fromkeys(todo, 0)
    status: dict[int, str] = {}
    ready = [idx for idx, count in todo.items() if not count]
    while ready:
        idx = ready.pop(order.randrange(len(ready)))
        closings = Closings()
        status[idx] = _end(plan, idx, dead[idx], failed[idx], sample, closings)
        for succ, closing in closings.by_idx.items():
            todo[succ] -= closing.closed
            dead[succ] += closing.dead
            failed[succ] += closing.failed
            if not todo[succ]:
                ready.append(succ)
    return {p.block_id: status[p.idx] for p in plan.blocks}


def _end(plan: Plan, idx: int, dead: int, failed: int, sample: Sample, closings: Closings) -> str:
    planned = plan[idx]
    names = {"input": sample.input, "context": {}, "workspace": {}, "blocks": {}}
    reason = skip_reason(planned, todo=0, dead=dead, failed=failed)
    if reason is None and planned.when is not None and not holds(planned.when, names):
        reason = "guard"  # type: ignore[assignment]
    answer = sample.answers.get(planned.block_id) if planned.human else None
    refused = answer is not None and not answer["approved"]
    if reason is None and refused and planned.human and planned.human.on_reject == "skip":
        reason = "rejected"  # type: ignore[assignment]
    if reason is not None:
        close_skipped(plan, idx, reason, closings)
        return "skipped"
    called = not refused and not planned.noop and not planned.asks_input
    if (refused and planned.human and planned.human.on_reject == "fail") or (
        called and planned.block_id in sample.failing
    ):
        close_failed(plan, idx, closings)
        return "failed"
    taken = choose(planned.conditions, names).taken if planned.conditions else None
    close_completed(plan, idx, taken, closings)
    return "completed"
