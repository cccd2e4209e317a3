"""The inbox: what waits for a person, one question in full, and what was decided.

The server writes rows and details; the browser fetches them again as fragments when something
happens, so there is one place for their words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from agentflow.api.templatetags.agentflow_ui import person
from agentflow.errors import AgentflowError, NotFound
from agentflow.governance import access
from agentflow.governance.models import User

from . import inbox as lists
from . import selectors
from .inbox import Place, Wish
from .models import ANY_APPROVER, Approval, ApprovalKind, Sample, SampleState
from .question import detail, shown_facts
from .services import handing, shelf
from .states import ApprovalStatus
from .words import KINDS, OUTCOMES, money, outcome, question_of, urgency

ALIKE_MAX = 100
COLUMNS_MAX = 6


def _user(request: HttpRequest) -> User:
    return access.signed_in(request.user)


# -- the list ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the list."""

    approval: Approval
    question: str
    template_name: str
    hint: str
    icon: str
    urgency: str  # "" | warn | bad: css classes of the time left
    closed: bool
    taken: bool  # by somebody else
    new: bool

    @property
    def place(self) -> str:
        return str(Place.of(self.approval))

    @property
    def mark(self) -> str:
        """Another one means that the row says something else."""
        return f"{self.approval.version}-{self.hint}-{self.approval.respond_by.timestamp():.0f}"


@dataclass(slots=True)
class Group:
    title: str
    rows: list[Row] = field(default_factory=list)


def waiting_row(approval: Approval, user: User, now: datetime) -> Row:
    icon, _, hint = KINDS[ApprovalKind(approval.kind)]
    hints = [hint]
    holder = handing.holder(approval)
    if holder is not None:
        hints = ["taken by you" if holder == user else f"taken by {person(holder)}"]
    if approval.holds > 1:
        hints.append(f"holds {approval.holds} steps")
    if approval.spent:
        hints.append(f"{money(approval.spent)} spent")
    if approval.level != ANY_APPROVER:
        hints.append(f"level {approval.level}")
    return Row(
        approval=approval,
        question=approval.title,  # type: ignore[attr-defined]  # annotated by the list
        template_name=approval.execution.template_version.template.name,
        hint=" · ".join(hints),
        icon=icon,
        urgency=urgency(approval, now),
        closed=False,
        taken=holder is not None and holder != user,
        new=not approval.seen,  # type: ignore[attr-defined]  # as above
    )


def decided_row(approval: Approval) -> Row:
    return Row(
        approval=approval,
        question=question_of(approval),
        template_name=approval.execution.template_version.template.name,
        hint=outcome(approval),
        icon=OUTCOMES[ApprovalStatus(approval.status)][1],
        urgency="",
        closed=True,
        taken=False,
        new=False,
    )


def grouped(approvals: Iterable[Approval], user: User, now: datetime) -> list[Group]:
    """By rank, as the list is ordered: overdue, nearly so or holding much; the rest of today; later."""
    act_now, today, later = Group("Act now"), Group("Today"), Group("Later")
    for approval in approvals:
        ranked = datetime.fromtimestamp(float(approval.rank), tz=now.tzinfo)
        if ranked <= now + lists.SOON:
            group = act_now
        elif timezone.localdate(ranked) == timezone.localdate(now):
            group = today
        else:
            group = later
        group.rows.append(waiting_row(approval, user, now))
    return [act_now, today, later]


def _waiting(request: HttpRequest) -> dict[str, Any]:
    user, wish = _user(request), Wish.of(request.GET)
    desk = lists.Desk(user)
    piece = lists.piece(
        desk,
        wish,
        size=_number(request.GET.get("size"), lists.PIECE_ROWS),
        through=Place.parse(request.GET.get("through", "")),
    )
    return {
        "nav": "inbox",
        "tab": "waiting",
        "groups": grouped(piece.approvals, user, timezone.now()),
        "piece": piece,
        "shown": len(piece.approvals),
        "next_size": min(len(piece.approvals) + lists.PIECE_ROWS, lists.ROWS_MAX),
        "rows_max": lists.ROWS_MAX,
        "counts": lists.counts(desk),
        "desk": desk,
        "wish": wish,
        "query": str(wish),
    }


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else default


def _whole(request: HttpRequest) -> dict[str, Any]:
    """The list with what there is to narrow it by."""
    context = _waiting(request)
    views = lists.views(_user(request))
    return context | {"facets": lists.facets(context["desk"]), "views": views, "kind_words": KINDS}


