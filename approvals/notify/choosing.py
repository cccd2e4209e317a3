"""Pages: what one is told, and how."""

from __future__ import annotations

from datetime import time
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from agentflow.errors import InvalidInput
from agentflow.governance import access
from agentflow.governance.models import User, Workspace

from . import wishes
from .states import Channel, Digest, Topic
from .wishes import Given

WORDS = {
    Topic.REQUESTED: ("Asked", "A question waits for you"),
    Topic.REMINDER: ("Reminded", "It still waits"),
    Topic.ESCALATED: ("Passed on", "Others did not answer, now you are asked"),
    Topic.DECIDED: ("Decided", "Somebody answered what you were asked"),
    Topic.EXPIRED: ("Out of time", "Nobody answered what you were asked"),
    Topic.WITHDRAWN: ("Withdrawn", "The answer is no longer needed"),
    Topic.COMMENTED: ("Commented", "Somebody wrote under it"),
    Topic.GIVEN_UP: ("Given up", "An execution that concerns you ended as failed, and nothing mends it"),
}
DIGESTS = {
    Digest.IMMEDIATELY: "As it happens",
    Digest.HOURLY: "Once an hour, together",
    Digest.DAILY: "Once a day, together",
}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def preferences(request: HttpRequest) -> HttpResponse:
    """One workspace at a time; the same rules as `PUT /api/v1/notifications/preferences`."""
    user = request.user
    assert isinstance(user, User)  # login_required
    own = list(access.workspaces(user))
    workspace = _chosen(own, request.POST.get("workspace") or request.GET.get("workspace"))
    if workspace is None:
        return render(request, "notify/preferences.html", {"workspaces": []})
    issues: list[str] = []
    if request.method == "POST":
        try:
            _keep(request, user, workspace)
        except InvalidInput as error:
            issues = [str(issue["message"]) for issue in error.issues] or [error.message]
        else:
            messages.success(request, "Saved.")
            return HttpResponseRedirect(f"{request.path}?workspace={workspace.pk}")
    context = _context(user, workspace, request) | {"workspaces": own, "issues": issues}
    return render(request, "notify/preferences.html", context, status=400 if issues else 200)


def _chosen(own: list[Workspace], named: str | None) -> Workspace | None:
    """The workspace that is named, if it is one's own; else the first."""
    return next((each for each in own if str(each.pk) == named), own[0] if own else None)


def _keep(request: HttpRequest, user: User, workspace: Workspace) -> None:
    if "reset" in request.POST:
        wishes.forget(user=user, workspace_id=workspace.pk)
        return
    wishes.put(user=user, workspace_id=workspace.pk, given=_given(request))


def _given(request: HttpRequest) -> Given:
    """
    Raises:
        BadPreferences: a time is none.
    """
    topics = {topic: [c for c in wishes.PERSONAL if f"{topic}:{c}" in request.POST] for topic in Topic.values}
    return Given(
        topics={topic: [str(each) for each in chosen] for topic, chosen in topics.items()},
        quiet_from=_time(request.POST.get("quiet_from", "")),
        quiet_to=_time(request.POST.get("quiet_to", "")),
        zone=request.POST.get("zone", "").strip() or "UTC",
        digest=request.POST.get("digest", Digest.IMMEDIATELY),
    )


def _time(text: str) -> time | None:
    if not text:
        return None
    try:
        return time.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise wishes.BadPreferences(issues=[wishes.issue("/quietHours", "has no such time.")]) from None


def _context(user: User, workspace: Workspace, request: HttpRequest) -> dict[str, Any]:
    choice = wishes.choice_of(user, UUID(str(workspace.pk)))
    return {
        "workspace": workspace,
        "own": choice.own,
        "rows": [
            {
                "topic": topic.value,
                "title": title,
                "note": note,
                "email": choice.wants(topic, Channel.EMAIL),
                "browser": choice.wants(topic, Channel.BROWSER),
                "in_browser": topic != Topic.GIVEN_UP,
            }
            for topic, (title, note) in WORDS.items()
        ],
        "quiet_from": choice.quiet.begins.strftime("%H:%M") if choice.quiet else "",
        "quiet_to": choice.quiet.ends.strftime("%H:%M") if choice.quiet else "",
        "zone": choice.zone,
        "zones": sorted(zone for zone in available_timezones() if "/" in zone or zone == "UTC"),
        "digest": choice.digest,
        "digests": [(each.value, word) for each, word in DIGESTS.items()],
        "address": user.email,
        "mail_is_sent": settings.AGENTFLOW_EMAIL,
    }
