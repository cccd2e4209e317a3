"""What people want to be told, and how: their own choice, or their workspace's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import time
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from django.db import transaction

from agentflow.errors import InvalidInput
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from .models import UserNotifications, Wishes, WorkspaceNotifications, all_stakeholders, default_topics
from .moments import Quiet
from .states import Channel, Digest, Topic

PERSONAL = (Channel.EMAIL, Channel.BROWSER)  # webhooks and chats belong to workspaces


class BadPreferences(InvalidInput):
    """The preferences cannot be kept like this."""

    code = "invalid_preferences"
    remedy = "Mend what the issues name."


@dataclass(frozen=True, slots=True)
class Choice:
    """What holds for one person in one workspace."""

    topics: Mapping[str, Collection[str]]
    quiet: Quiet | None
    zone: str
    digest: str
    own: bool  # else the workspace's

    def wants(self, topic: str, channel: str) -> bool:
        return channel in self.topics.get(topic, ())

    @property
    def zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.zone)


@dataclass(frozen=True, slots=True)
class Given:
    """What is to be kept."""

    topics: dict[str, list[str]]
    quiet_from: time | None = None
    quiet_to: time | None = None
    zone: str = "UTC"
    digest: str = Digest.IMMEDIATELY


def choices(user_ids: Collection[int], workspace_ids: Collection[UUID]) -> dict[tuple[int, UUID], Choice]:
    """For each of these people in each of these workspaces, in two queries."""
    own = {
        (row.user_id, row.workspace_id): _choice(row, own=True)
        for row in UserNotifications.objects.filter(user__in=user_ids, workspace__in=workspace_ids)
    }
    rows = WorkspaceNotifications.objects.filter(workspace__in=workspace_ids)
    general = {row.workspace_id: _choice(row, own=False) for row in rows}
    built_in = _choice(WorkspaceNotifications(), own=False)
    return {
        (user_id, workspace_id): own.get((user_id, workspace_id)) or general.get(workspace_id, built_in)
        for user_id in user_ids
        for workspace_id in workspace_ids
    }


def choice_of(user: User, workspace_id: UUID) -> Choice:
    return choices([user.pk], [workspace_id])[user.pk, workspace_id]


def rules_of(workspace_id: UUID) -> WorkspaceNotifications:
    """The workspace's row, or what holds without one."""
    found = WorkspaceNotifications.objects.filter(workspace=workspace_id).first()
    return found or WorkspaceNotifications(workspace_id=workspace_id)


@transaction.atomic
def put(*, user: User, workspace_id: UUID, given: Given) -> Choice:
    """Keep a person's own choice.

    Raises:
        NotFound: they do not belong to the workspace.
        BadPreferences: with every issue.
    """
    access.require(user, Permission.VIEW, workspace_id)
    check(given)
    UserNotifications.objects.update_or_create(user=user, workspace_id=workspace_id, defaults=_columns(given))
    _record("notification_preferences.set", user, workspace_id, given)
    return choice_of(user, workspace_id)


@transaction.atomic
def forget(*, user: User, workspace_id: UUID) -> Choice:
    """Go back to what the workspace says."""
    access.require(user, Permission.VIEW, workspace_id)
    removed, _ = UserNotifications.objects.filter(user=user, workspace=workspace_id).delete()
    if removed:
        _record("notification_preferences.reset", user, workspace_id, None)
    return choice_of(user, workspace_id)


@transaction.atomic
def put_rules(
    *,
    by: User,
    workspace_id: UUID,
    given: Given,
    link_hours: int,
    login_kinds: list[str],
    login_levels: list[str],
    stakeholders: list[str] | None = None,
) -> WorkspaceNotifications:
    """Keep a workspace's defaults and its rules for links.

    Raises:
        NotFound, NotPermitted: `by` does not administer the workspace.
        BadPreferences: with every issue.
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    check(given)
    row, _ = WorkspaceNotifications.objects.update_or_create(
        workspace_id=workspace_id,
        defaults={
            **_columns(given),
            "link_hours": link_hours,
            "login_kinds": login_kinds,
            "login_levels": login_levels,
            "stakeholders": all_stakeholders() if stakeholders is None else stakeholders,
        },
    )
    _record("notification_defaults.set", by, workspace_id, given)
    return row


def check(given: Given) -> None:
    """
    Raises:
        BadPreferences
    """
    issues: list[JSONObject] = []
    for topic, channels in given.topics.items():
        if topic not in Topic.values:
            issues.append(issue(f"/topics/{topic}", f"is none of {', '.join(Topic.values)}."))
            continue
        issues += [
            issue(f"/topics/{topic}/{index}", f"is none of {', '.join(PERSONAL)}.")
            for index, channel in enumerate(channels)
            if channel not in PERSONAL
        ]
    if (given.quiet_from is None) != (given.quiet_to is None):
        issues.append(issue("/quietHours", "needs both from and to."))
    elif given.quiet_from is not None and given.quiet_from == given.quiet_to:
        issues.append(issue("/quietHours", "must not begin and end at the same time."))
    if given.zone not in available_timezones():
        issues.append(issue("/zone", "is no time zone such as Europe/Berlin."))
    if given.digest not in Digest.values:
        issues.append(issue("/digest", f"is none of {', '.join(Digest.values)}."))
    if issues:
        raise BadPreferences(issues=issues)


def _choice(row: Wishes, *, own: bool) -> Choice:
    quiet = None
    if row.quiet_from is not None and row.quiet_to is not None:
        quiet = Quiet(row.quiet_from, row.quiet_to)
    return Choice(
        topics={**default_topics(), **row.topics}, quiet=quiet, zone=row.zone, digest=row.digest, own=own
    )


def _columns(given: Given) -> dict[str, Any]:
    return {
        "topics": {topic: list(dict.fromkeys(channels)) for topic, channels in given.topics.items()},
        "quiet_from": given.quiet_from,
        "quiet_to": given.quiet_to,
        "zone": given.zone,
        "digest": given.digest,
    }


def issue(at: str, message: str) -> JSONObject:
    return {"pointer": at, "code": "invalid", "message": f"{at.rsplit('/', 1)[-1]} {message}", "remedy": ""}


def _record(action: str, by: User, workspace_id: UUID, given: Given | None) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=workspace_id,
        target_type="notifications",
        target_id=str(by.pk if action.startswith("notification_preferences") else workspace_id),
        detail={} if given is None else {"digest": str(given.digest), "zone": given.zone},
    )
