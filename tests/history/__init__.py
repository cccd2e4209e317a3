"""The history checker: whether what is recorded of executions could have come of a correct engine.

    for violation in check():            # or check([execution_id, ...], ledger=..., at_rest=True)
        print(violation)

It reads rows only, so it can be asked about executions that other processes ran, at any moment: all
of an execution's rows change together.  The invariants I1 to I12 are listed in docs/developing.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from . import effects, folding, order, people, records, reference, steps, wakeup
from .reading import Story, stories
from .violations import Ledger, Violation

__all__ = ["Ledger", "Violation", "check", "check_story"]

_RULES = (
    folding.check,
    effects.check_attempts,
    effects.check_keys,
    steps.check,
    order.check,
    reference.check,
    wakeup.check,
    people.check,
    records.check,
)


def check(
    execution_ids: Iterable[UUID] | None = None, *, ledger: Ledger | None = None, at_rest: bool = False
) -> list[Violation]:
    """All violations; none for correct histories.

    `execution_ids` are those that clients were promised, None: every execution there is.  `ledger` is
    what the agents wrote down.  `at_rest`: everything had time to end, so nothing may still be at work.
    """
    found: list[Violation] = []
    wanted = None if execution_ids is None else list(execution_ids)
    seen: set[UUID] = set()
    for story in stories(wanted):
        seen.add(story.execution.pk)
        found += check_story(story)
        if ledger is not None:
            found += effects.check_ledger(story, ledger)
        if at_rest:
            found += wakeup.check_rest(story)
    missing = [pk for pk in wanted or () if pk not in seen]
    found += [Violation("I1", pk, "it was accepted and is not there") for pk in missing]
    return found


def check_story(story: Story) -> list[Violation]:
    """The same for one execution whose rows have been read."""
    return [violation for rule in _RULES for violation in rule(story)]
