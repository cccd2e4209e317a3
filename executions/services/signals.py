"""Events from outside, and the blocks that wait for them.

Rows alone carry an event to its blocks, so that a kill at any point loses none.  A block that begins
to wait leaves its `EventWait` and a look at its run that is due at once; an event leaves its
`ReceivedEvent`, undelivered.  Whichever commits second sees the first: the look follows the wait's
commit, the delivery follows the event's.  Both only look at runs, under the run's lock, where one
event moves one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import structlog
from django.db import DatabaseError, transaction
from django.db.models.functions import Now

from agentflow.conf import LIMITS
from agentflow.errors import Conflict
from agentflow.events.models import ReceivedEvent
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from executions import dispatch
from executions.engine import statements
from executions.engine.judging import Change
from executions.engine.rows import loads
from executions.engine.run import Run, raw_cursor
from executions.states import BlockStatus as B

log = structlog.get_logger(__name__)

UNDELIVERED_S = 2.0  # then the clock delivers an event whose hint got lost
AT_ONCE = 50


class EventIdTaken(Conflict):
    """Another event was received under this eventId."""

    code = "event_id_taken"
    remedy = (
        "Give every event an id of its own; repeat an id only with the same type, correlation and payload."
    )


@dataclass(frozen=True, slots=True)
class Received:
    """`repeated`: the event had been received before, and this changed nothing."""

    event_id: str
    type: str
    correlation: str
    at: datetime
    repeated: bool


def receive(
    *,
    workspace_id: UUID,
    type: str,
    by: User | None = None,
    correlation: str = "",
    payload: JSONValue = None,
    event_id: str = "",
) -> Received:
    """Store an event, once per `event_id`.  Once this returns, every block that waits for it will get it.

    Raises:
        EventIdTaken: the id was used for another event.
    """
    with transaction.atomic():
        event, made = ReceivedEvent.objects.get_or_create(
            workspace_id=workspace_id,
            event_id=event_id or str(uuid4()),
            defaults={"type": type, "correlation": correlation, "payload": payload},
        )
        if not made and (event.type, event.correlation, event.payload) != (type, correlation, payload):
            raise EventIdTaken
        if made:
            event.refresh_from_db(fields=["at"])
            audit.record(
                action="event.receive",
                by=by,
                workspace_id=workspace_id,
                target_type="event",
                target_id=event.event_id,
                detail={"type": type, "correlation": correlation},
            )
            dispatch.on_commit_deliver(event.pk)
    return Received(event.event_id, event.type, event.correlation, event.at, repeated=not made)


def deliver(received: UUID) -> None:
    """Look at every run that waits for this event.  Safe to repeat."""
    from . import reconcile

    rows = raw_cursor().execute(
        "SELECT DISTINCT w.execution_id FROM events_receivedevent r JOIN executions_eventwait w"
        " ON w.workspace_id = r.workspace_id AND w.type = r.type AND w.correlation = r.correlation"
        " AND w.received IS NULL"
        " JOIN executions_blockexecution b ON b.id = w.block_id AND b.status = 'waiting_external'"
        " WHERE r.id = %s",
        (received,),
    )
    for (execution_id,) in rows.fetchall():
        try:
            reconcile.look(execution_id)
        except DatabaseError:
            raise
        except Exception:  # one bad run must keep the event from no other; its own timer looks again
            log.exception("event_not_taken", execution_id=str(execution_id), received=str(received))
    ReceivedEvent.objects.filter(pk=received, delivered_at=None).update(delivered_at=Now())


def deliver_late() -> int:
    """Deliver events whose hint got lost.  Several clocks may do it at once."""
    late = ReceivedEvent.objects.filter(delivered_at=None, at__lt=Now() - timedelta(seconds=UNDELIVERED_S))
    ids = list(late.order_by("at").values_list("pk", flat=True)[:AT_ONCE])
    for received in ids:
        deliver(received)
    return len(ids)


def purge() -> int:
    """Remove events that are too old to be waited for."""
    old = ReceivedEvent.objects.filter(at__lt=Now() - timedelta(days=LIMITS.event_days))
    return old.exclude(delivered_at=None).delete()[0]


def take_events(run: Run) -> None:
    """Give waiting blocks of a locked run their events, an event to one block each."""
    changes = []
    for pk, idx, wait, type, correlation, event in run.execute(statements.EVENT_WAITS).fetchall():
        taken: JSONObject | None = loads(event)
        if taken is None:
            row = run.execute(statements.TAKE_EVENT, wait=wait, type=type, correlation=correlation).fetchone()
            taken = loads(row[0]) if row is not None else None
        if taken is not None:
            changes.append(run.after_wait(pk, idx, taken))
    if changes:
        run.settle(changes, leaving=B.WAITING_EXTERNAL)


def expired(pk: int, idx: int) -> Change:
    """The block's `timeout` has passed without its event."""
    error: JSONObject = {
        "kind": "critical",
        "code": "event_timeout",
        "message": "The event did not come in time.",
        "outcomeUnknown": False,
    }
    return Change(pk=pk, idx=idx, status=B.FAILED, reason="event_timeout", error=error)
