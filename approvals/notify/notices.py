"""What an open inbox lets its browser show: the topics, rules and words of mail; nothing is stored."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_GET

from agentflow.events.models import Event
from agentflow.governance.models import User

from .. import selectors
from . import messages, wishes
from .following import Told, own_doing, tellable
from .moments import send_at
from .states import ASKS, TOPICS, Channel, Topic
from .wishes import Choice

EVENTS = 20  # asked about at once


@login_required
@require_GET
def browser(request: HttpRequest) -> JsonResponse:
    """Which of the events `?event=812&event=813` the browser should tell its user of now, and how."""
    user = request.user
    assert isinstance(user, User)  # login_required
    numbers = [int(each) for each in request.GET.getlist("event")[:EVENTS] if _is_number(each)]
    return JsonResponse({"notices": notices(user, numbers, timezone.now())})


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def notices(user: User, event_ids: Collection[int], now: datetime) -> list[dict[str, Any]]:
    """Of each question that concerns `user`, the last that they want to be told of in the browser, now."""
    events = Event.objects.filter(pk__in=event_ids, type__in=TOPICS).order_by("xid", "pk")
    told = [each for each in tellable(events, now) if not own_doing(each, user)]
    concerned = {asks: _concerning(user, told, asks=asks) for asks in (True, False)}
    told = [each for each in told if each.approval.pk in concerned[each.asks]]
    choices = wishes.choices([user.pk], {each.approval.workspace_id for each in told})
    last = {
        each.approval.pk: each
        for each in told
        if _wanted(each, choices[user.pk, each.approval.workspace_id], now)
    }
    return [{"approvalId": str(pk), "title": _title(each), "text": _text(each)} for pk, each in last.items()]


def _concerning(user: User, told: Collection[Told], *, asks: bool) -> set[UUID]:
    """`asks`: what `user` may answer; else what they answered or were told of, too."""
    pks = [each.approval.pk for each in told if each.asks == asks]
    if not pks:
        return set()
    found = set(selectors.decidable_by(user).filter(pk__in=pks).values_list("pk", flat=True))
    if not asks:
        before = Q(votes__user=user) | Q(deliveries__user=user, deliveries__topic__in=ASKS)
        found.update(selectors.visible(user).filter(before, pk__in=pks).values_list("pk", flat=True))
    return found


def _wanted(told: Told, choice: Choice, now: datetime) -> bool:
    respond_by = told.approval.respond_by if told.asks else None
    moment = send_at(now, quiet=choice.quiet, zone=choice.zone_info, respond_by=respond_by)
    return choice.wants(told.topic, Channel.BROWSER) and moment.at == now


def _title(told: Told) -> str:
    question = messages.title(told.approval)
    return question if told.topic == Topic.REQUESTED else f"{messages.HEADLINES[told.topic]}: {question}"


def _text(told: Told) -> str:
    if told.topic == Topic.COMMENTED:
        return messages.remark(told.approval, told.event.payload or {})
    return messages.outcome(told.approval) or messages.line(told.approval.block_name, messages.TITLE_CHARS)
