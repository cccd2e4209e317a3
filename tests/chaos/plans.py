"""How long, how much and how many faults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    executions: int
    load_s: float  # over which they are started
    faults: int  # 0: none at all, and no hint doubled or lost
    wide: int = 1  # of the executions, those of a thousand blocks

    def shortened(self, share: float) -> Plan:
        wide = max(1, round(self.wide * share))
        return Plan(round(self.executions * share), self.load_s * share, round(self.faults * share), wide)


RECOVERY_S = 60.0  # from the last fault or start to the end of everything
PLANS = {
    "c0": Plan(200, 215, 15),
    "c1": Plan(5000, 3500, 240, 10),
    "cc": Plan(2000, 1140, 0, 4),
}
