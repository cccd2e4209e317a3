"""The ways out: each sends a parcel, or says why it could not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from ..models import Delivery


class Undelivered(Exception):
    """It did not arrive, as far as one knows; tried again later."""

    def __init__(self, said: str, *, retry_after_s: float | None = None) -> None:
        self.said = said
        self.retry_after_s = retry_after_s
        super().__init__(said)


class Refused(Undelivered):
    """It will not arrive however often one tries, until somebody changes something."""


class Sender(Protocol):
    def send(self, deliveries: Sequence[Delivery]) -> Collection[UUID]:
        """Send these as one message; gives those that nobody needed any more and that were left out.

        Raises:
            Undelivered
        """


def sender_for(lane: str) -> AbstractContextManager[Sender]:
    """What sends a lane's messages; it may keep a connection for as long as it is open."""
    from . import mail, posts

    return mail.Mailer() if lane == mail.LANE else posts.Poster()
