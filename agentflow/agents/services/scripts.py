"""Registering scripts, in numbered versions that never change, and trying them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID, uuid4

from django.db import IntegrityError, transaction

from ...errors import Conflict, InvalidInput
from ...governance import access, audit
from ...governance.access import Principal
from ...governance.models import User
from ...governance.roles import Permission
from ...types import JSONObject, JSONValue
from ...workflow import parts
from .. import checks, invocation, profile, registry
from ..calls import Call, Completed, Failed, Outcome
from ..models import Agent, Language, Script, ScriptVersion, ToolType
from ..selectors import NoSuchScript
from . import changing

TRY_SECONDS = 20.0  # at most: somebody waits for the answer
TRY_LINES = 200


class ScriptExists(Conflict):
    """The workspace already has a script of that name."""

    code = "script_exists"
    remedy = (
        "Choose another name, or add a version to the script there is: POST /api/v1/scripts/{id}/versions."
    )


class ScriptInUse(Conflict):
    """An agent of the workspace runs this script."""

    code = "script_in_use"
    remedy = "Change or delete the agent first."


@dataclass(frozen=True, slots=True)
class ScriptFields:
    """What one version of a script says."""

    source: str
    language: str = Language.PYTHON.value
    timeout_s: float = 30.0
    limits: JSONObject = field(default_factory=dict)  # as in profile.py
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None


@transaction.atomic
def register_script(
    *, by: Principal, workspace_id: UUID, name: str, fields: ScriptFields, description: str = ""
) -> Script:
    """Register a source that Script agents may run, as version 1.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        InvalidInput: with every issue.
        ScriptExists: the name is taken.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    check(fields)
    author = by if isinstance(by, User) else None
    script = Script(
        workspace_id=workspace_id, name=name, description=description, created_by=author, **_stored(fields)
    )
    try:
        with transaction.atomic():
            script.save(force_insert=True)
    except IntegrityError as error:
        raise ScriptExists(name=name) from error
    _keep(script, by=author)
    _told(script, by=by, action="script.register")
    changing.tell(script.workspace_id, script.name)
    return script


@transaction.atomic
def add_version(
    *, by: Principal, pk: UUID, workspace_id: UUID, fields: ScriptFields, description: str | None = None
) -> Script:
    """Give a script its next version; the same again adds none.

    Agents that name no version run it from now on, those that name one run what they ran.

    Raises:
        NoSuchScript: it was deleted a moment ago.
        NotFound, NotPermitted, InvalidInput: as `register_script`.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    check(fields)
    script = Script.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if script is None:
        raise NoSuchScript
    author = by if isinstance(by, User) else None
    _keep(script, by=script.created_by)  # of a script from before there were versions
    changed = {name: value for name, value in _stored(fields).items() if getattr(script, name) != value}
    if description is not None:
        script.description = description
    if changed:
        script.version += 1
        for name, value in changed.items():
            setattr(script, name, value)
    script.save()
    _keep(script, by=author)
    _told(script, by=by, action="script.version")
    changing.tell(script.workspace_id, script.name)
    return script


@transaction.atomic
def delete_script(*, by: Principal, pk: UUID, workspace_id: UUID) -> None:
    """Remove a script that no agent runs, with its versions.

    Raises:
        ScriptInUse: an agent does.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    script = Script.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if script is None:
        return
    users = Agent.objects.filter(workspace_id=workspace_id, configuration__script=script.name)
    names = list(users.values_list("agent_id", flat=True)[:5])
    if names:
        raise ScriptInUse(f"Agents run this script: {', '.join(names)}.")
    _told(script, by=by, action="script.delete")
    changing.tell(script.workspace_id, script.name)
    script.delete()


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying a script: its output, or its failure as a block would have it."""

    outcome: Completed | Failed
    log: list[str]
    ms: float


def try_script(
    *, by: Principal, pk: UUID, workspace_id: UUID, input: JSONValue, version: int | None = None
) -> Trial:
    """Run a version once in the sandbox of this machine, as a block would, for at most `TRY_SECONDS`.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        NoSuchScript: there is no such script, or no such version.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    script = Script.objects.filter(pk=pk, workspace_id=workspace_id).first()
    if script is None or registry.script(workspace_id, script.name, version) is None:
        raise NoSuchScript
    _told(script, by=by, action="script.try", version=version or script.version)
    log: list[str] = []
    call = Call(
        workspace_id=workspace_id,
        execution_id=uuid4(),
        block_id="try",
        attempt=1,
        agent_id=None,
        tool_type=ToolType.SCRIPT.value,
        configuration={"script": script.name, "version": version},
        input=input,
        timeout_s=TRY_SECONDS,
        idempotency_key=f"try:{uuid4()}",
        log=lambda level, line: log.append(line),
    )
    began = time.monotonic()
    outcome: Outcome = invocation.invoke(call)
    assert isinstance(outcome, Completed | Failed)
    return Trial(outcome, log[:TRY_LINES], round((time.monotonic() - began) * 1000, 1))


def check(fields: ScriptFields) -> None:
    """Hold what a manager wrote against every rule.

    Raises:
        InvalidInput: with every issue.
    """
    issues = [
        *_source_issues(fields),
        *parts.read(profile.ScriptLimits, fields.limits, "/limits")[1],
        *checks.schema_issues("/inputSchema", fields.input_schema),
        *checks.schema_issues("/outputSchema", fields.output_schema),
    ]
    if issues:
        raise InvalidInput("The script cannot be registered like this.", issues=issues)


def _source_issues(fields: ScriptFields) -> list[JSONObject]:
    """Only Python is read here; the others' interpreters need not be where this runs."""
    if fields.language != Language.PYTHON:
        return []
    try:
        compile(fields.source, "script", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        message = f"The source is no Python: {line}{said}"[:300]
        return [{"pointer": "/source", "code": "syntax_error", "message": message, "remedy": ""}]
    return []


def _stored(given: ScriptFields) -> dict[str, Any]:
    values = {each.name: getattr(given, each.name) for each in fields(given)}
    return values | {"limits": profile.ScriptLimits.model_validate(given.limits).stored()}


def _keep(script: Script, *, by: User | None) -> None:
    """Write down the script's present version, if that was not done yet; its row is locked or new."""
    values = {each.name: getattr(script, each.name) for each in fields(ScriptFields)}
    ScriptVersion.objects.get_or_create(
        script=script,
        number=script.version,
        defaults={**values, "sha256": script.sha256, "created_by": by},
    )


def _told(script: Script, *, by: Principal, action: str, version: int | None = None) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=script.workspace_id,
        target_type="script",
        target_id=str(script.pk),
        detail={"name": script.name, "version": version or script.version, "sha256": script.sha256},
    )
