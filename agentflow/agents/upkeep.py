"""What the clock does for agents beside its ticks: looks at sources, at agents' health, drift and meaning.

Each of the first two waits for somebody outside, so it has a thread of its own, few at a time.  A clock that
dies leaves rows that are due again after their lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from django.db import connection

from agentflow.api.context import origin
from agentflow.integrations.egress import EgressError

from . import meaning
from .selectors import NoSuchAgent, NoSuchSource
from .services import health, synchronising, warnings
from .services.synchronising import SourceFailed

log = logging.getLogger(__name__)

DRIFT_S = 30.0  # between two looks at how agents drift
MEANING_S = 60.0  # and at what they say of themselves
AT_ONCE = 3  # each may hold a connection to the database


class Upkeep:
    """Of one clock process."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = threading.Semaphore(at_once)
        self._drift_at = 0.0
        self._meaning_at = 0.0
        self._drifted: UUID | None = None  # the agent up to which the last look came

    def start_due(self) -> int:
        """Begin what is due, as far as there are threads free; how much that was."""
        if time.monotonic() >= self._drift_at:
            self._drift_at = time.monotonic() + DRIFT_S
            self._drifted = warnings.look(self._drifted)
        if meaning.on() and time.monotonic() >= self._meaning_at:
            self._meaning_at = time.monotonic() + MEANING_S
            threading.Thread(target=self._keep_meaning, name="meaning", daemon=True).start()
        room = 0
        while self._free.acquire(blocking=False):
            room += 1
        try:
            due = [(_synchronise, pk) for pk in synchronising.take_due(room)]
            due += [(_check, pk) for pk in health.take_due(room - len(due))]
        except BaseException:
            if room:
                self._free.release(room)
            raise
        if room > len(due):
            self._free.release(room - len(due))
        for work, pk in due:
            # A daemon: a clock that is to stop does not wait for a server far away.
            threading.Thread(target=self._do, args=(work, pk), name="upkeep", daemon=True).start()
        return len(due)

    def _keep_meaning(self) -> None:
        try:
            while meaning.keep_up():
                pass
        except EgressError as error:  # words alone decide until it answers
            log.warning("the embedding model does not answer: %s", error)
        except Exception:
            log.exception("upkeep of meanings failed")
        finally:
            connection.close()

    def _do(self, work: Callable[[UUID], None], pk: UUID) -> None:
        try:
            with origin(channel="clock"):
                work(pk)
        except Exception:  # due again after its lease
            log.exception("upkeep failed: %s", pk)
        finally:
            connection.close()
            self._free.release()


def _synchronise(pk: UUID) -> None:
    with suppress(NoSuchSource, SourceFailed):  # a failure is written down with the source
        synchronising.synchronise(source_id=pk, by=None)


def _check(pk: UUID) -> None:
    with suppress(NoSuchAgent):
        health.check(pk=pk, by=None)
