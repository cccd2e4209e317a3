"""Registering agents and scripts, and changing them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from uuid import UUID

from django.db import IntegrityError, transaction

from ...errors import Conflict, InvalidInput
from ...governance import access, audit
from ...governance.access import Principal
from ...governance.models import User
from ...governance.roles import Permission
from ...types import JSONObject
from .. import configuration as configurations
from .. import registry
from ..models import Agent, Script, ToolType
from ..selectors import NoSuchAgent


class AgentExists(Conflict):
    """The workspace already has an agent of that agentId."""

    code = "agent_exists"
    remedy = "Choose another agentId, or change the one there is."


class ScriptExists(Conflict):
    """The workspace already has a script of that name."""

    code = "script_exists"
    remedy = "Choose another name: a registered script does not change under those who use it."


class ScriptInUse(Conflict):
    """An agent of the workspace runs this script."""

    code = "script_in_use"
    remedy = "Change or delete the agent first."


class BadAgent(InvalidInput):
    """The agent cannot be registered like this."""

    code = "invalid_agent"


@dataclass(frozen=True, slots=True)
class AgentFields:
    """What a manager writes; a PUT replaces all of it."""

    agent_id: str
    name: str
    tool_type: str
    description: str = ""
    configuration: JSONObject = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    effect: str | None = None
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None
    enabled: bool = True


@transaction.atomic
def register_agent(*, by: Principal, workspace_id: UUID, fields: AgentFields) -> Agent:
    """Add an agent to a workspace.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        BadAgent: with every issue.
        AgentExists: its agentId is taken.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    check(workspace_id, fields)
    author = by if isinstance(by, User) else None
    agent = Agent(workspace_id=workspace_id, created_by=author, **asdict(fields))
    _save(agent)
    _told(agent, by=by, action="agent.register")
    return agent


@transaction.atomic
def update_agent(*, by: Principal, pk: UUID, workspace_id: UUID, fields: AgentFields) -> Agent:
    """Replace what an agent says of itself; hidden secrets stay as they were.

    Raises: as `register_agent`.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:  # deleted a moment ago
        raise NoSuchAgent
    values = asdict(fields)
    values["configuration"] = configurations.restored(fields.configuration, agent.configuration)
    check(workspace_id, AgentFields(**values))
    for name, value in values.items():
        setattr(agent, name, value)
    _save(agent)
    _told(agent, by=by, action="agent.update")
    return agent


@transaction.atomic
def switch_agent(*, by: Principal, pk: UUID, workspace_id: UUID, enabled: bool) -> None:
    """Let an agent be called, or not; safe to repeat."""
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:
        raise NoSuchAgent
    if agent.enabled != enabled:
        agent.enabled = enabled
        agent.save(update_fields=["enabled", "updated_at"])
        _told(agent, by=by, action="agent.switch")


@transaction.atomic
def delete_agent(*, by: Principal, pk: UUID, workspace_id: UUID) -> None:
    """Remove an agent; blocks that name it fail from now on with `unknown_agent`."""
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:
        return
    _told(agent, by=by, action="agent.delete")
    agent.delete()


@transaction.atomic
def register_script(
    *, by: Principal, workspace_id: UUID, name: str, source: str, timeout_s: float, description: str = ""
) -> Script:
    """Register Python source that Script agents may run.

    Raises:
        NotFound, NotPermitted: `by` may not manage the workspace's agents.
        InvalidInput: it is no Python.
        ScriptExists: the name is taken.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    check_source(source)
    author = by if isinstance(by, User) else None
    script = Script(
        workspace_id=workspace_id,
        name=name,
        source=source,
        timeout_s=timeout_s,
        description=description,
        created_by=author,
    )
    try:
        with transaction.atomic():
            script.save(force_insert=True)
    except IntegrityError as error:
        raise ScriptExists(name=name) from error
    audit.record(
        action="script.register",
        by=by,
        workspace_id=workspace_id,
        target_type="script",
        target_id=str(script.pk),
        detail={"name": name, "sha256": script.sha256},
    )
    transaction.on_commit(registry.forget)
    return script


def check_source(source: str) -> None:
    """
    Raises:
        InvalidInput: it is no Python.
    """
    try:
        compile(source, "script", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        issue = {"pointer": "/source", "code": "syntax_error", "message": f"{line}{said}"[:300], "remedy": ""}
        raise InvalidInput("The source is no Python.", issues=[issue]) from None


@transaction.atomic
def delete_script(*, by: Principal, pk: UUID, workspace_id: UUID) -> None:
    """Remove a script that no agent runs.

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
    audit.record(
        action="script.delete",
        by=by,
        workspace_id=workspace_id,
        target_type="script",
        target_id=str(script.pk),
        detail={"name": script.name, "sha256": script.sha256},
    )
    script.delete()
    transaction.on_commit(registry.forget)


def check(workspace_id: UUID, fields: AgentFields) -> None:
    """Hold what a manager wrote against every rule.

    Raises:
        BadAgent: with every issue.
    """
    issues = [
        *configurations.issues(fields.tool_type, fields.configuration),
        *configurations.still_hidden(fields.configuration),
        *configurations.schema_issues("/inputSchema", fields.input_schema),
        *configurations.schema_issues("/outputSchema", fields.output_schema),
    ]
    if fields.agent_id.startswith("builtin."):
        message = "Names that start with builtin. belong to the service."
        issues.append({"pointer": "/agentId", "code": "reserved_name", "message": message, "remedy": ""})
    script = fields.configuration.get("script")
    named = fields.tool_type == ToolType.SCRIPT and isinstance(script, str) and bool(script)
    if named and not Script.objects.filter(workspace_id=workspace_id, name=script).exists():
        issues.append(
            {
                "pointer": "/configuration/script",
                "code": "unknown_script",
                "message": f"There is no registered script {str(script)[:100]!r}.",
                "remedy": "Register it first: POST /api/v1/scripts.",
            }
        )
    if issues:
        raise BadAgent(issues=issues)


def _save(agent: Agent) -> None:
    try:
        with transaction.atomic():
            agent.save()
    except IntegrityError as error:
        raise AgentExists(agent_id=agent.agent_id) from error


def _told(agent: Agent, *, by: Principal, action: str) -> None:
    """Audit without the configuration: it may hold secrets."""
    audit.record(
        action=action,
        by=by,
        workspace_id=agent.workspace_id,
        target_type="agent",
        target_id=str(agent.pk),
        detail={"agentId": agent.agent_id, "toolType": agent.tool_type, "enabled": agent.enabled},
    )
    transaction.on_commit(registry.forget)
