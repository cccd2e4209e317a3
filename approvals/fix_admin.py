"""The question about a stuck step on its page in the admin: what is known, and a form to answer it."""

from __future__ import annotations

from typing import Any, cast

from django.http import HttpRequest

from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.incidents.fixes import ACTIONS
from executions.incidents.page import fix_of

from . import fix, selectors
from .models import Approval
from .services import responding
from .services.votes import COMMENTS_CHARS
from .states import ApprovalStatus

FIELDS = ("agent", "configuration", "input", "output", "comments")


def panel(request: HttpRequest, approval: Approval) -> dict[str, Any] | None:
    """None: it is another question, or it is decided."""
    user = cast(User, request.user)
    about = fix.shown(approval, user) if approval.status == ApprovalStatus.PENDING else None
    if about is None:
        return None
    given, chosen = request.POST, request.POST.get("action", "retry")
    ways = {way.action: way.title for way in about.ways if not way.changes}
    return {
        **fix.page(about, user),
        "approval": approval,
        "may_decide": selectors.decidable_by(user).filter(pk=approval.pk).exists(),
        "actions": [(name, title, name == chosen) for name, title in ways.items()],
        "given": {name: given.get(name, "") for name in FIELDS},
    }


def answer(request: HttpRequest, approval: Approval) -> None:
    """Answer as the form says.

    Raises:
        InvalidInput: what was typed is none; and as `responding.respond`.
    """
    name = request.POST.get("action", "")
    response: JSONObject = fix_of(request).as_json() if name in ACTIONS else {"action": name}
    responding.respond(
        approval_id=approval.pk,
        by=cast(User, request.user),
        approved=name != "fail",
        response=response,
        comments=request.POST.get("comments", "").strip()[:COMMENTS_CHARS],
        content_hash=request.POST.get("content_hash") or None,
        channel="admin",
    )
