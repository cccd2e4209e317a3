"""The workflow control-flow patterns of docs/patterns.md that run, each by its number and name.

Numbers and names: Russell, ter Hofstede, van der Aalst, Mulyar, "Workflow Control-Flow Patterns: A
Revised View", 2006.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.conf import settings

from agentflow.governance.models import User
from agentflow.types import JSONObject
from approvals.models import Approval
from approvals.services import responding
from executions.models import BlockExecution, Execution
from executions.services import control, reconcile, repairing, signals
from tests import builtins
from tests.factories.executions import statuses

from .conftest import Start, answer, block, claim, drain, finish, make_due, row, template

DONE, SKIPPED, CANCELLED = "completed", "skipped", "cancelled"
PAGE = settings.BASE_DIR / "docs" / "patterns.md"


def asking(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    return block(block_id, *dependencies, humanInLoop={"type": "approval"}, **fields)


def items(execution: Execution, block_id: str) -> list[str]:
    """The statuses of a `forEach`'s items."""
    found = execution.blocks.filter(block_id=block_id, iteration__gt=0).order_by("iteration")
    return list(found.values_list("status", flat=True))


def timer(block_id: str, *dependencies: str) -> JSONObject:
    return {"blockId": block_id, "dependencies": list(dependencies), "wait": {"seconds": 3600}}


def choosing(kind: str, *branches: tuple[str, str]) -> JSONObject:
    found: JSONObject = {
        "type": kind,
        "branches": [{"condition": condition, "nextBlocks": [target]} for condition, target in branches],
    }
    return {**found, "expression": "input.x"} if kind == "switch" else found


XOR = choosing("switch", ("1", "b"), ("default", "c"))
OR = choosing("inclusive", ("input.x >= 1", "b"), ("input.x >= 2", "c"), ("default", "d"))

# number: (definition, input, statuses when nothing moves any more)
PLAIN: dict[int, tuple[JSONObject, JSONObject, dict[str, str]]] = {
    1: (template(block("a"), block("b", "a")), {}, {"a": DONE, "b": DONE}),
    2: (template(block("a"), block("b", "a"), block("c", "a")), {}, {"a": DONE, "b": DONE, "c": DONE}),
    3: (
        template(block("a"), block("b"), block("c", "a", "b", join="all")),
        {},
        {"a": DONE, "b": DONE, "c": DONE},
    ),
    4: (
        template(block("a", conditions=XOR), block("b"), block("c")),
        {"x": 1},
        {"a": DONE, "b": DONE, "c": SKIPPED},
    ),
    5: (
        template(block("a", conditions=XOR), block("b"), block("c"), block("d", "b", "c")),
        {"x": 2},
        {"a": DONE, "b": SKIPPED, "c": DONE, "d": DONE},
    ),
    6: (
        template(block("a", conditions=OR), block("b"), block("c"), block("d")),
        {"x": 2},
        {"a": DONE, "b": DONE, "c": DONE, "d": SKIPPED},
    ),
    7: (
        template(block("a", conditions=OR), block("b"), block("c"), block("d"), block("m", "b", "c", "d")),
        {"x": 1},
        {"a": DONE, "b": DONE, "c": SKIPPED, "d": SKIPPED, "m": DONE},
    ),
    11: (template(block("a"), block("b", "a"), block("c")), {}, {"a": DONE, "b": DONE, "c": DONE}),
    37: (
        template(
            block("a", conditions=OR),
            block("b"),
            block("c"),
            block("d"),
            block("e", "b"),
            block("m", "e", "c", "d"),
        ),
        {"x": 2},
        {"a": DONE, "b": DONE, "c": DONE, "d": SKIPPED, "e": DONE, "m": DONE},
    ),
    43: (
        template(asking("a"), block("b", end="completed"), block("c", "a")),
        {},
        {"a": CANCELLED, "b": DONE, "c": CANCELLED},
    ),
}


@pytest.mark.parametrize("number", PLAIN)
def test_plain_pattern(run: Start, number: int) -> None:
    definition, given, expected = PLAIN[number]
    execution = run(definition, input=given)
    assert statuses(execution) == expected
    assert execution.status == "completed"


