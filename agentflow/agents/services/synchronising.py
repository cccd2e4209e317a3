"""Bringing the registry up to what a source lists: what is new, what changed, what is gone.

The source is asked outside of any transaction; what it said is then laid beside the rows in one, under the
source's row lock.  A source that cannot be understood changes nothing but its own `error`.  What is gone is
switched off and marked, never deleted, and what runs may go on calling it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from ...errors import Unprocessable
from ...governance import access
from ...governance.access import Principal
from ...governance.roles import Permission
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject
from ...workflow.failures import Failure
from .. import discovery, profile, registry, secrets
from ..builtin import BuiltinFailure
from ..discovery import Found, Listing, Place, Skipped
from ..models import Agent, AgentSource
from ..redaction import Redactor
from ..selectors import NoSuchSource
from . import changing, registration, sources, versions
from .registration import AgentFields, BadAgent
from .sources import SourceFields

LEASE_S = 300  # a clock that died while it looked: another looks after so long
TAKEN_AT_ONCE = 20
NAMED_MAX = 200  # of each kind, in a result


class SourceFailed(Unprocessable):
    """The source cannot be reached, or what it says cannot be understood; nothing was changed."""

    code = "source_failed"


@dataclass
class Report:
    """What a look at a source found, by agentId; `gone` were switched off."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    unchanged: int = 0
    skipped: list[JSONObject] = field(default_factory=list)

    def skip(self, skipped: Skipped) -> None:
        self.skipped.append(
            {"key": skipped.key[:200], "code": skipped.code, "message": skipped.message[:300]}
        )

    @property
    def differs(self) -> bool:
        return bool(self.new or self.changed or self.gone or self.back)

    def as_json(self) -> JSONObject:
        """At most `NAMED_MAX` names of each; `counts` has all."""
        found = {name: value for name, value in asdict(self).items() if isinstance(value, list)}
        counts = {name: len(value) for name, value in found.items()}
        shown = {name: value[:NAMED_MAX] for name, value in found.items()}
        return {**shown, "unchanged": self.unchanged, "counts": counts}


