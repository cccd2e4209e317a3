"""What the page of one question shows: what is asked, what follows each answer, what has been."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.utils import timezone

from agentflow.api.templatetags.agentflow_ui import words
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue
from executions import facts

from . import selectors
from .models import ANY_APPROVER, Approval, ApprovalKind
from .states import ApprovalStatus
from .words import AFTER_REJECTION, FIXES, KINDS, OUTCOMES, outcome, question_of, urgency


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