@pytest.mark.parametrize(
    ("number", "items"),
    [(12, "[1, 2, 3]"), (13, "[1, 2, 3]"), (14, "input.items"), (41, "input.items"), (42, "input.items")],
)
def test_multiple_instances(run: Start, number: int, items: str) -> None:
    """12-14: several instances; 42 splits into threads, and 41 merges them: the next block runs once."""
    execution = run(
        template(block("a", forEach={"items": items}), block("b", "a")), input={"items": [1, 2, 3]}
    )
    assert BlockExecution.objects.filter(execution=execution, iteration__gt=0, status=DONE).count() == 3
    assert row(execution, "b").attempt == 1


def test_16_deferred_choice(run: Start, author: User) -> None:
    """Whichever comes first, the answer or the time, decides; the other is withdrawn."""
    decided = block("decided", "answer", "late", join="any")
    execution = run(template(asking("answer"), timer("late"), decided))
    make_due(execution)
    reconcile.look(execution.pk)
    drain(execution)
    assert statuses(execution) == {"answer": CANCELLED, "late": DONE, "decided": DONE}
    assert not Approval.objects.filter(execution=execution, status="pending").exists()


@pytest.mark.parametrize("number", [17, 40])
def test_interleaved_routing(run: Start, number: int) -> None:
    """One at a time, each once, in an order that the run decides; 17 with some of the order given."""
    blocks = [block(name, agentId="test.record", configuration={"name": name}) for name in ("a", "b", "c")]
    if number == 17:
        blocks[2]["dependencies"] = ["a"]
    run(template(*blocks, maxParallelBlocks=1))
    assert sorted(builtins.calls) == ["a", "b", "c"]
    assert number == 40 or builtins.calls.index("a") < builtins.calls.index("c")


def test_19_cancel_task(run: Start, author: User) -> None:
    execution = run(template(asking("a"), block("quick"), block("j", "a", "quick", join="any")))
    assert statuses(execution) == {"a": CANCELLED, "quick": DONE, "j": DONE}


def test_20_cancel_case(run: Start, author: User) -> None:
    execution = run(template(asking("a"), block("b", "a")))
    control.cancel(execution_id=execution.pk, by=author)
    assert statuses(execution) == {"a": CANCELLED, "b": CANCELLED}


def test_21_structured_loop(run: Start) -> None:
    repeat = {"until": "index == 2", "maxIterations": 9}
    execution = run(template(block("a", repeat=repeat), block("b", "a")))
    assert row(execution, "a").attempt == 3
    assert statuses(execution) == {"a": DONE, "b": DONE}


def test_24_persistent_trigger(run: Start, author: User) -> None:
    """An event that comes before its block waits is kept for it."""
    waiting = {"blockId": "b", "dependencies": ["a"], "wait": {"event": "paid", "correlation": "input.order"}}
    execution = run(template(asking("a"), waiting), input={"order": "A-1"})
    signals.receive(workspace_id=execution.workspace_id, type="paid", correlation="A-1", payload={"sum": 5})
    answer(execution, "a", author)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "b").output == {"sum": 5}


def test_25_cancel_region(run: Start) -> None:
    """All that works only for the join goes with it, however long the way."""
    execution = run(
        template(
            asking("a"),
            block("b", "a"),
            block("c", "b"),
            block("quick"),
            block("j", "c", "quick", join="any"),
        )
    )
    assert statuses(execution) == {"a": CANCELLED, "b": CANCELLED, "c": CANCELLED, "quick": DONE, "j": DONE}


def test_26_cancel_multiple_instances(run: Start) -> None:
    many = asking("many", forEach={"items": "[1, 2]"})
    execution = run(template(many, timer("late"), block("j", "many", "late", join="any")))
    make_due(execution)
    reconcile.look(execution.pk)
    drain(execution)
    assert set(execution.blocks.filter(block_id="many").values_list("status", flat=True)) == {CANCELLED}
    assert execution.status == "completed"


