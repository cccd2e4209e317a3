"""How fast blocks have been in this process, to decide how many to take at once and when to fork.

Kept by likeness (same agent, same configuration), in memory only: a restarted worker learns again.
"""

from __future__ import annotations

from collections.abc import Iterable

FAST_MS = 5.0  # at most this long: several may share a transaction
SLOW_MS = 5.0  # longer: others are called to help before the call starts
BATCH_MS = 50.0
BATCH_BLOCKS = 128
_WEIGHT = 0.3
_KEPT = 20_000


class SpeedHistory:
    """Milliseconds by likeness: a moving average that a slow call raises at once."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}
        self._waits_ms: dict[str, float] = {}  # of it, how long for somebody outside

    def note(self, likeness: str, ms: float) -> None:
        before = self._ms.get(likeness)
        if before is None:
            if len(self._ms) >= _KEPT:
                self.forget()
            self._ms[likeness] = ms
        else:
            self._ms[likeness] = max(ms, before) if ms > FAST_MS else before + _WEIGHT * (ms - before)

    def note_wait(self, likeness: str, ms: float, *, answered: bool) -> None:
        """A call waited so long for somebody outside.  Only answers shorten it: many failures are quick."""
        before = self._waits_ms.get(likeness, 0.0)
        if len(self._waits_ms) >= _KEPT:
            self.forget()
        if ms >= before:
            self._waits_ms[likeness] = ms
        elif answered:
            self._waits_ms[likeness] = before + _WEIGHT * (ms - before)

    def forget(self) -> None:
        self._ms.clear()
        self._waits_ms.clear()

    def expect(self, likeness: str) -> float | None:
        """None: nothing is known."""
        return self._ms.get(likeness)

    def waits(self, likeness: str) -> float | None:
        """None: it has never waited for anybody."""
        return self._waits_ms.get(likeness)


def first_batch(known_ms: Iterable[float]) -> int:
    """How many blocks to take first, if blocks are known to take so long: one where none is fast."""
    slowest = max((ms for ms in known_ms if ms <= FAST_MS), default=None)
    return 1 if slowest is None else next_batch(BATCH_BLOCKS, worked_ms=slowest, blocks=1)


def next_batch(batch: int, *, worked_ms: float, blocks: int) -> int:
    """How many fast blocks to take next: four times as many each turn, up to 128 and about 50 ms."""
    per_block = worked_ms / max(blocks, 1)
    fits = int(BATCH_MS / per_block) if per_block > 0 else BATCH_BLOCKS
    return max(1, min(batch * 4, fits, BATCH_BLOCKS))


history = SpeedHistory()
