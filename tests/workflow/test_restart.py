"""What a restart runs again, against the plain interpreter and by example."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentflow.workflow.conditions import choose, holds
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan
from agentflow.workflow.restart import Counters, RestartPlan, Settled, restart_plan, return_plan
from agentflow.workflow.settlement import (
    Closings,
    close_completed,
    close_failed,
    close_skipped,
    skip_reason,
    uncaught,
)
from tests.graphs import Sample, samples
from tests.reference import interpret


@settings(max_examples=300, deadline=None)
@given(samples(), st.randoms(use_true_random=False), st.data())
def test_a_restart_ends_as_a_fresh_run_would(
    sample: Sample, order: random.Random, data: st.DataObject
) -> None:
    """From any block, or from what failed, with as many of the failures mended as one likes."""
    plan = compile_plan(parse(sample.definition))
    first = settle(plan, all_open(plan), {}, sample, sample.failing, order)
    still = (
        data.draw(st.frozensets(st.sampled_from(sorted(sample.failing)))) if sample.failing else frozenset()
    )
    from_idx = data.draw(st.none() | st.integers(0, len(plan.blocks) - 1))
    found = plan_of(plan, first, from_idx=from_idx)
    again = settle(plan, found.reruns, first, sample, still, order)
    mended = sample.failing - still
    untouched = {idx for idx in first if idx not in found.reruns}
    # A failure that is mended outside what runs again is carried as the failure it was.
    carried = {plan[idx].block_id for idx in untouched} & mended
    expected = interpret(
        sample.definition, run_input=sample.input, failing=still | carried, answers=sample.answers
    )
    assert {plan[idx].block_id: ended.status for idx, ended in again.items()} == expected
    assert found.open_sinks == sum(idx in found.reruns for idx in plan.sinks)


@settings(max_examples=50, deadline=None)
@given(samples(), st.randoms(use_true_random=False), st.data())
def test_going_back_to_any_moment_ends_as_a_fresh_run_would(
    sample: Sample, order: random.Random, data: st.DataObject
) -> None:
    plan = compile_plan(parse(sample.definition))
    first = settle(plan, all_open(plan), {}, sample, sample.failing, order)
    point = list(first)[: data.draw(st.integers(0, len(first)))]  # in the order in which they settled
    mended = data.draw(st.booleans())
    found = return_plan(plan, first, point)
    carried = {plan[idx].block_id for idx in first if idx not in found.reruns}
    failing = sample.failing & carried if mended else sample.failing
    again = settle(plan, found.reruns, first, sample, failing, order)
    expected = interpret(sample.definition, run_input=sample.input, failing=failing, answers=sample.answers)
    assert {plan[idx].block_id: ended.status for idx, ended in again.items()} == expected
    stands = uncaught(plan, {idx: (how.status, how.reason) for idx, how in first.items()})
    if not stands:
        assert set(found.reruns) == set(first) - set(point)


def test_a_join_that_had_opened_early_stays_though_what_it_did_not_wait_for_runs_again() -> None:
    plan = of(
        [
            block("fast"),
            block("slow"),
            block("join", "fast", "slow", join="any"),
            block("side", "slow"),
            block("end", "join"),
        ]
    )
    point = [plan.index[name] for name in ("fast", "join", "end")]
    found = return_plan(plan, everything(plan, "completed"), point)
    assert {plan[idx].block_id for idx in found.reruns} == {"slow", "side"}
    assert found.joins == {plan.index["join"]: Counters(todo=1, dead=0, failed=0)}


def test_going_back_mends_a_failure_that_nothing_could_catch() -> None:
    plan = of([block("a"), block("b", "a"), block("c", "b"), block("rescue", "a", runOn="failure")])
    ended = {
        0: Settled("completed"),
        plan.index["b"]: Settled("failed", "x"),
        plan.index["c"]: Settled("skipped", "upstream_failed"),
        plan.index["rescue"]: Settled("skipped", "no_failure"),
    }
    found = return_plan(plan, ended, list(ended))
    assert {plan[idx].block_id for idx in found.reruns} == {"b", "c"}


def test_going_back_leaves_a_failure_to_what_will_catch_it() -> None:
    plan = of([block("a"), block("rescue", "a", runOn="failure"), block("z", "rescue")])
    found = return_plan(plan, {0: Settled("failed", "x")}, [0])
    assert {plan[idx].block_id for idx in found.reruns} == {"rescue", "z"}
    assert found.reruns[1] == Counters(todo=0, dead=0, failed=1)


@settings(max_examples=100, deadline=None)
@given(samples(), st.randoms(use_true_random=False))
def test_without_a_block_all_that_failed_runs_again_and_all_behind_it(
    sample: Sample, order: random.Random
) -> None:
    plan = compile_plan(parse(sample.definition))
    first = settle(plan, all_open(plan), {}, sample, sample.failing, order)
    found = plan_of(plan, first)
    failed = {idx for idx, ended in first.items() if ended.status == "failed"}
    assert failed <= found.reruns.keys()
    assert bool(found.reruns) == bool(failed)
    for idx in found.reruns:
        assert set(plan[idx].succs) <= found.reruns.keys()
        assert idx in failed or found.reruns.keys() & set(plan[idx].preds)


def test_a_reset_runs_everything_with_all_edges_open() -> None:
    plan = chain("a", "b", "c")
    found = plan_of(plan, everything(plan, "completed"), from_idx=2, reset=True)
    assert found == RestartPlan({0: Counters(0, 0, 0), 1: Counters(1, 0, 0), 2: Counters(1, 0, 0)}, 1, 0)


def test_what_succeeded_has_nothing_to_mend() -> None:
    plan = chain("a", "b")
    assert not plan_of(plan, everything(plan, "completed"), succeeded=True).reruns


def test_what_was_stopped_runs_again_even_beside_the_block_that_is_named() -> None:
    plan = of([block("a"), block("b"), block("c", "b")])
    ended = {
        0: Settled("completed"),
        1: Settled("cancelled", "cancelled"),
        2: Settled("cancelled", "cancelled"),
    }
    assert set(plan_of(plan, ended, from_idx=plan.index["a"]).reruns) == {0, 1, 2}


def test_a_block_that_ended_the_run_ends_it_again() -> None:
    plan = of([block("stop", end="failed"), block("cut")])
    ended = {
        plan.index["stop"]: Settled("completed"),
        plan.index["cut"]: Settled("cancelled", "run_ended"),
    }
    assert len(plan_of(plan, ended).reruns) == 2
    assert not plan_of(plan, ended, succeeded=True).reruns


def test_a_loser_is_not_needed_where_the_winners_are_carried() -> None:
    plan, ended = race()
    join = plan.index["join"]
    assert plan_of(plan, ended, from_idx=join).reruns == {join: Counters(todo=1, dead=0, failed=0)}


def test_a_loser_runs_again_with_the_winner_of_its_race() -> None:
    plan, ended = race()
    assert set(plan_of(plan, ended, from_idx=plan.index["won"]).reruns) == set(ended)


def test_a_failure_that_is_carried_still_counts() -> None:
    plan = of([block("a"), block("b"), block("c", onError="continue")])
    ended = {0: Settled("failed", "x"), 1: Settled("completed"), 2: Settled("failed", "x")}
    assert plan_of(plan, ended, from_idx=1).failed_blocks == 1


# -- the pure functions alone, without rows ------------------------------------


def all_open(plan: Plan) -> dict[int, Counters]:
    return {planned.idx: Counters(len(planned.preds), 0, 0) for planned in plan.blocks}


def settle(
    plan: Plan,
    open_blocks: Any,
    carried: dict[int, Settled],
    sample: Sample,
    failing: frozenset[str],
    order: random.Random,
) -> dict[int, Settled]:
    """Settle the open blocks in random order; the others stay as they were."""
    todo = {idx: counters.todo for idx, counters in open_blocks.items()}
    dead = {idx: counters.dead for idx, counters in open_blocks.items()}
    failed = {idx: counters.failed for idx, counters in open_blocks.items()}
    ended = {idx: how for idx, how in carried.items() if idx not in todo}
    ready = [idx for idx, count in todo.items() if not count]
    while ready:
        idx = ready.pop(order.randrange(len(ready)))
        closings = Closings()
        ended[idx] = end(plan, idx, dead[idx], failed[idx], sample, failing, closings)
        for succ, closing in closings.by_idx.items():
            todo[succ] -= closing.closed
            dead[succ] += closing.dead
            failed[succ] += closing.failed
            if not todo[succ]:
                ready.append(succ)
    return ended


def end(
    plan: Plan, idx: int, dead: int, failed: int, sample: Sample, failing: frozenset[str], closings: Closings
) -> Settled:
    planned = plan[idx]
    names = {"input": sample.input, "context": {}, "workspace": {}, "blocks": {}}
    reason: str | None = skip_reason(planned, todo=0, dead=dead, failed=failed)
    if reason is None and planned.when is not None and not holds(planned.when, names):
        reason = "guard"
    answer = sample.answers.get(planned.block_id) if planned.human else None
    refused = answer is not None and not answer["approved"]
    if reason is None and refused and planned.human and planned.human.on_reject == "skip":
        reason = "rejected"
    if reason is not None:
        close_skipped(plan, idx, reason, closings)
        return Settled("skipped", str(reason))
    called = not refused and not planned.noop and not planned.asks_input
    if (refused and planned.human and planned.human.on_reject == "fail") or (
        called and planned.block_id in failing
    ):
        close_failed(plan, idx, closings)
        return Settled("failed", "failed")
    taken = choose(planned.conditions, names).taken if planned.conditions else None
    close_completed(plan, idx, taken, closings)
    return Settled("completed", "", taken)


def plan_of(
    plan: Plan,
    ended: dict[int, Settled],
    *,
    from_idx: int | None = None,
    reset: bool = False,
    succeeded: bool | None = None,
) -> RestartPlan:
    if succeeded is None:
        statuses = {idx: (how.status, how.reason) for idx, how in ended.items()}
        cancelled = any(how.status == "cancelled" for how in ended.values())
        succeeded = not cancelled and not uncaught(plan, statuses)
    return restart_plan(plan, ended, from_idx=from_idx, reset=reset, succeeded=succeeded)


def block(block_id: str, *dependencies: str, **fields: Any) -> dict[str, Any]:
    return {"blockId": block_id, "agentId": "x", "dependencies": list(dependencies), **fields}


def of(blocks: list[dict[str, Any]]) -> Plan:
    return compile_plan(parse({"name": "t", "blocks": blocks}))


def chain(*names: str) -> Plan:
    return of([block(name, *names[max(i - 1, 0) : i]) for i, name in enumerate(names)])


def everything(plan: Plan, status: str) -> dict[int, Settled]:
    return {planned.idx: Settled(status) for planned in plan.blocks}


def race() -> tuple[Plan, dict[int, Settled]]:
    plan = of([block("won"), block("lost"), block("join", "won", "lost", join="any")])
    ended = everything(plan, "completed")
    ended[plan.index["lost"]] = Settled("cancelled", "lost_race")
    return plan, ended
