"""What the rig runs is compared with what the engine knows; part of the suite, no fault here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from agentflow.agents.journal import StepStatus
from agentflow.workflow.definition import Block, ToolType
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check
from approvals.models import ApprovalKind
from executions import dispatch
from executions.lanes import LANES
from executions.recovery.decision import Strategy
from executions.states import BLOCK, BlockStatus, ExecutionStatus
from tests.waiting import PATIENCE_S

from .assisted import BOOKS, registered
from .blocks import Case
from .corpus import Corpus
from .coverage import EXERCISED, LEFT_OUT
from .faults import KINDS, schedule
from .proxy import CONTROL, NOWHERE, Hints, Wire, packed, parsed

KNOWN = {
    "tool kinds": set(get_args(ToolType)),
    "approval kinds": set(ApprovalKind.values),
    "recovery strategies": set(Strategy),
    "steps of models": set(StepStatus),
    "execution statuses": set(ExecutionStatus.values),
    "block statuses": set(BlockStatus.values),
    "block changes": {f"{a} -> {b}" for a, nexts in BLOCK.table.items() for b in nexts},
    "block fields": set(Block.model_fields),
}
CORPUS = Corpus(lambda path: f"http://127.0.0.1:1{path}", "http://127.0.0.1:1/mcp")
CASES = [CORPUS.child(), *CORPUS.cases("00000000-0000-0000-0000-000000000000")]


@pytest.mark.parametrize("subject", KNOWN)
def test_the_corpus_names_all_that_the_engine_has(subject: str) -> None:
    """Something new is exercised, or its absence has a reason."""
    assert EXERCISED[subject] | set(LEFT_OUT[subject]) == KNOWN[subject]
    assert not EXERCISED[subject] & set(LEFT_OUT[subject])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_a_valid_template(case: Case) -> None:
    assert [issue for issue in check(parse(case.definition)) if issue.severity == "error"] == []


def test_the_corpus_uses_the_fields_and_tools_that_it_names() -> None:
    blocks = [block for case in CASES for block in parse(case.definition).blocks]
    assert {name for block in blocks for name in block.model_fields_set} == EXERCISED["block fields"]
    assert {block.tool_type for block in blocks if block.tool_type} == EXERCISED["tool kinds"]
    given = [block.recovery.model_dump(exclude_none=True) for block in blocks if block.recovery]
    rungs = {
        rung for each in given for ladder in each.values() if isinstance(ladder, tuple) for rung in ladder
    }
    assert rungs - {BOOKS} == EXERCISED["recovery strategies"] - {"fail"}  # which `onExhausted` says
    agents = {agent["agentId"] for agent in registered(CORPUS, "")}
    assert {block.agent_id for block in blocks if block.agent_id} <= agents | {"builtin.echo"}


def test_a_schedule_has_every_kind_equally_often() -> None:
    kinds = list(KINDS)
    found = list(schedule(kinds, first_s=10, last_s=3500, count=12 * len(kinds), chance=random.Random(1)))
    assert all(sum(kind == each for _, kind in found) == 12 for each in kinds)
    assert [at for at, _ in found] == sorted(at for at, _ in found)


class Dice(random.Random):
    def __init__(self, rolls: list[float]) -> None:
        super().__init__()
        self._rolls = iter(rolls)

    def random(self) -> float:
        return next(self._rolls)


def test_hints_are_doubled_and_dropped_within_their_commands() -> None:
    lane = LANES[3].encode()
    sent = [[b"LPUSH", b"blocks", b"one"], [b"LPUSH", lane, b"two"], [b"LPUSH", CONTROL.encode(), b"three"]]
    other = [[b"LPUSH", b"canary.1", b"x"], [b"PING"], [b"SET", b"blocks", b"\r\n*1\r\n"]]
    stream = b"".join(map(packed, sent + other))
    wire = Wire(Dice([0.01, 0.1, 0.9]), doubled=0.1, dropped=0.05)
    passed = b"".join(map(Hints(wire), _pieces(stream)))
    assert list(_commands(passed)) == [
        [b"LPUSH", NOWHERE, b"one"],
        [b"LPUSH", lane, b"two", b"two"],
        sent[2],
        *other,
    ]
    assert wire.counts == {"hints": 3, "on lanes": 1, "dropped": 1, "doubled": 1}
    assert dispatch.CONTROL == CONTROL


def _pieces(stream: bytes) -> Iterator[bytes]:
    for at in range(0, len(stream), 7):
        yield stream[at : at + 7]


def _commands(stream: bytes) -> Iterator[list[bytes]]:
    while (found := parsed(stream)) is not None:
        yield found[0]
        stream = stream[found[1] :]
    assert stream == b""


async def test_delayed_bytes_keep_their_order() -> None:
    from .proxy import Half

    written: list[Any] = []

    class Transport:
        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            written.append(data)
            if len(written) == 20:
                done.set()

    done = asyncio.Event()
    wire = Wire(random.Random(1), doubled=0, dropped=0, delay=(0.0, 0.02))
    near, far = Half(wire), Half(wire)
    far.transport = Transport()  # type: ignore[assignment]
    near.pair(far)
    for number in range(20):
        near.data_received(b"%d" % number)
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    assert written == [b"%d" % number for number in range(20)]
