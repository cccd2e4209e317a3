"""Recovery points: when they are taken, and going back to one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from agentflow.conf import LIMITS
from agentflow.errors import InvalidInput, NotFound
from agentflow.governance.models import AuditEntry, User
from executions.engine import points
from executions.engine.run import locked
from executions.models import BlockExecution, Execution, PointKind, RecoveryPoint
from executions.services import control, marking, reconcile, restarting
from executions.services.marking import TooManyPoints
from executions.services.restarting import NothingToRestart, NotTerminal, PlanStale, RestartRequest
from tests.factories.executions import statuses

from .conftest import Start, answer, block, claim, drain, facts, finish, template


def points_of(execution: Execution) -> list[tuple[str, str, set[str]]]:
    """Kind, name and settled blocks of each, the oldest first."""
    plan = facts(execution).plan
    return [
        (point.kind, point.name, {plan[idx].block_id for idx in point.idxs})
        for point in RecoveryPoint.objects.filter(execution=execution).order_by("pk")
    ]


def point(execution: Execution, number: int = 0) -> int:
    return list(RecoveryPoint.objects.filter(execution=execution).order_by("pk"))[number].pk


def restore(execution: Execution, by: User, point_id: int, **asked: Any) -> int:
    request = RestartRequest(point_id=point_id, **asked)
    epoch = restarting.restart(execution_id=execution.pk, by=by, request=request)
    drain(execution)
    return epoch


def worked_again(execution: Execution) -> set[str]:
    rows = BlockExecution.objects.filter(
        execution=execution, epoch=execution.epoch, iteration=0, carried_from=None
    )
    return set(rows.values_list("block_id", flat=True))


def test_a_block_with_checkpoint_leaves_a_point_when_it_completes(run: Start) -> None:
    execution = run(
        template(
            block("a"),
            block("b", "a", checkpoint=True, name="Book"),
            block("c", "b"),
            block("d", checkpoint=True),
        ),
        simulation={"failures": {"d": [{"kind": "critical", "times": 1}]}},
    )
    assert [(kind, name) for kind, name, _ in points_of(execution)] == [("checkpoint", "Book")]
    assert {"a", "b"} <= points_of(execution)[0][2]
    assert "c" not in points_of(execution)[0][2]


def test_a_decision_leaves_a_point_and_a_timeout_does_not(run: Start, author: User) -> None:
    execution = run(
        template(block("a"), block("b", "a", humanInLoop={"type": "input"}, agentId=None), block("c", "b"))
    )
    answer(execution, "b", author, response={})
    (made,) = RecoveryPoint.objects.filter(execution=execution)
    assert points_of(execution) == [("decision", "b", {"a", "b"})]
    assert made.created_by == author


def test_a_minute_of_progress_leaves_a_point_and_a_minute_of_none_does_not(start: Start) -> None:
    execution = start(template(block("a"), block("b", "a"), block("c", "b")))
    held = claim(execution)
    Execution.objects.filter(pk=execution.pk).update(started_at=Now() - timedelta(seconds=61))
    reconcile.look(execution.pk)
    assert points_of(execution) == []
    finish(execution, held, output=1)
    reconcile.look(execution.pk)
    reconcile.look(execution.pk)
    assert points_of(execution) == [("interval", "", {"a"})]
    RecoveryPoint.objects.update(created_at=Now() - timedelta(seconds=61))
    reconcile.look(execution.pk)
    assert len(points_of(execution)) == 1


def test_a_run_shorter_than_a_minute_has_none(run: Start) -> None:
    execution = run(template(block("a"), block("b", "a")))
    reconcile.look(execution.pk)
    assert points_of(execution) == []


def test_a_restart_leaves_a_point_of_how_the_epoch_ended(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a")))
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="b"))
    made = RecoveryPoint.objects.get(execution=execution)
    assert (made.kind, made.epoch, made.settled_count, made.created_by) == ("restart", 1, 2, author)


def test_the_newest_automatic_points_are_kept_and_those_of_people(run: Start, author: User) -> None:
    execution = run(template(block("a")))
    mine = marking.mark(execution_id=execution.pk, by=author, name="mine")
    with locked(facts(execution)) as held:
        for number in range(LIMITS.recovery_points_kept + 3):
            points.write(held, PointKind.CHECKPOINT, name=str(number))
    kept = RecoveryPoint.objects.filter(execution=execution)
    assert kept.count() == LIMITS.recovery_points_kept + 1
    assert kept.filter(pk=mine.pk).exists()
    assert not kept.filter(name__in=["0", "1", "2"]).exists()


def test_of_points_made_by_people_there_are_only_so_many(run: Start, author: User) -> None:
    execution = run(template(block("a")))
    with locked(facts(execution)) as held:
        for _ in range(LIMITS.recovery_points_manual - 1):
            points.write(held, PointKind.MANUAL)
    last = marking.mark(execution_id=execution.pk, by=author)
    with pytest.raises(TooManyPoints):
        marking.mark(execution_id=execution.pk, by=author)
    marking.unmark(execution_id=execution.pk, point_id=last.pk, by=author)
    marking.mark(execution_id=execution.pk, by=author)
    assert AuditEntry.objects.filter(action="execution.mark").count() == 2
    assert AuditEntry.objects.filter(action="execution.unmark").count() == 1


def test_a_point_of_ten_thousand_blocks_is_little_more_than_a_kilobyte() -> None:
    assert len(points.bitmap(range(8_000))) == 1_000
    assert len(points.bitmap(range(10_000))) == 1_250
    assert RecoveryPoint(settled=points.bitmap([0, 9, 9_999])).idxs == {0, 9, 9_999}
    assert RecoveryPoint(settled=points.bitmap([])).idxs == frozenset()


def test_going_back_carries_what_had_settled_and_runs_the_rest(run: Start, author: User) -> None:
    execution = run(template(block("a", checkpoint=True), block("b", "a"), block("c", "b"), block("d", "a")))
    found = restarting.preview(execution_id=execution.pk, request=RestartRequest(point_id=point(execution)))
    assert (found["epoch"], found["reruns"], found["carried"]) == (2, ["b", "c", "d"], ["a"])
    assert restore(execution, author, point(execution), plan_id=found["planId"]) == 2
    assert execution.status == "completed"
    assert worked_again(execution) == {"b", "c", "d"}
    entry = AuditEntry.objects.get(action="execution.restart")
    assert entry.detail == {"epoch": 2, "reruns": 3, "recoveryPointId": point(execution)}
    with pytest.raises(PlanStale):
        restore(execution, author, point(execution), plan_id=found["planId"])


def test_a_point_of_an_earlier_epoch_carries_what_was_then(run: Start, author: User) -> None:
    execution = run(
        template(
            block("a", input={"n": "${input.n}"}, checkpoint=True),
            block("b", "a", checkpoint=True),
            block("c", "b", input={"got": "${blocks.b.output}"}),
        ),
        input={"n": 7},
    )
    first = {row.block_id: row for row in BlockExecution.objects.filter(execution=execution)}
    after_b = point(execution, 1)
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="a"))
    drain(execution)
    assert restore(execution, author, after_b) == 3
    now = {row.block_id: row for row in BlockExecution.objects.filter(execution=execution, epoch=3)}
    assert worked_again(execution) == {"c"}
    assert (now["a"].carried_from, now["b"].carried_from) == (first["a"].pk, first["b"].pk)
    assert now["c"].output == first["c"].output
    # c was called in epochs 1 and 2: this call is a third one.
    assert [now[name].effect_seq for name in "abc"] == [0, 0, 2]


def test_a_point_taken_before_a_restart_brings_back_how_it_ended(run: Start, author: User) -> None:
    execution = run(
        template(block("a"), block("b", "a"), block("c", "a")),
        simulation={"failures": {"b": [{"kind": "critical", "times": 1}]}},
    )
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="a"))
    drain(execution)
    restore(execution, author, point(execution))
    assert worked_again(execution) == {"b"}
    assert statuses(execution) == {"a": "completed", "b": "failed", "c": "completed"}


def test_the_items_of_a_block_that_had_settled_are_carried_with_it(run: Start, author: User) -> None:
    each = block("a", forEach={"items": "input.of"}, checkpoint=True)
    execution = run(template(each, block("b", "a")), input={"of": [1, 2, 3]})
    restore(execution, author, point(execution))
    assert execution.status == "completed"
    assert BlockExecution.objects.filter(execution=execution, epoch=2, iteration__gt=0).count() == 3
    assert worked_again(execution) == {"b"}


def test_a_join_that_opened_early_stays_settled(start: Start, author: User) -> None:
    execution = start(
        template(
            block("fast"),
            block("slow"),
            block("join", "fast", "slow", join="any", checkpoint=True),
            block("side", "slow"),
        )
    )
    by_name = {}
    for _ in range(2):
        held = claim(execution)
        by_name[facts(execution).plan[held.idx].block_id] = held
    finish(execution, by_name["fast"], output=1)
    drain(execution)
    assert statuses(execution) == {
        "fast": "completed",
        "slow": "running",
        "join": "completed",
        "side": "blocked",
    }
    finish(execution, by_name["slow"], output=1)
    drain(execution)
    assert execution.status == "completed"
    restore(execution, author, point(execution))
    assert worked_again(execution) == {"slow", "side"}
    assert execution.status == "completed"


@pytest.mark.parametrize("asked", [{"from_block": "a"}, {"reset_state": True}])
def test_a_point_says_already_what_runs_again(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        RestartRequest(point_id=1, **asked)


def test_what_stands_against_going_back(start: Start, run: Start, author: User) -> None:
    running = start(template(block("a"), block("b", "a")))
    made = marking.mark(execution_id=running.pk, by=author)
    with pytest.raises(NotTerminal):
        restore(running, author, made.pk)
    control.cancel(execution_id=running.pk, by=author)
    ended = run(template(block("a", checkpoint=True)))
    with pytest.raises(NothingToRestart):
        restore(ended, author, point(ended))
    with pytest.raises(NotFound):
        restore(ended, author, made.pk)
    assert restore(running, author, made.pk) == 2
    assert running.status == "completed"
