"""Addresses that a workspace is told at: added, changed, removed by its administrators."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from agentflow.errors import InvalidInput
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow import secret_references

from . import selectors
from .models import NAME_CHARS, Target, all_topics
from .states import Channel, Topic

CHANNELS = (Channel.WEBHOOK, Channel.SLACK)
URL_CHARS = 2000
LEVELS_MOST = 100


class BadTarget(InvalidInput):
    """The target cannot be kept like this."""

    code = "invalid_target"
    remedy = "Mend what the issues name."


@dataclass(frozen=True, slots=True)
class TargetFields:
    name: str
    channel: str
    url: str
    secret: str = ""
    topics: list[str] = field(default_factory=all_topics)
    levels: list[str] = field(default_factory=list)
    enabled: bool = True


@transaction.atomic
def add(*, by: User, workspace_id: UUID, fields: TargetFields) -> Target:
    """
    Raises:
        NotFound, NotPermitted: `by` does not administer the workspace.
        BadTarget: with every issue.
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    check(fields, workspace_id=workspace_id)
    target = Target.objects.create(workspace_id=workspace_id, **asdict(fields))
    _record("notification_target.add", target, by)
    return target


@transaction.atomic
def change(*, by: User, pk: UUID, fields: TargetFields) -> Target:
    """Put these fields in place of what it has.

    Raises:
        NoSuchTarget, NotPermitted, BadTarget
    """
    target = selectors.target(by, pk)
    check(fields, workspace_id=target.workspace_id, but=pk)
    for name, value in asdict(fields).items():
        setattr(target, name, value)
    target.save()
    _record("notification_target.change", target, by)
    return target


@transaction.atomic
def remove(*, by: User, pk: UUID) -> None:
    """Remove a target, and what was sent to it or is to be."""
    target = selectors.target(by, pk)
    _record("notification_target.remove", target, by)
    target.delete()


def check(fields: TargetFields, *, workspace_id: UUID, but: UUID | None = None) -> None:
    """
    Raises:
        BadTarget
    """
    issues: list[JSONObject] = []
    if not fields.name.strip() or len(fields.name) > NAME_CHARS:
        issues.append(_issue("/name", f"must have 1 to {NAME_CHARS} characters."))
    elif _others(but).filter(workspace=workspace_id, name=fields.name).exists():
        issues.append(_issue("/name", "is taken by another target of the workspace."))
    if fields.channel not in CHANNELS:
        issues.append(_issue("/channel", f"is none of {', '.join(CHANNELS)}."))
    whole = fields.url.startswith("${secrets.") and secret_references.names(fields.url)
    if len(fields.url) > URL_CHARS or not (whole or fields.url.startswith(("https://", "http://"))):
        issues.append(_issue("/url", "must begin with https://, http:// or be a secret, ${secrets.NAME}."))
    issues += _secret_issues(fields)
    issues += [
        _issue(f"/topics/{index}", f"is none of {', '.join(Topic.values)}.")
        for index, topic in enumerate(fields.topics)
        if topic not in Topic.values
    ]
    if len(fields.levels) > LEVELS_MOST:
        issues.append(_issue("/levels", f"are more than {LEVELS_MOST}."))
    if issues:
        raise BadTarget(issues=issues)


def _others(but: UUID | None) -> QuerySet[Target]:
    return Target.objects.all() if but is None else Target.objects.exclude(pk=but)


def _secret_issues(fields: TargetFields) -> list[JSONObject]:
    """What signs is a reference: in clear it would stand in the row, and in every backup."""
    if fields.channel != Channel.WEBHOOK:
        return [_issue("/secret", "is for webhooks only.")] if fields.secret else []
    names = secret_references.names(fields.secret)
    if len(names) != 1 or fields.secret != f"${{secrets.{next(iter(names))}}}":
        return [_issue("/secret", "must refer to a secret of the workspace: ${secrets.NAME}.")]
    return []


def _issue(at: str, message: str) -> JSONObject:
    return {"pointer": at, "code": "invalid", "message": f"{at.split('/')[1]} {message}", "remedy": ""}


def _record(action: str, target: Target, by: User) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=target.workspace_id,
        target_type="notification_target",
        target_id=str(target.pk),
        detail={"name": target.name, "channel": target.channel, "enabled": target.enabled},
    )
