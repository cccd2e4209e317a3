"""From where a walker looks for ready blocks: a run's width must not make a block dearer.

A hint in the memory of one walker, for as long as its slice lasts: it believes that before this position,
in the plan's order, nothing is ready.  What others have opened there meanwhile they claim, or send a hint
for; and a walker that finds nothing from here on looks from the beginning before it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable

Position = tuple[int, int]  # idx, iteration

BEGINNING: Position = (0, 0)
WINDOW = 128  # of so many blocks from here it is told whether they are fast


class Frontier:
    def __init__(self) -> None:
        self.start = BEGINNING

    def forget(self) -> None:
        self.start = BEGINNING

    def opened(self, positions: Iterable[Position]) -> None:
        """These may have become ready."""
        self.start = min(self.start, *positions, self.start)

    def looked(self, *, first_left: Position | None, claimed: Iterable[Position]) -> None:
        """From `start` on these were claimed, and this was the first that stayed ready."""
        if first_left is not None:
            self.start = first_left
        else:
            self.start = max(((idx, iteration + 1) for idx, iteration in claimed), default=self.start)
