"""Which queue a hint takes, so that a workspace with thousands of executions holds nobody else's up.

A workspace that sends few hints uses the common queue, which is therefore short.  One that sends many
within a moment, in the eyes of the process that sends them, is put on a lane of its own, or nearly:
lanes are few, and who shares one changes every minute.  Workers take from the common queue, the lanes
together and the other queues in turn (docs/decisions/0008).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

QUEUE = "blocks"
LANES = tuple(f"{QUEUE}.{number}" for number in range(1, 9))

MANY = 10  # hints of one workspace ...
MOMENT_S = 10.0  # ... within this time
CALM_S = 120.0  # so long after that it stays on lanes: the clock repeats a crowd's hints every minute
SHUFFLE_S = 60
_KNOWN_MAX = 10_000


@dataclass(slots=True)
class _Sender:
    """What one workspace has sent lately, in the eyes of this process."""

    sent: deque[float] = field(default_factory=lambda: deque(maxlen=MANY))
    crowded_until: float = 0.0


class Lanes:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[UUID, _Sender] = OrderedDict()

    def queue(self, workspace_id: UUID | None, hints: int = 1) -> str:
        """Where the next hints of a workspace go; None: nobody knows whose they are."""
        if workspace_id is None:
            return QUEUE
        now = self._clock()
        with self._lock:
            known = self._known.setdefault(workspace_id, _Sender())
            self._known.move_to_end(workspace_id)
            if len(known.sent) == MANY and now - known.sent[0] < MOMENT_S:
                known.crowded_until = now + CALM_S
            known.sent.extend([now] * min(hints, MANY))
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
            crowded = now < known.crowded_until
        return self.lane(workspace_id) if crowded else QUEUE

    def lane(self, workspace_id: UUID) -> str:
        # No CRC, which is linear: two that met once would meet for ever.
        said = workspace_id.bytes + b"%d" % (self._clock() // SHUFFLE_S)
        return LANES[hashlib.blake2b(said, digest_size=1).digest()[0] % len(LANES)]


class Turns:
    """In which order a worker looks at its queues, as Kombu's `queue_order_strategy`.

    The common queue has as many turns as all lanes together: however many lanes a crowd fills in its
    minutes, every other message of `blocks` and its lanes is one of the common queue, if there is one.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._turn = 0

    def update(self, queues: Iterable[str]) -> None:
        self._last = {queue: self._last.get(queue, 0) for queue in queues}

    def consume(self, count: int) -> list[str]:
        lanes = max((turn for queue, turn in self._last.items() if queue in LANES), default=0)
        order = {queue: (lanes if queue in LANES else turn, turn) for queue, turn in self._last.items()}
        return sorted(order, key=order.__getitem__)[:count]

    def rotate(self, last_used: str) -> None:
        if last_used in self._last:
            self._turn += 1
            self._last[last_used] = self._turn
