"""The transition tables, and the documents generated from them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from django.core.management import call_command

from agentflow.lifecycle import IllegalTransition, Lifecycle
from executions.states import (
    BLOCK,
    EXECUTION,
    REPAIR,
    RESTART,
    SETTLED,
    TERMINAL,
    BlockStatus,
    ExecutionStatus,
)


@pytest.mark.parametrize(("table", "states"), [(BLOCK, BlockStatus), (EXECUTION, ExecutionStatus)])
def test_every_pair_of_states_is_allowed_or_refused_as_the_table_says(
    table: Lifecycle[str], states: type[BlockStatus | ExecutionStatus]
) -> None:
    assert set(table.table) == set(states)
    for before, after in itertools.product(states, repeat=2):
        if after in table.table[before]:
            table.check(before, after)
        else:
            with pytest.raises(IllegalTransition):
                table.check(before, after)


def test_nothing_leaves_a_final_state() -> None:
    assert set(SETTLED) == {"completed", "failed", "skipped", "cancelled"}
    assert set(TERMINAL) == {"completed", "failed", "cancelled"}


def test_the_diagrams_are_fresh() -> None:
    call_command("state_diagrams", check=True)


@pytest.mark.parametrize(
    ("name", "table"), [("execution", EXECUTION), ("restart", RESTART), ("block", BLOCK), ("repair", REPAIR)]
)
def test_every_arrow_is_explained(name: str, table: Lifecycle[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "engine.md").read_text()
    shown = page.partition(f"<!-- {name} arrows -->")[2].partition("<!-- end -->")[0]
    found = re.findall(r"^\| `(\w+)` → `(\w+)` \| \S.* \|$", shown, re.MULTILINE)
    assert sorted(found) == sorted((str(a), str(b)) for a, nexts in table.table.items() for b in nexts)