def preview(*, by: Principal, workspace_id: UUID, fields: SourceFields) -> Report:
    """What a source that is not kept yet would bring.

    Raises:
        SourceFailed: it cannot be looked at.
        BadSource: with every issue.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    sources.check(fields)
    source = AgentSource(workspace_id=workspace_id, **asdict(fields))
    return _laid_beside(source, _looked(source), dry=True)


def synchronise(
    *, source_id: UUID, by: Principal | None, workspace_id: UUID | None = None, dry: bool = False
) -> Report:
    """Look at a source and take over what it lists; safe to repeat.  `by=None`: the clock.

    Raises:
        NoSuchSource: it was removed meanwhile.
        SourceFailed: as its `error` now says, unless `dry`.
    """
    rows = AgentSource.objects.filter(pk=source_id)
    source = (rows.filter(workspace_id=workspace_id) if workspace_id else rows).first()
    if source is None:
        raise NoSuchSource
    if by is not None:
        access.require(by, Permission.MANAGE_AGENTS, source.workspace_id)
    try:
        listing = _looked(source)
    except SourceFailed as error:
        if not dry:
            _note_failure(source_id, error)
        raise
    if dry:
        return _laid_beside(source, listing, dry=True)
    with transaction.atomic():
        locked = AgentSource.objects.select_for_update().filter(pk=source_id).first()
        if locked is None:
            raise NoSuchSource
        report = _laid_beside(locked, listing, dry=False)
        now = timezone.now()
        locked.synchronised_at = locked.succeeded_at = now
        locked.failures, locked.error, locked.result = 0, None, report.as_json()
        locked.due_at = _due(locked, now)
        locked.save()
        if report.differs or by is not None:
            counts = report.as_json()["counts"]
            sources.told(locked, by=by, action="agent_source.synchronise", detail={"counts": counts})
        changing.tell(locked.workspace_id)
    return report


@transaction.atomic
def take_due(at_most: int = TAKEN_AT_ONCE) -> list[UUID]:
    """Sources whose time has come, put off so that no other clock takes them meanwhile."""
    now = timezone.now()
    due = AgentSource.objects.filter(enabled=True, interval_s__gt=0, due_at__lte=now).order_by("due_at")
    ids = list(due.select_for_update(skip_locked=True).values_list("pk", flat=True)[:at_most])
    if ids:
        AgentSource.objects.filter(pk__in=ids).update(due_at=now + timedelta(seconds=LEASE_S))
    return ids


def _looked(source: AgentSource) -> Listing:
    redactor = Redactor()
    try:
        own = {"headers": source.configuration.get("headers") or {}}
        known, redactor = secrets.resolve_secrets(source.workspace_id, own)
        place = Place(
            url=source.url,
            server=source.server,
            headers=own["headers"],
            sent=known["headers"],
            configuration=source.configuration,
            policy=EgressPolicy(registry.egress_allowed(source.workspace_id)),
        )
        return discovery.look(source.kind, place)
    except (EgressError, BuiltinFailure) as error:
        raise _failed(redactor.clean_failure(error.failure)) from None


def _failed(failure: Failure) -> SourceFailed:
    issue = {"pointer": "", "code": failure.code, "message": failure.message[:500], "remedy": ""}
    return SourceFailed(f"{SourceFailed.__doc__} {failure.message[:500]}", issues=[issue])


@transaction.atomic
def _note_failure(source_id: UUID, error: SourceFailed) -> None:
    source = AgentSource.objects.select_for_update().filter(pk=source_id).first()
    if source is None:
        return
    said = error.issues[0]
    source.synchronised_at = timezone.now()
    source.failures += 1
    source.error = {"code": said["code"], "message": said["message"].replace("\x00", "\ufffd")}
    source.due_at = _due(source, source.synchronised_at)
    source.save()


def _due(source: AgentSource, now: datetime) -> datetime:
    return now + timedelta(seconds=source.interval_s or LEASE_S)


# -- beside the rows -----------------------------------------------------------


def _laid_beside(source: AgentSource, listing: Listing, *, dry: bool) -> Report:
    report = Report()
    for skipped in listing.skipped:
        report.skip(skipped)
    kept = {} if source._state.adding else _kept(source, lock=not dry)
    for found in listing.found:
        agent = kept.pop(found.key, None)
        try:
            if agent is None:
                _add(source, found, report, dry=dry)
            else:
                _renew(agent, found, report, dry=dry)
        except BadAgent as error:
            said = error.issues[0]
            report.skip(Skipped(found.key, said["code"], f"{said['pointer']}: {said['message']}"))
    # One that is still listed, but broken there just now, is not gone.
    broken = {skipped.key for skipped in listing.skipped}
    for key, agent in kept.items():
        if agent.gone_at is None and key not in broken:
            _lose(agent, report, dry=dry)
    return report


def _kept(source: AgentSource, *, lock: bool) -> dict[str, Agent]:
    rows = Agent.objects.filter(source_id=source.pk).order_by("pk")
    return {agent.source_key: agent for agent in (rows.select_for_update() if lock else rows)}


def _add(source: AgentSource, found: Found, report: Report, *, dry: bool) -> None:
    agent_id = agent_id_of(source, found.key)
    fields = AgentFields(
        agent_id=agent_id,
        name=found.name[:200],
        description=found.description,
        tool_type=found.tool_type,
        configuration=found.configuration,
        capabilities=list(found.capabilities),
        input_schema=found.input_schema,
        output_schema=found.output_schema,
    )
    registration.check(source.workspace_id, fields)
    taken = Agent.objects.filter(workspace_id=source.workspace_id, agent_id=agent_id).first()
    if taken and taken.source_id is None and taken.source_key == found.key and not source._state.adding:
        taken.source_id = source.pk  # its source was removed, and added again
        taken.source_sha256 = ""
        _renew(taken, found, report, dry=dry)
        return
    if taken or agent_id in report.new:
        message = f"The name {agent_id!r} belongs to another agent."
        report.skip(Skipped(found.key, "agent_exists", message))
        return
    if not dry:
        agent = Agent(
            workspace_id=source.workspace_id,
            source_id=source.pk,
            source_key=found.key,
            source_sha256=_sha256(found),
            **registration.stored(fields),
        )
        agent.save()
        versions.keep(agent, by=None)
    report.new.append(agent_id)


def _renew(agent: Agent, found: Found, report: Report, *, dry: bool) -> None:
    """What the source says anew wins; effect, cost, limits and headers of the operator stay."""
    changed, back = agent.source_sha256 != _sha256(found), agent.gone_at is not None
    if not changed and not back:
        report.unchanged += 1
        return
    configuration = {**agent.configuration, **found.configuration}
    if isinstance(found.configuration.get("headers"), dict):
        of_agent = agent.configuration.get("headers") if _same_place(agent, found) else {}
        configuration["headers"] = {**(of_agent or {}), **found.configuration["headers"]}
    values: dict[str, Any] = {
        "name": found.name[:200],
        "description": found.description,
        "tool_type": found.tool_type,
        "configuration": configuration,
        "capabilities": [each.stored() for each in profile.read_capabilities([*found.capabilities])[0]],
        "input_schema": found.input_schema,
        "output_schema": found.output_schema,
    }
    fields = AgentFields(agent_id=agent.agent_id, **values)
    registration.check(agent.workspace_id, fields, before=agent.configuration)
    (report.changed if changed else report.back).append(agent.agent_id)
    if dry:
        return
    before = versions.content(agent)
    for name, value in values.items():
        setattr(agent, name, value)
    agent.source_sha256 = _sha256(found)
    if back:
        agent.enabled, agent.gone_at = agent.on_before_gone, None
    if versions.content(agent) != before:
        agent.version += 1
    agent.save()
    versions.keep(agent, by=None)


def _same_place(agent: Agent, found: Found) -> bool:
    """Whether the calls still go to the server that the operator's headers were meant for."""
    return bool(
        discovery.origin(str(agent.configuration.get("url")))
        == discovery.origin(str(found.configuration.get("url")))
    )


def _lose(agent: Agent, report: Report, *, dry: bool) -> None:
    report.gone.append(agent.agent_id)
    if not dry:
        agent.on_before_gone, agent.enabled, agent.gone_at = agent.enabled, False, timezone.now()
        agent.save(update_fields=["on_before_gone", "enabled", "gone_at", "updated_at"])


def agent_id_of(source: AgentSource, key: str) -> str:
    """The source's prefix, its name without one, and what of the key can stand in a name."""
    prefix = source.configuration.get("prefix")
    start = prefix if isinstance(prefix, str) and prefix else f"{_plain(source.name)[:50]}."
    return f"{start}{_plain(key)}"[:200]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-") or "agent"


def _sha256(found: Found) -> str:
    return versions.sha256(asdict(found))
