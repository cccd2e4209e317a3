"""Registering agents and scripts, and changing them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from ...errors import Conflict, InvalidInput
from ...governance import access, audit
from ...governance.access import Principal
from ...governance.models import User
from ...governance.roles import Permission
from ...types import JSONObject, JSONValue
from ...workflow.daily import DayBudget
from .. import checks, llm_configuration, profile, tool_graph
from .. import configuration as configurations
from ..models import Agent, Script, ToolType
from ..selectors import NoSuchAgent
from . import changing, versions


class AgentExists(Conflict):
    """The workspace already has an agent of that agentId."""

    code = "agent_exists"
    remedy = "Choose another agentId, or change the one there is."


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
    capabilities: list[JSONValue] = field(default_factory=list)  # this and the next five as in profile.py
    cost: JSONObject = field(default_factory=dict)
    limits: JSONObject = field(default_factory=dict)
    health_check: JSONObject = field(default_factory=dict)
    measures: JSONObject = field(default_factory=dict)
    budget: JSONObject = field(default_factory=dict)
    environment: str = ""
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
    agent = Agent(workspace_id=workspace_id, created_by=author, **stored(fields))
    _save(agent)
    versions.keep(agent, by=author)
    _told(agent, by=by, action="agent.register")
    return agent


def update_agent(*, by: Principal, pk: UUID, workspace_id: UUID, fields: AgentFields) -> Agent:
    """Replace what an agent says of itself; hidden secrets stay as they were.

    Raises: as `register_agent`.
    """
    return change_agent(by=by, pk=pk, workspace_id=workspace_id, changes=_values(fields))


@transaction.atomic
def change_agent(*, by: Principal, pk: UUID, workspace_id: UUID, changes: Mapping[str, Any]) -> Agent:
    """Set some of an agent's `AgentFields`, and keep the others and its hidden secrets.

    Another way of being called, or other schemas, make a new version.

    Raises: as `register_agent`.
    """
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:  # deleted a moment ago
        raise NoSuchAgent
    before = versions.content(agent)
    values = {each.name: getattr(agent, each.name) for each in dataclasses.fields(AgentFields)} | dict(
        changes
    )
    values["configuration"] = configurations.restored(values["configuration"], agent.configuration)
    fields = AgentFields(**values)
    check(workspace_id, fields, before=agent.configuration)
    if fields.health_check != agent.health_check:
        agent.health_due_at = timezone.now()
    for name, value in stored(fields).items():
        setattr(agent, name, value)
    if agent.enabled:
        agent.gone_at = None  # somebody knows better than its source
    if versions.content(agent) != before:
        agent.version += 1
    _save(agent)
    versions.keep(agent, by=by if isinstance(by, User) else None)
    _told(agent, by=by, action="agent.update")
    return agent


@transaction.atomic
def switch_agent(*, by: Principal, pk: UUID, workspace_id: UUID, enabled: bool, reason: str = "") -> None:
    """Let an agent be called, or not; safe to repeat."""
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:
        raise NoSuchAgent
    if agent.enabled != enabled:
        agent.enabled = enabled
        agent.gone_at = None if enabled else agent.gone_at
        agent.save(update_fields=["enabled", "gone_at", "updated_at"])
        _told(agent, by=by, action="agent.switch", reason=reason)


@transaction.atomic
def delete_agent(*, by: Principal, pk: UUID, workspace_id: UUID) -> None:
    """Remove an agent; blocks that name it fail from now on with `unknown_agent`."""
    access.require(by, Permission.MANAGE_AGENTS, workspace_id)
    agent = Agent.objects.select_for_update().filter(pk=pk, workspace_id=workspace_id).first()
    if agent is None:
        return
    _told(agent, by=by, action="agent.delete")
    agent.delete()


def check(workspace_id: UUID, fields: AgentFields, *, before: JSONObject | None = None) -> None:
    """Hold what a manager wrote against every rule; `before` is the configuration that there was.

    Raises:
        BadAgent: with every issue.
    """
    issues = [
        *configurations.issues(fields.tool_type, fields.configuration, stored=before),
        *configurations.still_hidden(fields.configuration),
        *checks.schema_issues("/inputSchema", fields.input_schema),
        *checks.schema_issues("/outputSchema", fields.output_schema),
        *profile.issues(
            capabilities=fields.capabilities,
            cost=fields.cost,
            limits=fields.limits,
            health_check=fields.health_check,
            measures=fields.measures,
            budget=fields.budget,
        ),
    ]
    if fields.agent_id.startswith("builtin."):
        message = "Names that start with builtin. belong to the service."
        issues.append({"pointer": "/agentId", "code": "reserved_name", "message": message, "remedy": ""})
    if fields.tool_type == ToolType.SCRIPT:
        issues += _script_issues(workspace_id, fields.configuration)
    if fields.tool_type == ToolType.LLM:
        issues += _tool_issues(workspace_id, fields)
    if issues:
        raise BadAgent(issues=issues)


def _tool_issues(workspace_id: UUID, fields: AgentFields) -> list[JSONObject]:
    """Tools that lead back here, or too deep.  An agent that is named need not be there yet."""
    tools = llm_configuration.tool_agents(fields.configuration)
    known = tool_graph.reached(workspace_id, tools) if tools else {}
    found = []
    for index, tool in enumerate(tools):
        if wrong := tool_graph.problem([tool], known, of=fields.agent_id):
            remedy = "Take it from the tools, or change the tools of the agents below it."
            found.append(_wrong(f"tools/{index}", *wrong, remedy))
    return found


def _script_issues(workspace_id: UUID, configuration: JSONObject) -> list[JSONObject]:
    name, version = configuration.get("script"), configuration.get("version")
    if not isinstance(name, str) or not name:
        return []  # said already
    found = Script.objects.filter(workspace_id=workspace_id, name=name).first()
    if found is None:
        message = f"There is no registered script {name[:100]!r}."
        return [_wrong("script", "unknown_script", message, "Register it first: POST /api/v1/scripts.")]
    numbers = range(1, found.version + 1)
    if version is None or (type(version) is int and version in numbers):
        return []
    message = f"The script {name[:100]!r} has the versions 1 to {found.version}."
    remedy = "Name one of them, or leave it out for the newest."
    return [_wrong("version", "unknown_script_version", message, remedy)]


def _wrong(field: str, code: str, message: str, remedy: str) -> JSONObject:
    return {"pointer": f"/configuration/{field}", "code": code, "message": message, "remedy": remedy}


def _values(fields: AgentFields) -> dict[str, Any]:
    return {each.name: getattr(fields, each.name) for each in dataclasses.fields(fields)}


def stored(fields: AgentFields) -> dict[str, Any]:
    """The values of the row, once they are checked: each part in one spelling, without defaults."""
    return _values(fields) | {
        "capabilities": [each.stored() for each in profile.read_capabilities(fields.capabilities)[0]],
        "cost": profile.Cost.model_validate(fields.cost).stored(),
        "limits": profile.Limits.model_validate(fields.limits).stored(),
        "health_check": profile.HealthCheck.model_validate(fields.health_check).stored(),
        "measures": profile.Measures.model_validate(fields.measures).stored(),
        "budget": DayBudget.model_validate(fields.budget).stored(),
    }


def _save(agent: Agent) -> None:
    try:
        with transaction.atomic():
            agent.save()
    except IntegrityError as error:
        raise AgentExists(agent_id=agent.agent_id) from error


def _told(agent: Agent, *, by: Principal, action: str, reason: str = "") -> None:
    """Audit without the configuration: it may hold secrets."""
    audit.record(
        action=action,
        by=by,
        workspace_id=agent.workspace_id,
        target_type="agent",
        target_id=str(agent.pk),
        detail={
            "agentId": agent.agent_id,
            "toolType": agent.tool_type,
            "enabled": agent.enabled,
            "version": agent.version,
            **({"reason": reason} if reason else {}),
        },
    )
    changing.tell(agent.workspace_id, agent.agent_id)