def test_27_complete_multiple_instances(run: Start, author: User) -> None:
    """By hand: what is open of the instances is cancelled, and the next block begins."""
    execution = run(template(asking("many", forEach={"items": "[1, 2, 3]"}), block("next", "many")))
    repairing.complete(
        execution_id=execution.pk, block_pk=row(execution, "many").pk, output=["two"], by=author, reason="due"
    )
    drain(execution)
    assert items(execution, "many") == [CANCELLED] * 3
    assert not Approval.objects.filter(execution=execution, status="pending").exists()
    assert row(execution, "next").output == {"many": ["two"]}
    assert execution.status == "completed"


def test_35_cancelling_partial_join_for_multiple_instances(run: Start, author: User) -> None:
    """Two of three instances are enough: the third is withdrawn, and the output keeps the order."""
    many = asking("many", forEach={"items": "[1, 2, 3]", "atLeast": 2}, input={"n": "${item}"})
    execution = run(template(many, block("next", "many")))
    for number in (3, 1):
        asked = Approval.objects.get(execution=execution, block_execution__iteration=number)
        responding.respond(approval_id=asked.pk, by=author, approved=True)
        drain(execution)
    assert items(execution, "many") == [DONE, CANCELLED, DONE]
    assert row(execution, "many").output == [{"n": 1}, None, {"n": 3}]
    assert not Approval.objects.filter(execution=execution, status="pending").exists()
    assert row(execution, "next").attempt == 1
    assert execution.status == "completed"


@pytest.mark.parametrize("number", [9, 29])
def test_discriminator(run: Start, author: User, number: int) -> None:
    """The first of several opens the next block, once; what nobody else needs is cancelled (29)."""
    blocks = [asking("a"), asking("b"), block("j", "a", "b", join="any")]
    if number == 9:  # the others go on, because something else needs them
        blocks.append(block("more", "a", "b"))
    execution = run(template(*blocks))
    answer(execution, "a", author)
    assert row(execution, "j").status == DONE
    if number == 9:
        answer(execution, "b", author)
        assert row(execution, "j").attempt == 1
    assert execution.status == "completed"
    assert row(execution, "b").status == (DONE if number == 9 else CANCELLED)


@pytest.mark.parametrize("number", [30, 32])
def test_partial_join(run: Start, author: User, number: int) -> None:
    """Two of three are enough; the third is cancelled (32), or goes on because it is needed (30)."""
    blocks = [asking("a"), asking("b"), asking("c"), block("j", "a", "b", "c", join={"atLeast": 2})]
    if number == 30:
        blocks.append(block("more", "a", "b", "c"))
    execution = run(template(*blocks))
    for name in ("a", "b"):
        answer(execution, name, author)
    assert row(execution, "j").status == DONE
    if number == 30:
        answer(execution, "c", author)
    assert row(execution, "c").status == (DONE if number == 30 else CANCELLED)
    assert execution.status == "completed"


def test_39_critical_section(start: Start) -> None:
    """Two blocks of different executions, and two of the same one, are never at work at once."""
    alone = {"key": "ledger", "limit": 1}
    definition = template(block("a", concurrency=alone), block("b", concurrency=alone))
    first, second = start(definition), start(definition)
    held = claim(first)
    drain(second)
    assert statuses(first) == {"a": "running", "b": "waiting_external"}
    assert statuses(second) == {"a": "waiting_external", "b": "waiting_external"}
    finish(first, held, output={})
    for execution in (first, second):
        reconcile.look(execution.pk)
        drain(execution)
    assert first.status == second.status == "completed"


def test_the_page_names_just_the_patterns_that_have_a_test() -> None:
    claimed = {int(n) for n in re.findall(r"^\| (\d+) \|[^|]*\| runs \|", PAGE.read_text(), re.MULTILINE)}
    source = (settings.BASE_DIR / "tests" / "executions" / "test_patterns.py").read_text()
    by_name = {int(n) for n in re.findall(r"def test_(\d+)_", source)}
    parametrized = {12, 13, 14, 41, 42, 17, 40, 9, 29, 30, 32}
    assert claimed == set(PLAIN) | by_name | parametrized
