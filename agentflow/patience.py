"""Waiting for a database that is away for a moment: restarted, failed over, or with its connections cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from django.db import InterfaceError, OperationalError, connection

log = structlog.get_logger(__name__)
T = TypeVar("T")

RETRY_S = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)  # a block's lease outlives the sum


def patiently(work: Callable[[bool], T], **about: object) -> T:
    """What `work` gives, done again on a new connection each time the database was lost.

    `work` must be safe to repeat, and is told whether it is: nobody knows whether the last try committed.
    A thread's connection may have been dead for long: nothing but its next use finds out.

    Raises:
        OperationalError, InterfaceError: the database stayed away for `RETRY_S` in all.
    """
    for number, pause_s in enumerate((*RETRY_S, None)):
        try:
            return work(number > 0)
        except (OperationalError, InterfaceError) as error:
            connection.close()
            if pause_s is None:
                raise
            log.warning("database_lost", error=str(error), **about)
            time.sleep(pause_s)
    raise AssertionError("unreachable")
