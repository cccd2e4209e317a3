"""The inbox: what waits for a person, one question in full, and what was decided.

The server writes rows and details; the browser fetches them again as fragments when something
happens, so there is one place for their words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from agentflow.api.templatetags.agentflow_ui import person, words
from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue
from executions import facts

from . import selectors
from .models import ANY_APPROVER, Approval, ApprovalKind
from .states import ApprovalStatus

SOON = timedelta(minutes=30)  # less time than this and it is for now
ROWS_MAX = 200
KINDS = {  # icon, what it is called, what the list says about it
    ApprovalKind.APPROVAL: ("user-check", "Approval", "approve or reject"),
    ApprovalKind.INPUT: ("forms", "Form", "fill in a form"),
    ApprovalKind.FIX: ("bandage", "Stuck step", "pick a way on"),
}
FIXES = (
    ("retry", "refresh", "Run again", "The step is tried once more, from the start."),
    (
        "complete",
        "check",
        "Done with this output",
        "It was done elsewhere: you give its output, the rest goes on.",
    ),
    ("skip", "player-skip-forward", "Skip", "The step is left out, and what only follows from it."),
    ("fail", "x", "Fail", "The step fails, and the workflow does what it says for a failure."),
)
OUTCOMES = {  # look, icon
    ApprovalStatus.APPROVED: ("completed", "circle-check"),
    ApprovalStatus.REJECTED: ("failed", "x"),
    ApprovalStatus.EXPIRED: ("human", "hourglass"),
    ApprovalStatus.CANCELLED: ("", "ban"),
}
AFTER_REJECTION = {
    "fail": "The step fails",
    "skip": "The step is skipped",
    "continue": "The workflow goes on and knows that you refused",
}


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # login_required stands before every page
    return request.user


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


@dataclass(slots=True)
class Group:
    title: str
    rows: list[Row] = field(default_factory=list)


def row_of(approval: Approval, now: datetime) -> Row:
    icon, _, hint = KINDS[ApprovalKind(approval.kind)]
    closed = approval.status != ApprovalStatus.PENDING
    if closed:
        hint = outcome(approval)
    elif approval.level != ANY_APPROVER:
        hint = f"{hint}, level {approval.level}"
    return Row(
        approval=approval,
        question=question_of(approval),
        template_name=approval.execution.template_version.template.name,
        hint=hint,
        icon=OUTCOMES[ApprovalStatus(approval.status)][1] if closed else icon,
        urgency="" if closed else urgency(approval, now),
        closed=closed,
    )


def grouped(approvals: Iterable[Approval], now: datetime) -> list[Group]:
    """By what waiting costs: overdue and nearly so, the rest of today, later."""
    act_now, today, later = Group("Act now"), Group("Today"), Group("Later")
    for approval in approvals:
        if approval.respond_by <= now + SOON:
            group = act_now
        elif timezone.localdate(approval.respond_by) == timezone.localdate(now):
            group = today
        else:
            group = later
        group.rows.append(row_of(approval, now))
    return [act_now, today, later]


def urgency(approval: Approval, now: datetime) -> str:
    if approval.respond_by <= now:
        return "bad"
    return "warn" if approval.respond_by <= now + SOON else ""


def question_of(approval: Approval) -> str:
    return str(approval.request.get("title") or f"Approve: {approval.block_name}?")


def outcome(approval: Approval) -> str:
    """What became of a question, in a few words."""
    who = person(approval.responder) if approval.responder else ""
    if approval.status == ApprovalStatus.APPROVED:
        return f"{who} {'approved' if approval.kind == ApprovalKind.APPROVAL else 'answered'} this"
    return {
        ApprovalStatus.REJECTED: f"{who} rejected this",
        ApprovalStatus.EXPIRED: "Nobody answered in time",
        ApprovalStatus.CANCELLED: "Withdrawn: the answer is no longer needed",
    }[ApprovalStatus(approval.status)]


def _waiting(user: User) -> dict[str, Any]:
    now = timezone.now()
    approvals = list(selectors.pending_for(user)[:ROWS_MAX])
    groups = grouped(approvals, now)
    count = len(approvals) if len(approvals) < ROWS_MAX else selectors.pending_for(user).count()
    return {
        "nav": "inbox",
        "tab": "waiting",
        "groups": groups,
        "count": count,
        "urgent": len(groups[0].rows),
    }


# -- one question ----------------------------------------------------------------


def detail(approval: Approval, user: User) -> dict[str, Any]:
    """All that the page of one question shows."""
    now = timezone.now()
    icon, kind_word, _ = KINDS[ApprovalKind(approval.kind)]
    look, outcome_icon = OUTCOMES.get(ApprovalStatus(approval.status), ("", ""))
    open_now = approval.status == ApprovalStatus.PENDING
    may_decide = open_now and selectors.decidable_by(user).filter(pk=approval.pk).exists()
    approve_word, reject_word = (
        ("Send answer", "Refuse") if approval.kind == ApprovalKind.INPUT else ("Approve", "Reject")
    )
    return {
        "approval": approval,
        "icon": icon,
        "kind_word": kind_word,
        "question": question_of(approval),
        "description": str(approval.request.get("description") or ""),
        "template_name": approval.execution.template_version.template.name,
        "block_name": approval.block_name,
        "urgency": urgency(approval, now),
        "level_word": "Any approver" if approval.level == ANY_APPROVER else f"Level {approval.level}",
        "facts": shown_facts(approval),
        "outcome": outcome(approval) if not open_now else "",
        "outcome_look": look,
        "outcome_icon": outcome_icon,
        "may_decide": may_decide,
        "who_decides": _who_decides(approval, user),
        "approve_word": approve_word,
        "reject_word": reject_word,
        "fixes": [dict(zip(("action", "icon", "title", "note"), fix, strict=True)) for fix in FIXES],
        "follows": _paths(approval) if open_now else [],
        "history": _history(approval),
        "ask": {
            "id": str(approval.pk),
            "kind": approval.kind,
            "contentHash": approval.content_hash,
            "inputSchema": approval.input_schema,
            "form": approval.kind != ApprovalKind.FIX and bool(approval.input_schema),
            "approveWord": approve_word,
        },
    }


def shown_facts(approval: Approval) -> list[tuple[str, JSONValue]]:
    """What the decision rests on, as label and value."""
    given: JSONValue = approval.request.get("facts")
    error: JSONValue = approval.request.get("error")
    shown = (
        [(words(str(key)), value) for key, value in given.items() if value not in (None, "", [], {})]
        if isinstance(given, dict)
        else []
    )
    if isinstance(error, dict):
        about = [
            ("Error", error.get("message")),
            ("Error kind", error.get("kind")),
            ("Error code", error.get("code")),
        ]
        return [(label, value) for label, value in about if value] + shown
    return shown


def _who_decides(approval: Approval, user: User) -> str:
    if not access.can(user, Permission.DECIDE, approval.workspace_id):
        return "it takes an approver of the workspace"
    return f"it takes a member of the level {approval.level}"


def _paths(approval: Approval) -> list[JSONObject]:
    follows = selectors.what_follows(approval)
    paths: list[JSONObject] = []
    if approval.kind != ApprovalKind.FIX:
        title = "If you answer" if approval.kind == ApprovalKind.INPUT else "If you approve"
        steps = _steps(follows.approve) + _after(approval, follows.approve)
        paths.append({"key": "approve", "icon": "check", "title": title, "steps": steps})
        first = {
            "icon": "x" if follows.on_reject == "fail" else "point",
            "name": AFTER_REJECTION[follows.on_reject],
        }
        title = "If you refuse" if approval.kind == ApprovalKind.INPUT else "If you reject"
        paths.append(
            {
                "key": "reject",
                "icon": "x",
                "title": title,
                "steps": [first, *_steps(follows.reject, end=False)],
            }
        )
    expired = {"icon": "x", "name": "The step fails", "note": "as if there were no answer to wait for"}
    paths.append(
        {"key": "timeout", "icon": "hourglass", "title": "If nobody answers in time", "steps": [expired]}
    )
    return paths


def _after(approval: Approval, steps: Sequence[selectors.Step]) -> list[JSONObject]:
    """What comes behind the step itself, where that is what runs next."""
    if [step.block_id for step in steps] != [approval.block_id]:
        return []
    known = facts.of_version(approval.execution.template_version_id)
    names = [one.name for one in known.values() if approval.block_id in one.dependencies]
    return [{"icon": "point", "name": name} for name in names[:5]]


def _steps(steps: Iterable[selectors.Step], *, end: bool = True) -> list[JSONObject]:
    shown: list[JSONObject] = [
        {
            "icon": "player-play",
            "name": step.name,
            "note": "if the workflow takes this way" if step.maybe else "",
        }
        for step in steps
    ]
    if not shown and end:
        return [{"icon": "circle-check", "name": "Nothing follows this step"}]
    return shown


def _history(approval: Approval) -> list[tuple[datetime, str]]:
    history = [
        (
            approval.requested_at,
            f"Asked, {'any approver' if approval.level == ANY_APPROVER else approval.level}",
        )
    ]
    if approval.attempt > 1:
        history[0] = (approval.requested_at, f"Asked after try {approval.attempt}")
    if approval.closed_at:
        history.append((approval.closed_at, outcome(approval)))
    return history


# -- views -----------------------------------------------------------------------


@login_required
@require_GET
def inbox(request: HttpRequest) -> HttpResponse:
    """The list, and beside it the most urgent question where there is room for it."""
    user = _user(request)
    context = _waiting(user)
    first = next((row.approval for group in context["groups"] for row in group.rows), None)
    if first is not None:
        context |= {"detail": detail(first, user), "chosen": first.pk}
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
    context = _waiting(user) if approval.status == ApprovalStatus.PENDING else _decided(user)
    context |= {"detail": shown, "chosen": approval.pk, "open": True}
    return render(request, "approvals/inbox.html", context)


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """The list alone."""
    return render(request, "approvals/rows.html", _waiting(_user(request)))


@login_required
@require_GET
def count(request: HttpRequest) -> HttpResponse:
    """How many questions wait for the user: the number beside the word Inbox."""
    return JsonResponse({"count": selectors.pending_for(_user(request)).count()})


@login_required
@require_GET
def decided(request: HttpRequest) -> HttpResponse:
    """What became of the latest questions."""
    return render(request, "approvals/inbox.html", _decided(_user(request)))


def _decided(user: User) -> dict[str, Any]:
    closed = [status for status in ApprovalStatus.values if status != ApprovalStatus.PENDING]
    approvals = selectors.history_for(user, selectors.Filter(statuses=closed))[:ROWS_MAX]
    now = timezone.now()
    return {
        "nav": "inbox",
        "tab": "decided",
        "groups": [Group("Latest", [row_of(approval, now) for approval in approvals])],
        "count": selectors.pending_for(user).count(),
        "urgent": 0,
    }
