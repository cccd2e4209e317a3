"""Each construct of the definition by its name, from the outside of the engine."""

from __future__ import annotations

from typing import Any

import pytest

from approvals.models import Approval
from approvals.services import responding
from executions.models import BlockExecution, Execution
from executions.services import control, reconcile, repairing, restarting
from executions.services.restarting import RestartRequest
from tests import builtins
from tests.factories.executions import statuses
from tests.history import check

from .conftest import Start, answer, block, claim, drain, finish, make_due, row, template

FAILS = {"failures": {"a": [{"kind": "critical", "times": 1}]}}


def asking(block_id: str, *dependencies: str, **fields: Any) -> Any:
    return block(block_id, *dependencies, humanInLoop={"type": "approval"}, **fields)


def test_join_any_opens_with_the_first_and_cancels_the_others(run: Start, author: Any) -> None:
    execution = run(
        template(
            asking("slow"), asking("other"), block("first"), block("j", "slow", "other", "first", join="any")
        )
    )
    assert execution.status == "completed"
    assert statuses(execution) == {
        "slow": "cancelled",
        "other": "cancelled",
        "first": "completed",
        "j": "completed",
    }
    assert row(execution, "slow").reason == "lost_race"
    assert not Approval.objects.filter(execution=execution, status="pending").exists()


def test_join_at_least_waits_for_so_many(run: Start, author: Any) -> None:
    execution = run(
        template(asking("a"), asking("b"), asking("c"), block("j", "a", "b", "c", join={"atLeast": 2}))
    )
    answer(execution, "b", author)
    assert statuses(execution)["j"] == "blocked"
    answer(execution, "c", author)
    assert execution.status == "completed"
    assert statuses(execution) == {"a": "cancelled", "b": "completed", "c": "completed", "j": "completed"}


def test_a_partial_join_that_can_no_longer_be_met_is_skipped(run: Start, author: Any) -> None:
    execution = run(
        template(
            asking("a", retryPolicy={"maxRetries": 0}),
            asking("b"),
            block("j", "a", "b", join={"atLeast": 2}),
        )
    )
    answer(execution, "a", author, approved=False)
    assert statuses(execution) == {"a": "failed", "b": "cancelled", "j": "skipped"}
    assert row(execution, "j").reason == "upstream_failed"
    assert execution.status == "failed"
    assert check([execution.pk]) == []


def test_what_works_for_two_partial_joins_is_cancelled_when_both_are_open(run: Start, author: Any) -> None:
    execution = run(
        template(
            asking("a"),
            asking("b"),
            asking("both"),
            block("j", "a", "both", join="any"),
            block("k", "b", "both", join="any"),
        )
    )
    answer(execution, "a", author)
    assert row(execution, "both").status == "waiting_human"  # `k` may need it
    answer(execution, "b", author)
    assert execution.status == "completed"
    assert row(execution, "both").status == "cancelled"
    assert check([execution.pk]) == []


def test_who_loses_a_race_keeps_what_others_need(run: Start) -> None:
    """`shared` works for the join and for `more`: it is no rival."""
    execution = run(
        template(
            asking("shared"),
            block("quick"),
            block("j", "shared", "quick", join="any"),
            block("more", "shared"),
        )
    )
    assert statuses(execution) == {
        "shared": "waiting_human",
        "quick": "completed",
        "j": "completed",
        "more": "blocked",
    }


def test_a_running_loser_is_fenced(start: Start) -> None:
    execution = start(
        template(block("slow"), block("quick"), block("j", "slow", "quick", join="any"), maxParallelBlocks=2)
    )
    held = claim(execution)
    drain(execution)
    assert execution.status == "completed"
    finish(execution, held, output="too late")
    assert row(execution, "slow").status == "cancelled"
    assert row(execution, "slow").late_results.get().output == "too late"


def test_run_on_failure_runs_after_a_failure_and_catches_it(run: Start) -> None:
    definition = template(
        block("a"), block("b", "a"), block("rescue", "b", runOn="failure"), block("after", "rescue")
    )
    execution = run(definition, simulation=FAILS)
    assert execution.status == "completed"
    assert statuses(execution) == {"a": "failed", "b": "skipped", "rescue": "completed", "after": "completed"}


