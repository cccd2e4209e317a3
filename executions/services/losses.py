"""Notices when messages may have been lost: the broker was emptied, replaced or away, or a worker died.

The rows lose nothing by that, and each run's check would find in its time what nobody will take.
Noticed, that time is now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from executions.engine.run import raw_cursor

log = structlog.get_logger(__name__)

QUIET_S = 2.0  # after an attempt that failed
SOCKET_S = 1.0
WORK_S = 61.0  # a run that has work looks after itself at least so often; one that only waits needs no hint

TAKEN_MAX = 1000  # runs whose hints a worker may have taken with it: of so many the ones that are due last

# One clock holds it while another takes due timers: what is held already is looked at anyway.
_LOOK_NOW = """
WITH near AS (
  SELECT id FROM executions_timer
  WHERE kind = 'check' AND due_at > statement_timestamp()
    AND due_at < statement_timestamp() + %(work)s * interval '1 second' AND tries >= %(tries)s
  ORDER BY due_at DESC LIMIT %(most)s FOR UPDATE SKIP LOCKED)
UPDATE executions_timer t SET due_at = statement_timestamp(), tries = 0 FROM near WHERE t.id = near.id
"""


class Keepsake:
    """A key left in the broker: where it is gone, the messages are gone with it.

    Of several clocks that look, one is told of an emptied broker, and each of one that was away.
    """

    def __init__(
        self, broker: Callable[[], redis.Redis], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._away = False
        self._quiet_until = 0.0

    def lost(self) -> bool:
        """Whether messages may have been lost since the last time.  One command."""
        if self._clock() < self._quiet_until:
            return False
        try:
            kept = self._broker().set(f"{settings.REDIS_PREFIX}agentflow:kept", 1, nx=True, get=True)
        except (redis.RedisError, OSError) as error:
            if not self._away:
                log.warning("broker_away", error=repr(error))
            self._away, self._quiet_until = True, self._clock() + QUIET_S
            return False
        was_away, self._away = self._away, False
        return was_away or kept is None


@cache
def _broker() -> redis.Redis:
    return redis.Redis.from_url(
        settings.BROKER_URL,
        socket_connect_timeout=SOCKET_S,
        socket_timeout=SOCKET_S,
        retry=Retry(NoBackoff(), 0),
    )


keepsake = Keepsake(_broker)


def make_good() -> int:
    """Look at each run with work now, if messages may have been lost; gives how many.

    A clock that dies in between leaves the runs to their own checks.
    """
    if not keepsake.lost():
        return 0
    runs = _look_now(tries=0, most=None)
    log.warning("broker_lost_messages", runs=runs)
    return runs


def worker_began() -> int:
    """Look at the runs whose hints were repeated in vain: the worker before this one may have taken them.

    A worker holds a few hints beyond those it follows, and one that dies or goes deaf takes them with it.
    """
    return _look_now(tries=1, most=TAKEN_MAX)


def _look_now(*, tries: int, most: int | None) -> int:
    return raw_cursor().execute(_LOOK_NOW, {"work": WORK_S, "tries": tries, "most": most}).rowcount
