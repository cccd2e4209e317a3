"""Telling those whom an execution concerns that it was given up.

Called in the transaction that ends the execution: the event and all messages about it are written with the
end, or none is.  They are sent as any other.
"""

from __future__ import annotations

from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q

from agentflow.events import store
from agentflow.events.models import Event, Level
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from executions.models import Execution

from ..models import ApprovalVote
from . import wishes
from .following import MAIL_LANE
from .models import Delivery, Target
from .moments import Moment, send_at
from .states import Channel, Stakeholder, Topic

EVENT = "execution_given_up"

log = structlog.get_logger(__name__)


def tell(*, execution_id: UUID) -> None:
    """Binds `executions.ports.given_up`."""
    try:
        with transaction.atomic():
            _tell(execution_id)
    except DatabaseError:
        raise
    except Exception:
        log.exception("nobody_is_told", execution_id=str(execution_id))


def _tell(execution_id: UUID) -> None:
    execution = Execution.objects.select_related("template_version__template").get(pk=execution_id)
    error = execution.error or {}
    facts: JSONObject = {
        "templateName": execution.template_version.template.name,
        "code": error.get("code", ""),
        "message": str(error.get("message", ""))[:1000],
        "blocks": error.get("blocks", []),
        "compensation": execution.compensation,
    }
    store.append(
        type=EVENT,
        workspace_id=execution.workspace_id,
        execution_id=execution_id,
        level=Level.ERROR,
        payload=facts,
    )
    event = Event.objects.filter(execution_id=execution_id, type=EVENT).latest("id")
    rows = [*_for_targets(event), *_for_people(event, execution)]
    Delivery.objects.bulk_create(rows, batch_size=500)


def _for_targets(event: Event) -> list[Delivery]:
    return [
        _delivery(
            event,
            Moment(event.at, digest=False),
            channel=target.channel,
            recipient=f"target:{target.pk}",
            lane=f"target:{target.pk}",
            target=target,
        )
        for target in Target.objects.filter(workspace=event.workspace_id, enabled=True)
        if Topic.GIVEN_UP in target.topics
    ]


def _for_people(event: Event, execution: Execution) -> list[Delivery]:
    if not settings.AGENTFLOW_EMAIL:
        return []
    people = stakeholders(execution)
    wanted = wishes.choices([user.pk for user in people], [execution.workspace_id])
    rows = []
    for user in people:
        choice = wanted[user.pk, execution.workspace_id]
        if not choice.wants(Topic.GIVEN_UP, Channel.EMAIL):
            continue
        moment = send_at(event.at, digest=choice.digest, quiet=choice.quiet, zone=choice.zone_info)
        recipient = f"user:{user.pk}"
        rows.append(
            _delivery(event, moment, channel=Channel.EMAIL, recipient=recipient, lane=MAIL_LANE, user=user)
        )
    return rows


def stakeholders(execution: Execution) -> list[User]:
    """Those whom the workspace wants to be told, who have an address and may see the execution."""
    chosen = wishes.rules_of(execution.workspace_id).stakeholders
    people = Q(pk__in=[])
    if Stakeholder.STARTER in chosen:
        people |= Q(pk=execution.created_by_id)
    if Stakeholder.DECIDERS in chosen:
        people |= Q(pk__in=ApprovalVote.objects.filter(approval__execution=execution).values("user"))
    if Stakeholder.OPERATORS in chosen:
        people |= Q(pk__in=access.holders(Permission.OPERATE, [execution.workspace_id]).values("pk"))
    seeing = access.holders(Permission.VIEW, [execution.workspace_id])
    return list(seeing.filter(people).exclude(email="").order_by("pk"))


def _delivery(
    event: Event,
    moment: Moment,
    *,
    channel: str,
    recipient: str,
    lane: str,
    user: User | None = None,
    target: Target | None = None,
) -> Delivery:
    return Delivery(
        workspace_id=event.workspace_id,
        execution_id=event.execution_id,
        event_id=event.pk,
        event_type=event.type,
        event_at=event.at,
        facts=event.payload or {},
        topic=Topic.GIVEN_UP,
        channel=channel,
        recipient=recipient,
        lane=lane,
        user=user,
        target=target,
        next_at=moment.at,
        digest=moment.digest,
    )