def test_run_on_failure_is_skipped_when_nothing_failed(run: Start) -> None:
    execution = run(template(block("a"), block("rescue", "a", runOn="failure"), block("b", "a", "rescue")))
    assert statuses(execution) == {"a": "completed", "rescue": "skipped", "b": "completed"}
    assert row(execution, "rescue").reason == "no_failure"


def test_run_on_always_runs_after_both_and_catches_nothing(run: Start) -> None:
    definition = template(block("a"), block("tidy", "a", runOn="always"))
    assert statuses(run(definition)) == {"a": "completed", "tidy": "completed"}
    execution = run(definition, simulation=FAILS)
    assert statuses(execution) == {"a": "failed", "tidy": "completed"}
    assert execution.status == "failed"


def test_on_error_continue_goes_on_as_if_nothing_had_happened(run: Start) -> None:
    execution = run(template(block("a", onError="continue"), block("b", "a")), simulation=FAILS)
    assert execution.status == "completed"
    assert statuses(execution) == {"a": "failed", "b": "completed"}


def test_a_wait_holds_no_worker_and_ends_with_its_moment(run: Start) -> None:
    execution = run(template(block("a", wait={"seconds": 3600}), block("b", "a")))
    assert statuses(execution) == {"a": "waiting_external", "b": "blocked"}
    assert row(execution, "a").reason == "timer"
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_external", "b": "blocked"}
    assert execution.timers.get(kind="check").due_at <= row(execution, "a").available_at  # type: ignore[operator]
    make_due(execution)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "a").attempt == 1


def test_a_wait_without_an_agent_is_a_timer_block(run: Start) -> None:
    execution = run(template({"blockId": "a", "wait": {"seconds": 60}}, block("b", "a")))
    make_due(execution)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "a").attempt == 0


@pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", "input.when"])
def test_a_moment_that_has_passed_is_no_wait(run: Start, until: str) -> None:
    execution = run(template(block("a", wait={"until": until})), input={"when": "2020-01-01T00:00:00+02:00"})
    assert execution.status == "completed"


@pytest.mark.parametrize("when", ["soon", "9999-01-01T00:00:00Z", 7])
def test_a_moment_that_is_none_or_too_far_asks_a_person(run: Start, when: Any) -> None:
    execution = run(template(block("a", wait={"until": "input.when"})), input={"when": when})
    assert statuses(execution) == {"a": "waiting_human"}


def test_a_paused_run_does_not_end_its_waits(run: Start, author: Any) -> None:
    execution = run(template(block("a", wait={"seconds": 60})))
    control.pause(execution_id=execution.pk, by=author)
    make_due(execution)
    reconcile.look(execution.pk)
    assert statuses(execution) == {"a": "waiting_external"}
    control.resume(execution_id=execution.pk, by=author)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"


def test_priority_decides_among_what_is_ready(run: Start) -> None:
    names = ["low", "none", "high"]
    blocks = [
        block(name, agentId="test.record", configuration={"name": name}, priority=priority)
        for name, priority in zip(names, (-5, 0, 5), strict=True)
    ]
    run(template(*blocks, maxParallelBlocks=1))
    assert builtins.calls == ["high", "none", "low"]


def test_a_simulated_wait_is_scaled(run: Start) -> None:
    execution = run(template(block("a", wait={"seconds": 3600})), simulation={"scale": 0})
    assert execution.status == "completed"


def test_a_cancelled_loser_of_a_child_workflow_stops_its_child(run: Start, version_of: Any) -> None:
    child = version_of(template(asking("x")))
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": str(child.template_id)}}
    execution = run(
        template(sub, block("quick", wait={"seconds": 60}), block("j", "sub", "quick", join="any"))
    )
    started = Execution.objects.get(parent_block__execution=execution)
    make_due(execution)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    reconcile.look(started.pk)
    started.refresh_from_db()
    assert started.status == "cancelled"
    assert check() == []


def each(block_id: str, *dependencies: str, items: str = "input.items", **fields: Any) -> Any:
    for_each = {"items": items, **fields.pop("forEach", {})}
    return block(block_id, *dependencies, forEach=for_each, **fields)


