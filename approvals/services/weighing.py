"""What it costs to leave a question unanswered, as seconds by which it stands before its deadline.

The order of the inbox follows from it: the time left, then what is held.  It is weighed once, when
the question is asked, so that a list of any length is read from an index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from executions import facts, spending
from executions.facts import BlockFacts
from executions.models import Execution

STEP_S = 60  # each step that waits for the answer
RUN_S = 15 * 60  # each execution above, which waits for this one to end
MONEY_S = 10 * 60  # each unit of money that the execution has used, whatever the currency
PULL_MAX_S = 4 * 3600  # a deadline that is nearer than this by so much always comes first


@dataclass(frozen=True, slots=True)
class Weight:
    """`holds` counts the step itself and all that follows it."""

    holds: int
    runs_above: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def pulled_s(self) -> int:
        money_s = sum(self.spent.values()) * MONEY_S
        return int(min((self.holds - 1) * STEP_S + self.runs_above * RUN_S + money_s, PULL_MAX_S))


ALONE = Weight(holds=1)


def weigh(blocks: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], Weight]:
    """The weight of questions, by execution and blockId; two queries for one execution."""
    rows = Execution.objects.filter(pk__in={execution_id for execution_id, _ in blocks})
    known = {
        pk: (version, depth) for pk, version, depth in rows.values_list("pk", "template_version", "depth")
    }
    spent = {pk: spending.of_run(pk)["cost"] for pk in known}
    return {
        (execution_id, block_id): Weight(
            holds=1 + len(behind(facts.of_version(known[execution_id][0]), block_id)),
            runs_above=known[execution_id][1],
            spent=spent[execution_id],
        )
        for execution_id, block_id in set(blocks)
    }


def behind(blocks: Mapping[str, BlockFacts], block_id: str) -> set[str]:
    """All blocks that come after one, however far; what undoes it is not among them."""
    after: dict[str, list[str]] = {}
    for name, block in blocks.items():
        for before in block.dependencies if not block.compensates else ():
            after.setdefault(before, []).append(name)
    found: set[str] = set()
    waiting = [block_id]
    while waiting:
        for name in after.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found - {block_id}
