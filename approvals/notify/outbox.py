"""Sends what is due: claimed in a transaction, sent outside of any, marked afterwards.

A sender that dies between sending and marking leaves a row that is due again after its lease, with the
same id: receivers get a message at least once, and tell a repeat by that id.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from agentflow.errors import Conflict, NotFound
from agentflow.governance import access, audit
from agentflow.governance.access import Principal
from agentflow.governance.roles import Permission

from .channels import Refused, Undelivered, sender_for
from .models import Delivery
from .states import DELIVERY, OPEN, Channel, DeliveryState

log = logging.getLogger(__name__)

D = DeliveryState
LEASE_S = 120  # longer than any sending takes
ATTEMPTS = 10  # the last some five hours after the first
FIRST_DELAY_S = 10.0
GROWTH = 3.0
MOST_DELAY_S = 3600.0
BURST = 5  # so many mails for one person at one moment become one
BATCH_MOST = 100
ERROR_CHARS = 500


class NoSuchDelivery(NotFound):
    """There is no such delivery."""


class NotDead(Conflict):
    """Only what was given up can be sent again."""

    code = "delivery_not_dead"
    remedy = "It was sent, or is tried again by itself; see its state."


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent at once: one delivery, or a batch with its leader first."""

    deliveries: tuple[Delivery, ...]

    @property
    def leader(self) -> Delivery:
        return self.deliveries[0]


def lanes_due(*, without: Collection[str] = ()) -> list[str]:
    """The lanes in which something is due, in no order that one of them could exploit."""
    rows = _due().exclude(lane__in=list(without)).order_by("lane").values_list("lane", flat=True).distinct()
    lanes = list(rows)
    random.shuffle(lanes)
    return lanes


def drain(lane: str, *, at_most: int = 500) -> int:
    """Send what is due in a lane, one after the other, until nothing is or one fails; how much was sent."""
    sent = 0
    with sender_for(lane) as sender:
        for _ in range(at_most):
            parcel = claim(lane)
            if parcel is None:
                break
            try:
                left = sender.send(parcel.deliveries)
            except Undelivered as error:
                note_failure(parcel, error)
                if not isinstance(error, Refused):
                    break  # whoever does not answer now will not in a moment
            except Exception as error:
                log.exception("delivery failed: %s", parcel.leader.pk)
                note_failure(parcel, Undelivered(f"internal error: {type(error).__name__}"))
            else:
                note_sent(parcel, dropped=left)
                sent += 1
    return sent


# -- claim and mark ----------------------------------------------------------------


def _due() -> QuerySet[Delivery]:
    return Delivery.objects.filter(Q(batch=None) | Q(batch=F("pk")), state__in=OPEN, next_at__lte=Now())


@transaction.atomic
def claim(lane: str) -> Parcel | None:
    """The next of a lane, put off so that no other clock sends it meanwhile; its attempt is counted."""
    due = _due().filter(lane=lane).order_by("next_at", "pk")
    first = due.select_for_update(skip_locked=True).first()
    if first is None:
        return None
    together = _batch(first)
    attempt = first.attempts + 1
    Delivery.objects.filter(pk__in=[each.pk for each in together]).update(
        attempts=attempt, next_at=Now() + timedelta(seconds=LEASE_S)
    )
    for each in together:
        each.attempts = attempt
    return Parcel(tuple(together))


def _batch(first: Delivery) -> list[Delivery]:
    """The deliveries sent with `first`: those it led before, or mail for the same person that is due, too."""
    if first.batch is not None:
        rows = Delivery.objects.filter(batch=first.pk, state__in=OPEN).exclude(pk=first.pk)
        return [first, *rows.order_by("event_id")]
    if first.channel != Channel.EMAIL:
        return [first]
    alike = _due().filter(
        lane=first.lane, user=first.user_id, workspace=first.workspace_id, batch=None, attempts=0
    )
    rest = alike.exclude(pk=first.pk).order_by("event_id").select_for_update(skip_locked=True)
    others = list(rest[: BATCH_MOST - 1])
    wanted = first.digest or len(others) + 1 >= BURST
    if not others or not wanted or first.attempts:
        return [first]
    together = [first, *others]
    Delivery.objects.filter(pk__in=[each.pk for each in together]).update(batch=first.pk)
    for each in together:
        each.batch = first.pk
    return together


def _mine(parcel: Parcel) -> QuerySet[Delivery]:
    """The rows of a parcel, unless its lease ran out and another has claimed them since."""
    leader = parcel.leader
    return Delivery.objects.filter(
        pk__in=[each.pk for each in parcel.deliveries], attempts=leader.attempts, state__in=OPEN
    )


def note_sent(parcel: Parcel, *, dropped: Collection[UUID] = ()) -> None:
    """`dropped`: what of it nobody needed any more."""
    if dropped:
        _mine(parcel).filter(pk__in=dropped).update(state=D.DROPPED)
    _mine(parcel).exclude(pk__in=dropped).update(state=D.SENT, sent_at=Now(), last_error="")


def note_failure(parcel: Parcel, error: Undelivered) -> None:
    said = error.said.replace("\x00", "\ufffd")[:ERROR_CHARS]
    if isinstance(error, Refused) or parcel.leader.attempts >= ATTEMPTS:
        _mine(parcel).update(state=D.DEAD, last_error=said)
        log.warning("delivery given up: %s: %s", parcel.leader.pk, said)
        return
    wait = max(_delay_s(parcel.leader.attempts), error.retry_after_s or 0.0)
    _mine(parcel).update(state=D.FAILED, last_error=said, next_at=Now() + timedelta(seconds=wait))


def _delay_s(attempt: int) -> float:
    delay: float = min(FIRST_DELAY_S * GROWTH ** (attempt - 1), MOST_DELAY_S)
    return delay * (0.75 + random.random() / 2)


# -- by hand, and tidying ----------------------------------------------------------


@transaction.atomic
def send_again(*, pk: UUID, by: Principal) -> Delivery:
    """Try a delivery that was given up once more, from its first attempt; its id stays.

    Raises:
        NoSuchDelivery, NotPermitted: `by` does not administer the workspace.
        NotDead
    """
    row = Delivery.objects.visible_to(by).filter(pk=pk).first()
    if row is None:
        raise NoSuchDelivery
    access.require(by, Permission.ADMINISTER, row.workspace_id)
    moved = Delivery.objects.filter(pk=pk, state__in=DELIVERY.leaving(D.PENDING)).update(
        state=D.PENDING, attempts=0, next_at=Now(), batch=None
    )
    if not moved:
        raise NotDead(delivery_id=str(pk), state=row.state)
    audit.record(
        action="delivery.send_again",
        by=by,
        workspace_id=row.workspace_id,
        target_type="delivery",
        target_id=str(pk),
        detail={"channel": row.channel, "recipient": row.recipient},
    )
    row.refresh_from_db()
    return row


def purge(*, before: datetime | None = None) -> int:
    """Remove what was sent, dropped or given up longer ago than AGENTFLOW_DELIVERY_DAYS."""
    limit = before or Now() - timedelta(days=settings.AGENTFLOW_DELIVERY_DAYS)
    return Delivery.objects.filter(created_at__lt=limit).exclude(state__in=OPEN).delete()[0]
