"""Telling people and programs, called here instead of by a clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models.functions import Now

from agentflow.events.models import Event
from agentflow.governance.models import User, Workspace
from agentflow.governance.services.secrets import put_secret
from approvals.notify import following, outbox
from approvals.notify.models import Delivery, Target

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def follow() -> None:
    """Read what happened; inside of a test's own transaction, which nobody can follow, plan it directly."""
    if connection.in_atomic_block:
        following.plan(list(Event.objects.filter(type__startswith="approval_").order_by("id")))
    while following.follow():
        pass


def send_all() -> None:
    """What a clock does, until nothing is due."""
    follow()
    for lane in outbox.lanes_due():
        outbox.drain(lane)


def target(workspace: Workspace, admin: User, url: str, channel: str = "webhook", **fields: Any) -> Target:
    """A target with a secret; the workspace may reach it."""
    put_secret(by=admin, workspace_id=workspace.pk, name="HOOK_KEY", value=SECRET)
    Workspace.objects.filter(pk=workspace.pk).update(egress_allow=["127.0.0.1"])
    fields.setdefault("secret", "${secrets.HOOK_KEY}" if channel == "webhook" else "")
    return Target.objects.create(workspace=workspace, name=channel, channel=channel, url=url, **fields)


def make_due(**chosen: Any) -> None:
    """Let the time pass that a retry, quiet hours or a lease wait for."""
    Delivery.objects.filter(**chosen).update(next_at=Now() - timedelta(seconds=1))


def states(**chosen: Any) -> list[str]:
    return list(Delivery.objects.filter(**chosen).order_by("event_id", "pk").values_list("state", flat=True))
