"""Forks: a new execution that goes on from a moment of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.errors import InvalidInput, Unprocessable
from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from executions import selectors, snapshot
from executions.models import BlockExecution, Execution, RecoveryPoint
from executions.services import forking, marking, restarting
from executions.services.forking import ForkRequest, NothingToRun
from executions.services.restarting import RestartRequest
from executions.services.starting import BusinessKeyTaken
from tests import builtins
from tests.factories.executions import statuses

from .conftest import Start, answer, block, claim, drain, finish, template


def fork(source: Execution, by: User, **asked: Any) -> Execution:
    """Fork, and let the fork go on as far as it goes."""
    made = forking.fork(source=selectors.find(by, source.pk), by=by, request=ForkRequest(**asked))
    found = Execution.objects.get(pk=made.pk)
    drain(found)
    return found


def rows(execution: Execution) -> dict[str, BlockExecution]:
    found = BlockExecution.objects.filter(execution=execution, epoch=execution.epoch, iteration=0)
    return {row.block_id: row for row in found}


def chain(**fields: Any) -> JSONObject:
    return template(
        block("a", input={"n": "${input.n}"}, checkpoint=True),
        block("b", "a", input={"got": "${blocks.a.output}"}),
        block("c", "b", input={"got": "${blocks.b.output}", "n": "${input.n}"}, **fields),
    )


def test_a_fork_carries_what_had_settled_and_runs_the_rest(run: Start, author: User) -> None:
    source = run(chain(), input={"n": 7})
    (point,) = RecoveryPoint.objects.filter(execution=source)
    made = fork(source, author, point_id=point.pk)
    assert made.status == "completed"
    assert rows(made)["a"].carried_from == rows(source)["a"].pk
    assert rows(made)["a"].completed_at == rows(source)["a"].completed_at
    assert {name for name, row in rows(made).items() if row.carried_from is None} == {"b", "c"}
    assert rows(made)["c"].output == rows(source)["c"].output
    assert made.template_version_id == source.template_version_id
    assert snapshot.forked_from(made) == {
        "executionId": source.pk,
        "epoch": 1,
        "recoveryPointId": point.pk,
    }
    shown = snapshot.block_detail(made, rows(made)["a"])
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["ok"]
    source.refresh_from_db()
    assert (source.status, source.epoch) == ("completed", 1)


def test_a_fork_with_other_input_and_outputs_sees_them_and_keeps_the_original(
    run: Start, author: User
) -> None:
    source = run(chain(), input={"n": 7})
    made = fork(
        source,
        author,
        from_block="c",
        input={"n": 8},
        outputs={"b": {"mended": True}},
        reason="It was wrong.",
    )
    assert rows(made)["c"].input == {"got": {"mended": True}, "n": 8}
    edited = rows(made)["b"]
    assert edited.output == rows(source)["b"].output
    assert edited.shown_output == {"mended": True}
    shown = snapshot.block_detail(made, edited)
    assert shown["output"] == {"mended": True}
    assert shown["originalOutput"] == edited.output
    assert (shown["edited"]["by"], shown["edited"]["reason"]) == (author.username, "It was wrong.")
    assert snapshot.detail(made)["globalContext"]["b"] == {"mended": True}
    assert rows(source)["b"].edit is None
    entry = AuditEntry.objects.get(action="execution.fork", target_id=str(made.pk))
    assert entry.detail == {
        "forkedFrom": str(source.pk),
        "epoch": 1,
        "fromBlock": "c",
        "reason": "It was wrong.",
        "editedOutputs": ["b"],
        "editedInput": True,
        "reruns": 1,
    }


def test_a_running_execution_is_forked_and_goes_on_by_itself(start: Start, author: User) -> None:
    source = start(chain(), input={"n": 1})
    finish(source, claim(source), output={"n": 1})
    held = claim(source)
    made = fork(source, author)
    assert made.status == "completed"
    assert rows(made)["b"].carried_from is None
    finish(source, held, output={})
    drain(source)
    assert source.status == "completed"


def test_forks_of_forks_reach_the_attempts_and_decisions_of_the_first(run: Start, author: User) -> None:
    source = run(template(block("a", humanInLoop={"type": "approval"}), block("b", "a"), block("c", "b")))
    answer(source, "a", author)
    first = fork(source, author, from_block="b")
    second = fork(first, author, from_block="c")
    assert second.status == "completed"
    assert rows(second)["a"].carried_from == rows(source)["a"].pk
    assert rows(second)["b"].carried_from == rows(first)["b"].pk
    asked = snapshot.block_detail(second, rows(second)["a"])["humanInteractions"]
    assert [one["status"] for one in asked] == ["approved"]
    assert selectors.attempts(rows(second)["a"]).count() == 1
    restarting.restart(execution_id=second.pk, by=author, request=RestartRequest(from_block="c"))
    drain(second)
    second.refresh_from_db()
    assert (second.status, second.epoch) == ("completed", 2)
    found = restarting.preview(execution_id=second.pk, request=RestartRequest(from_block="c"))
    assert found["approvals"]["survive"] == ["a"]


def test_items_of_a_carried_block_are_shown_by_the_fork(run: Start, author: User) -> None:
    each = block("a", forEach={"items": "input.of"})
    source = run(template(each, block("b", "a")), input={"of": [1, 2, 3]})
    made = fork(source, author, from_block="b")
    assert made.status == "completed"
    assert [row.item for row in selectors.items(rows(made)["a"])] == [1, 2, 3]


def test_effects_of_a_fork_have_keys_of_their_own(run: Start, author: User) -> None:
    source = run(template(block("a"), block("b", "a")))
    made = fork(source, author, from_block="b")
    assert rows(made)["b"].effect_seq == 0


def test_a_fork_of_a_simulated_execution_is_simulated(run: Start, author: User) -> None:
    source = run(template(block("a"), block("b", "a")), simulation={"outputs": {"a": 1, "b": 2}})
    made = fork(source, author, from_block="b")
    assert made.simulation == source.simulation
    assert rows(made)["b"].output == 2


def test_a_simulated_fork_of_a_real_execution_calls_nobody(run: Start, author: User) -> None:
    source = run(template(block("a", effect="once"), block("b", "a", effect="once")))
    calls = len(builtins.calls)
    made = fork(source, author, from_block="b", simulation={"outputs": {"b": 5}})
    assert (rows(made)["a"].effect, rows(made)["b"].effect) == ("once", "pure")
    assert rows(made)["b"].output == 5
    assert len(builtins.calls) == calls


def test_the_business_key_stays_with_the_source(run: Start, start: Start, author: User) -> None:
    source = start(chain(), input={"n": 1}, business_key="order-1")
    made = fork(source, author)
    assert made.business_key is None
    with pytest.raises(BusinessKeyTaken):
        fork(source, author, business_key="order-1")
    assert Execution.objects.filter(forked_from=source).count() == 1


def test_a_child_is_forked_by_itself(
    run: Start, author: User, version_of: Callable[[JSONObject], Any]
) -> None:
    inner = version_of(template(block("x"), block("y", "x")))
    outer = block("sub", toolType="UseCase", configuration={"templateId": str(inner.template_id)})
    del outer["agentId"]
    source = run(template(outer))
    child = Execution.objects.get(parent_block__execution=source)
    made = fork(child, author, from_block="y")
    assert (made.status, made.parent_block_id, made.depth) == ("completed", None, 0)
    again = fork(source, author, from_block="sub")
    assert Execution.objects.filter(parent_block__execution=again).count() == 1


@pytest.mark.parametrize(
    ("asked", "refused", "pointer"),
    [
        ({}, NothingToRun, ""),
        ({"from_block": "x"}, InvalidInput, "/fromBlock"),
        ({"from_block": "c", "outputs": {"x/y": 1}}, Unprocessable, "/outputs/x~1y"),
        ({"from_block": "b", "outputs": {"c": 1}}, Unprocessable, "/outputs/c"),
        ({"from_block": "c", "outputs": {"b": "x" * 300_000}}, Unprocessable, "/outputs/b"),
        ({"from_block": "c", "simulation": {"outputs": {"z": 1}}}, InvalidInput, "/simulation/outputs/z"),
    ],
)
def test_what_stands_against_a_fork(
    run: Start, author: User, asked: dict[str, Any], refused: type[Exception], pointer: str
) -> None:
    source = run(chain(), input={"n": 7})
    with pytest.raises(refused) as caught:
        fork(source, author, **asked)
    if isinstance(caught.value, InvalidInput):
        assert [issue["pointer"] for issue in caught.value.issues] == [pointer]
    assert Execution.objects.count() == 1


def test_a_point_of_another_epoch_is_forked_with_what_was_then(run: Start, author: User) -> None:
    source = run(chain(), input={"n": 7})
    early = marking.mark(execution_id=source.pk, by=author)
    first = rows(source)
    restarting.restart(execution_id=source.pk, by=author, request=RestartRequest(from_block="b"))
    drain(source)
    made = fork(source, author, point_id=early.pk, from_block="c")
    assert rows(made)["b"].carried_from == first["b"].pk
    assert statuses(made) == {"a": "completed", "b": "completed", "c": "completed"}
