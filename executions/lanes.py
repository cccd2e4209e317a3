"""Which queue a hint takes, so that a workspace with thousands of executions holds nobody else's up.

A workspace that sends few hints uses the common queue, which is therefore short.  One that sends many
within a moment, in the eyes of the process that sends them, is put on a lane of its own, or nearly:
lanes are few, and who shares one changes every minute.  Workers take from all of these queues in turn
(docs/decisions/0008).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from uuid import UUID

QUEUE = "blocks"
LANES = tuple(f"{QUEUE}.{number}" for number in range(1, 9))

MANY = 20  # hints of one workspace ...
MOMENT_S = 10.0  # ... within this time
SHUFFLE_S = 60
_KNOWN_MAX = 10_000


class Lanes:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: OrderedDict[UUID, deque[float]] = OrderedDict()

    def queue(self, workspace_id: UUID | None) -> str:
        """Where the next hint of a workspace goes; None: nobody knows whose it is."""
        if workspace_id is None:
            return QUEUE
        now = self._clock()
        with self._lock:
            sent = self._sent.setdefault(workspace_id, deque(maxlen=MANY))
            self._sent.move_to_end(workspace_id)
            many = len(sent) == MANY and now - sent[0] < MOMENT_S
            sent.append(now)
            if len(self._sent) > _KNOWN_MAX:
                self._sent.popitem(last=False)
        return self.lane(workspace_id) if many else QUEUE

    def lane(self, workspace_id: UUID) -> str:
        # No CRC, which is linear: two that met once would meet for ever.
        said = workspace_id.bytes + b"%d" % (self._clock() // SHUFFLE_S)
        return LANES[hashlib.blake2b(said, digest_size=1).digest()[0] % len(LANES)]
