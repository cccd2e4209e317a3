"""From where a walker looks for ready blocks: a run's width must not make a block dearer.

The run's row says from which position of the plan on blocks were left ready, and is read with the gate.
Whoever opens a block and does not take it moves it back, whoever looks moves it on.  It is a hint: a walker
looks at the whole run when it comes, for a backoff may have ended meanwhile, and before it leaves.
"""

from __future__ import annotations

Position = tuple[int, int]  # idx, iteration

BEGINNING: Position = (0, 0)
WINDOW = (
    128  # so many rows are looked at from there on, and of so many blocks it is told whether they are fast
)


def first(*positions: Position | None) -> Position | None:
    """The first of them in the plan's order; None: there is none."""
    return min((position for position in positions if position is not None), default=None)