@pytest.mark.parametrize("count", [0, 1, 5, 300, 5000])
def test_for_each_gives_the_outputs_in_the_order_of_the_items(run: Start, count: int) -> None:
    items = [{"n": n} for n in range(count)]
    definition = template(each("a", input={"twice": "${item.n * 2}", "at": "${index}"}), block("b", "a"))
    execution = run(definition, input={"items": items})
    assert execution.status == "completed"
    assert row(execution, "a").output == [{"twice": n * 2, "at": n} for n in range(count)]
    assert row(execution, "b").output == {"a": row(execution, "a").output}
    assert BlockExecution.objects.filter(execution=execution, iteration__gt=0).count() == count


def test_an_item_without_a_mapping_is_given_with_its_index(run: Start) -> None:
    execution = run(template(each("a")), input={"items": ["x", None]})
    assert row(execution, "a").output == [{"item": "x", "index": 0}, {"item": None, "index": 1}]


def test_at_most_so_many_items_are_under_way(start: Start) -> None:
    execution = start(template(each("a", forEach={"maxConcurrency": 2})), input={"items": [1, 2, 3, 4, 5]})
    held = claim(execution)
    under_way = BlockExecution.objects.filter(
        execution=execution, iteration__gt=0, status__in=["ready", "running"]
    )
    assert under_way.count() == 2
    finish(execution, held, output="one")
    assert under_way.count() == 2
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "a").output[0] == "one"  # type: ignore[index]


def test_one_failed_item_does_not_lose_the_results_of_the_others(run: Start) -> None:
    definition = template(
        each(
            "a",
            agentId="test.odd",
            input={"n": "${item}"},
            retryPolicy={"maxRetries": 0, "onExhausted": "fail"},
        ),
        block("rescue", "a", runOn="failure"),
    )
    execution = run(definition, input={"items": [1, 2, 3]})
    assert execution.status == "completed"
    a = row(execution, "a")
    assert a.status == "failed"
    assert a.output == [{"odd": 1}, None, {"odd": 3}]
    assert a.error["code"] == "items_failed"  # type: ignore[index]


@pytest.mark.parametrize(
    ("items", "wanted", "ends"),
    [
        ([2, 1, 4, 3], 2, "completed"),
        ([2, 1, 4], 2, "failed"),  # too few completed
        ([1, 3], 9, "completed"),  # never more than there are
        ([1, 2], 9, "failed"),
    ],
)
def test_at_least_so_many_items_must_complete(run: Start, items: list[int], wanted: int, ends: str) -> None:
    policy = {"maxRetries": 0, "onExhausted": "fail"}
    for_each = {"atLeast": wanted, "maxConcurrency": 1}
    a = each("a", agentId="test.odd", input={"n": "${item}"}, retryPolicy=policy, forEach=for_each)
    execution = run(template(a), input={"items": items})
    assert execution.status == ends
    assert row(execution, "a").output == [{"odd": n} if n % 2 else None for n in items]


def test_each_item_is_retried_by_itself(run: Start, author: Any) -> None:
    definition = template(
        each("a", agentId="test.odd", input={"n": "${item}"}, retryPolicy={"maxRetries": 0})
    )
    execution = run(definition, input={"items": [1, 2]})
    assert statuses(execution)["a"] == "waiting_external"
    asked = Approval.objects.get(execution=execution, status="pending")
    assert asked.block_execution.iteration == 2
    responding.respond(
        approval_id=asked.pk, by=author, approved=True, response={"action": "complete", "output": 0}
    )
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "a").output == [{"odd": 1}, 0]


def test_each_item_may_have_a_person_of_its_own(run: Start, author: Any) -> None:
    human = {"type": "approval", "onReject": "skip"}
    execution = run(template(each("a", humanInLoop=human)), input={"items": ["x", "y"]})
    for asked in Approval.objects.filter(execution=execution).order_by("block_execution__iteration"):
        approved = asked.block_execution.iteration == 1
        responding.respond(approval_id=asked.pk, by=author, approved=approved)
        drain(execution)
    assert execution.status == "completed"
    assert row(execution, "a").output == [{"item": "x", "index": 0}, None]


