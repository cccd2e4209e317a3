"""What a clock does for notifications: reads events, and sends what is due in threads of its own."""

from __future__ import annotations

import logging
import threading

from django.db import InterfaceError, OperationalError, connection

from agentflow.api.context import origin

from . import following, outbox

log = logging.getLogger(__name__)

AT_ONCE = 4  # lanes; each may hold a connection to the database
PAGES = 10  # of events in one go


class Notifying:
    """Of one clock process.  Binds `executions.ports.notifications`."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def start_due(self) -> None:
        """Plan what happened, and begin a thread for each lane in which something is due."""
        for _ in range(PAGES):
            if not following.follow():
                break
        with self._lock:
            busy = set(self._busy)
        room = self._at_once - len(busy)
        if room <= 0:
            return
        for lane in outbox.lanes_due(without=busy)[:room]:
            with self._lock:
                self._busy.add(lane)
            # A daemon: a clock that is to stop does not wait for a server far away.
            threading.Thread(target=self._drain, args=(lane,), name="notify", daemon=True).start()

    def tidy(self) -> None:
        outbox.purge()

    @property
    def idle(self) -> bool:
        with self._lock:
            return not self._busy

    def _drain(self, lane: str) -> None:
        try:
            with origin(channel="clock"):
                outbox.drain(lane)
        except (OperationalError, InterfaceError) as error:  # due again after its lease
            log.warning("notifications wait for the database: %s", error)
        except Exception:
            log.exception("lane failed: %s", lane)
        finally:
            connection.close()
            with self._lock:
                self._busy.discard(lane)