def _decided(user: User) -> dict[str, Any]:
    closed = [status for status in ApprovalStatus.values if status != ApprovalStatus.PENDING]
    rows = selectors.history_for(user, selectors.Filter(statuses=closed))
    approvals = selectors.shown(rows)[: lists.PIECE_ROWS * 4]
    return {
        "nav": "inbox",
        "tab": "decided",
        "groups": [Group("Latest", [decided_row(approval) for approval in approvals])],
        "counts": lists.counts(lists.Desk(user)),
    }


# -- views -----------------------------------------------------------------------


@login_required
@require_GET
def inbox(request: HttpRequest) -> HttpResponse:
    """The list, and beside it the most urgent question where there is room for it."""
    user = _user(request)
    context = _whole(request)
    first = next(iter(context["piece"].approvals), None)
    if first is not None:
        context |= {"detail": detail(selectors.find(user, first.pk), user), "chosen": first.pk}
    return render(request, "approvals/inbox.html", context)


@login_required
@require_GET
def question(request: HttpRequest, approval_id: UUID) -> HttpResponse:
    """One question; as a fragment where a script asks."""
    user = _user(request)
    try:
        approval = selectors.find(user, approval_id)
    except NotFound as error:
        raise Http404(error.message) from error
    shown = detail(approval, user)
    if request.headers.get("X-Fragment"):
        return render(request, "approvals/detail.html", {"detail": shown})
    waiting = approval.status == ApprovalStatus.PENDING
    context = _whole(request) if waiting else _decided(user)
    context |= {"detail": shown, "chosen": approval.pk, "open": True}
    return render(request, "approvals/inbox.html", context)


@login_required
@require_GET
def alike(request: HttpRequest, approval_id: UUID) -> HttpResponse:
    """The questions that the same step of the same version asks, as a table to decide from."""
    user = _user(request)
    try:
        approval = selectors.find(user, approval_id)
    except NotFound as error:
        raise Http404(error.message) from error
    found = list(lists.alike(lists.Desk(user), approval).select_related("sample")[: ALIKE_MAX + 1])
    shown = [(one, shown_facts(one)) for one in found[:ALIKE_MAX]]
    columns = list(dict.fromkeys(fact.label for _, facts in shown for fact in facts))[:COLUMNS_MAX]
    version = approval.execution.template_version
    context = {
        "nav": "inbox",
        "block_name": approval.block_name,
        "template_name": version.template.name,
        "version_number": version.number,
        "more": len(found) > ALIKE_MAX,
        "columns": columns,
        "sample": _open_sample(found),
        "rows": [
            {
                "approval": one,
                "question": question_of(one),
                "cells": [
                    next((fact.value for fact in facts if fact.label == name), None) for name in columns
                ],
            }
            for one, facts in shown
        ],
    }
    return render(request, "approvals/table.html", context)


def _open_sample(alike: Sequence[Approval]) -> Sample | None:
    """The sample that these wait for, where it is one and still open."""
    samples = {one.sample for one in alike}
    sample = samples.pop() if len(samples) == 1 else None
    return sample if sample is not None and sample.state == SampleState.OPEN else None


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """The list alone."""
    return render(request, "approvals/rows.html", _waiting(request))


@login_required
@require_GET
def count(request: HttpRequest) -> HttpResponse:
    """How many questions wait for the user: the number beside the word Inbox."""
    counts = lists.counts(lists.Desk(_user(request)))
    return JsonResponse({"count": counts.total, "unread": counts.unread})


@login_required
@require_GET
def decided(request: HttpRequest) -> HttpResponse:
    """What became of the latest questions."""
    return render(request, "approvals/inbox.html", _decided(_user(request)))


@login_required
@require_POST
def seen(request: HttpRequest, approval_id: UUID) -> HttpResponse:
    """The question was opened."""
    shelf.mark_seen(user=_user(request), approval_id=approval_id)
    return HttpResponse(status=204)


@login_required
@require_POST
def save_view(request: HttpRequest) -> HttpResponse:
    """Keep the filter of the page under a name."""
    user, wish = _user(request), Wish.of(request.POST)
    try:
        shelf.save_view(user=user, name=request.POST.get("name", ""), query=wish.as_query())
    except AgentflowError as error:
        context = _whole(request) | {"wish": wish, "query": str(wish)}
        return render(request, "approvals/inbox.html", context | {"view_trouble": error.message}, status=400)
    return redirect(f"/inbox/?{wish}")


@login_required
@require_POST
def remove_view(request: HttpRequest, view_id: int) -> HttpResponse:
    shelf.remove_view(user=_user(request), view_id=view_id)
    return redirect("/inbox/")
