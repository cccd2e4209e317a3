"""Three couriers that quote the same parcel: one is quick, one is slow, one often fails.

Each can be closed and opened again, to see work go on by the others.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Courier:
    """`fails_every` third, tenth ... call is answered with an error; 0: none."""

    base: float
    per_kg: float
    seconds: float
    fails_every: int = 0
    open: bool = True
    calls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def quote(self, name: str, weight: float) -> dict[str, Any] | None:
        """None: it has no answer just now."""
        with self.lock:
            self.calls += 1
            down = not self.open or (self.fails_every and self.calls % self.fails_every == 0)
        if down:
            return None
        time.sleep(self.seconds)
        price = round(self.base + self.per_kg * weight, 2)
        return {"courier": name, "weight": weight, "price": price, "currency": "EUR"}


def couriers() -> dict[str, Courier]:
    return {
        "swift": Courier(base=4.9, per_kg=0.8, seconds=0.08),
        "steady": Courier(base=3.9, per_kg=0.6, seconds=0.4),
        "shaky": Courier(base=2.9, per_kg=0.7, seconds=0.05, fails_every=3),
    }
