"""The circuit once more, as plainly as Python can say it: what the script in Valkey must do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from agentflow.agents.profile import CircuitRules


@dataclass
class CircuitModel:
    """Times in ms."""

    rules: CircuitRules
    open: bool = False
    changed: int = 0
    till: int = 0
    opens: int = 0
    probe: int | None = None
    held: int = 0
    gone: int = 0
    seen: list[tuple[int, bool, bool]] = field(default_factory=list)  # slot, failed, slow

    def state(self, now: int) -> str:
        return "closed" if not self.open else "half_open" if now >= self.till else "open"

    def allow(self, now: int) -> bool:
        if self.state(now) != "half_open" or now < self.held:
            return not self.open
        self.probe, self.held = now, now + int(self.rules.probe_seconds * 1000)
        return True

    def record(self, now: int, verdict: str, ms: int, age: int) -> None:
        began = now - age
        if began < self.changed:
            return
        limit = self.rules.slow_ms
        slow = limit is not None and ms >= limit and verdict != "gone"
        state = self.state(now)
        if state == "half_open" and self.probe is not None and began >= self.probe:
            if verdict == "none":
                self.probe, self.held = None, 0
            elif verdict == "ok" and not slow:
                self._change(now, open=False)
            else:
                self._trip(now)
        elif state == "closed" and verdict != "none":
            slot = self._slot(now)
            self.seen = [each for each in self.seen if each[0] > slot - 10] + [(slot, verdict != "ok", slow)]
            self.gone = self.gone + 1 if verdict == "gone" else 0
            calls = len(self.seen)
            failures, slows = sum(each[1] for each in self.seen), sum(each[2] for each in self.seen)
            many = calls >= self.rules.minimum_calls
            if (
                self.gone >= self.rules.unreachable_calls
                or (many and failures >= self.rules.failure_rate * calls)
                or (many and slows >= self.rules.slow_rate * calls)
            ):
                self._trip(now)

    def reset(self, now: int) -> None:
        self._change(now, open=False)
        self.opens = 0

    def _slot(self, now: int) -> int:
        return math.floor(now * 10 / (self.rules.window_seconds * 1000))

    def _trip(self, now: int) -> None:
        soon = self.open or (self.opens > 0 and now - self.changed < self.rules.window_seconds * 1000)
        self.opens = self.opens + 1 if soon else 1
        self._change(now, open=True)
        longest = self.rules.cooldown_max_seconds * 1000
        grown = self.rules.cooldown_seconds * 1000 * self.rules.cooldown_growth ** min(self.opens - 1, 60)
        self.till = now + math.floor(min(grown, longest))

    def _change(self, now: int, *, open: bool) -> None:
        self.open, self.changed, self.seen, self.gone = open, now, [], 0
        self.probe, self.held = None, 0
