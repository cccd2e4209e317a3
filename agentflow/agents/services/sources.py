"""Keeping the sources of agents: adding, changing, removing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from ...errors import Conflict, InvalidInput
from ...governance import access, audit
from ...governance.access import Principal
from ...governance.models import User
from ...governance.roles import Permission
from ...types import JSONObject, JSONValue
from .. import checks
from .. import configuration as configurations
from ..models import AgentSource, SourceKind
from ..selectors import NoSuchSource


class SourceExists(Conflict):
    """The workspace already has a source of that name."""

    code = "source_exists"
    remedy = "Choose another name, or change the one there is."


class BadSource(InvalidInput):
    """The source cannot be kept like this."""

    code = "invalid_source"


@dataclass(frozen=True, slots=True)
class SourceFields:
    """What a manager writes of a source."""

    kind: str
    name: str
    url: str = ""
    server: str = ""
    configuration: JSONObject = field(default_factory=dict)
    interval_s: int = 3600
    enabled: bool = True


@transaction.atomic
def add(*, by: Principal, workspace_id: UUID, fields: SourceFields) -> AgentSource:
    """Keep a source; the clock looks at it from now on.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        BadSource: with every issue.
        SourceExists: its name is taken.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    check(fields)
    author = by if isinstance(by, User) else None
    source = AgentSource(workspace_id=workspace_id, created_by=author, **_values(fields))
    _save(source)
    told(source, by=by, action="agent_source.add")
    return source


@transaction.atomic
def change(*, by: Principal, pk: UUID, workspace_id: UUID, changes: Mapping[str, Any]) -> AgentSource:
    """Set some `SourceFields`, keep the others and hidden secrets; it is due at once.

    Raises: as `add`.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    source = _locked(pk, workspace_id)
    values = {each.name: getattr(source, each.name) for each in dataclasses.fields(SourceFields)}
    values |= dict(changes)
    before = {**source.configuration, "url": source.url}
    given = {**values["configuration"], "url": values["url"]}
    restored = configurations.restored(given, before)
    values["configuration"] = {name: value for name, value in restored.items() if name != "url"}
    fields = SourceFields(**values)
    check(fields)
    for name, value in _values(fields).items():
        setattr(source, name, value)
    source.due_at = timezone.now()
    _save(source)
    told(source, by=by, action="agent_source.change")
    return source


@transaction.atomic
def remove(*, by: Principal, pk: UUID, workspace_id: UUID) -> None:
    """Forget a source; its agents stay, as if entered by hand."""
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    source = _locked(pk, workspace_id)
    told(source, by=by, action="agent_source.remove")
    source.delete()


def check(fields: SourceFields) -> None:
    """
    Raises:
        BadSource: with every issue.
    """
    issues = [*_place_issues(fields), *configurations.still_hidden(fields.configuration)]
    issues += configurations.credential_issues(fields.configuration)
    configuration = fields.configuration
    known = {"headers", "prefix"} | (
        {"operations", "baseUrl"} if fields.kind == SourceKind.OPENAPI else set()
    )
    for name in sorted(set(configuration) - known):
        message = f"There is no such field; the fields are: {', '.join(sorted(known))}."
        issues.append(_issue(f"/configuration/{name[:100]}", "unknown_field", message))
    if not _texts(configuration.get("headers", {})):
        issues.append(_issue("/configuration/headers", "wrong_type", "headers is an object of texts."))
    prefix = configuration.get("prefix", "")
    if not isinstance(prefix, str) or len(prefix) > 50 or prefix.startswith("builtin."):
        issues.append(
            _issue("/configuration/prefix", "invalid", "prefix is a text of at most 50 characters.")
        )
    operations = configuration.get("operations", [])
    if not isinstance(operations, list) or not all(isinstance(each, str) for each in operations):
        issues.append(_issue("/configuration/operations", "wrong_type", "operations is a list of texts."))
    base = configuration.get("baseUrl")
    if base is not None and (problem := checks.address_problem(base)):
        issues.append(_issue("/configuration/baseUrl", "bad_address", problem))
    if fields.interval_s and not 30 <= fields.interval_s <= 30 * 86400:
        issues.append(_issue("/intervalSeconds", "invalid", "0 (by hand), or from 30 seconds to 30 days."))
    if issues:
        raise BadSource(issues=issues)


def _place_issues(fields: SourceFields) -> list[JSONObject]:
    if fields.kind == SourceKind.MCP and fields.server and not fields.url:
        if fields.server in settings.AGENTFLOW_MCP_STDIO:
            return []
        names = ", ".join(sorted(settings.AGENTFLOW_MCP_STDIO)) or "none"
        message = f"There is no MCP server of that name; configured are: {names}."
        return [_issue("/server", "unknown_mcp_server", message)]
    if fields.server:
        return [_issue("/server", "invalid", "Only an MCP source has a server, and then no url.")]
    problem = checks.address_problem(fields.url)
    return [_issue("/url", "bad_address", problem)] if problem else []


def _issue(pointer: str, code: str, message: str) -> JSONObject:
    return {"pointer": pointer, "code": code, "message": message, "remedy": ""}


def _texts(value: JSONValue) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _values(fields: SourceFields) -> dict[str, Any]:
    return {each.name: getattr(fields, each.name) for each in dataclasses.fields(fields)}


def _locked(pk: UUID, workspace_id: UUID) -> AgentSource:
    source = AgentSource.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if source is None:
        raise NoSuchSource
    return source


def _save(source: AgentSource) -> None:
    try:
        with transaction.atomic():
            source.save()
    except IntegrityError as error:
        raise SourceExists(name=source.name) from error


def told(source: AgentSource, *, by: Principal | None, action: str, detail: JSONObject | None = None) -> None:
    """Audit without the configuration: it may hold secrets."""
    audit.record(
        action=action,
        by=by,
        workspace_id=source.workspace_id,
        target_type="agent_source",
        target_id=str(source.pk),
        detail={"name": source.name, "kind": source.kind, **(detail or {})},
    )
