"""A workspace's rules for its questions."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from django.db import transaction

from agentflow.errors import InvalidInput
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from ..models import ApprovalPolicy
from .calendars import Calendar, known_country


def policy_of(workspace_id: UUID) -> ApprovalPolicy:
    """The workspace's own, or the defaults."""
    found = ApprovalPolicy.objects.filter(workspace=workspace_id).first()
    return found or ApprovalPolicy(workspace_id=workspace_id)


def calendar_of(policy: ApprovalPolicy) -> Calendar:
    return Calendar(
        zone=policy.zone,
        days=frozenset(policy.working_days),
        begins=policy.day_begins,
        ends=policy.day_ends,
        country=policy.country,
        free=frozenset(date.fromisoformat(day) for day in policy.holidays),
    )


@transaction.atomic
def change(*, workspace_id: UUID, by: User, **fields: Any) -> ApprovalPolicy:
    """Set what is given; questions that are open keep the rules and the times they were asked with.

    Raises:
        InvalidInput: a zone, country, day or hour makes no sense; every one is named.
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    policy = policy_of(workspace_id)
    for name, value in fields.items():
        setattr(policy, name, value)
    if issues := _issues(policy):
        raise InvalidInput("The policy has problems.", issues=issues)
    policy.save()
    audit.record(
        action="approval_policy.change",
        by=by,
        workspace_id=workspace_id,
        target_type="workspace",
        target_id=str(workspace_id),
        detail={
            name: value if isinstance(value, bool | list) else str(value) for name, value in fields.items()
        },
    )
    return policy


def _issues(policy: ApprovalPolicy) -> list[dict[str, Any]]:
    found = []

    def wrong(pointer: str, message: str, remedy: str) -> None:
        found.append({"pointer": pointer, "code": "invalid", "message": message, "remedy": remedy})

    if policy.zone not in available_timezones():
        wrong("/zone", f"There is no time zone {policy.zone!r}.", "Name one such as Europe/Berlin.")
    if not policy.working_days or not set(policy.working_days) <= set(range(1, 8)):
        wrong("/workingDays", "Working days are numbers from 1, Monday, to 7, Sunday.", "Name one at least.")
    if policy.day_begins >= policy.day_ends:
        wrong("/dayEnds", "The day ends before it begins.", "Let it end later; a day does not pass midnight.")
    if policy.country and not known_country(policy.country):
        wrong("/country", f"The holidays of {policy.country!r} are not known.", "Write DE or US-CA, say.")
    return found