@pytest.mark.parametrize("items", [{"a": 1}, "text", None])
def test_for_each_over_something_that_is_no_list_asks_a_person(run: Start, items: Any) -> None:
    execution = run(template(each("a")), input={"items": items})
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").error["code"] == "not_a_list"  # type: ignore[index]


def test_too_much_output_of_all_items_together_fails_the_block_and_is_kept(run: Start) -> None:
    execution = run(template(each("a", agentId="test.big")), input={"items": list(range(40))})
    assert execution.status == "failed"
    assert row(execution, "a").error["code"] == "output_too_large"  # type: ignore[index]
    kept = BlockExecution.objects.filter(execution=execution, iteration__gt=0, status="completed")
    assert kept.count() == 40


def test_a_choice_after_for_each_reads_the_list(run: Start) -> None:
    conditions = {
        "type": "if",
        "branches": [
            {"condition": "size(blocks.a.output) > 1", "nextBlocks": ["many"]},
            {"condition": "default", "nextBlocks": ["few"]},
        ],
    }
    execution = run(
        template(each("a", conditions=conditions), block("many"), block("few")), input={"items": [1, 2]}
    )
    assert statuses(execution) == {"a": "completed", "many": "completed", "few": "skipped"}


def test_items_of_a_cancelled_run_are_cancelled(run: Start, author: Any) -> None:
    execution = run(template(each("a", humanInLoop={"type": "approval"})), input={"items": [1, 2]})
    control.cancel(execution_id=execution.pk, by=author)
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert set(execution.blocks.values_list("status", flat=True)) == {"cancelled"}


def test_repeat_runs_until_its_condition_holds(run: Start) -> None:
    definition = template(
        block(
            "a",
            agentId="test.count",
            input={"before": "${blocks.a.output}", "round": "${index}"},
            repeat={"until": "blocks.a.output.n >= 3", "maxIterations": 10},
        ),
        block("b", "a"),
    )
    execution = run(definition)
    assert execution.status == "completed"
    a = row(execution, "a")
    assert a.output == {"n": 3, "round": 2}
    assert (a.attempt, a.round, a.effect_seq, a.attempts.filter(outcome="ok").count()) == (3, 2, 2, 3)


def test_a_repeat_that_never_ends_asks_a_person(run: Start, author: Any) -> None:
    execution = run(template(block("a", repeat={"until": "false", "maxIterations": 4})))
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").error["code"] == "repeat_exhausted"  # type: ignore[index]
    assert row(execution, "a").attempt == 4
    answer(execution, "a", author, response={"action": "complete", "output": 1})
    assert execution.status == "completed"


@pytest.mark.parametrize("asks", [True, False])
def test_what_follows_an_exhausted_repeat_is_new_work(run: Start, author: Any, asks: bool) -> None:
    """Every round was accepted, so what comes after, by hand or by a restart, carries none of their keys."""
    policy = {"maxRetries": 0, "onExhausted": "ask" if asks else "fail"}
    counting = block(
        "a",
        agentId="test.count",
        input={"before": "${blocks.a.output}", "round": "${index}"},
        effect="keyed",
        repeat={"until": "false", "maxIterations": 2},
        retryPolicy=policy,
    )
    wait = block("w", humanInLoop={"type": "approval"})
    execution = run(template(counting, wait, maxParallelBlocks=2))
    if asks:
        answer(execution, "a", author, response={"action": "retry"})
        answer(execution, "a", author, response={"action": "skip"})
    else:
        repairing.retry(execution_id=execution.pk, block_pk=row(execution, "a").pk, by=author, reason="")
        drain(execution)
    a = row(execution, "a")
    assert (a.round, a.effect_seq, a.attempt) == (2, 2, 3)
    assert asks or a.output == {"n": 3, "round": 2}  # as any round, it goes on from the one before
    control.cancel(execution_id=execution.pk, by=author)
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="a"))
    drain(execution)
    again = BlockExecution.objects.get(execution=execution, block_id="a", epoch=2)
    assert (again.round, again.effect_seq) == (1, 4)  # two rounds more, with two keys more
    assert check([execution.pk]) == []
