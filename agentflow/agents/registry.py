"""Finds the agent a block names, and what calling it does to the world."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from django.conf import settings
from django.db.models import F, QuerySet
from django.utils.module_loading import import_string

from ..types import JSONObject
from ..workflow.daily import DayBudget, of_day
from . import secrets
from .models import Agent, Effect, Health, Script, ScriptVersion, ToolType
from .profile import Capability, Cost, Limits, Measures, ScriptLimits

BUILTIN = "builtin"
SECONDS_CACHED = 2.0
MOST_CAREFUL = (Effect.ONCE, Effect.KEYED, Effect.PURE)
NOT_SAID, NO_LIMITS, USUAL_MEASURES, USUAL_HOLD = Cost(), Limits(), Measures(), ScriptLimits()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent, without its row."""

    agent_id: str
    tool_type: str  # of ToolType, or builtin
    configuration: JSONObject = field(default_factory=dict)
    effect: str | None = None  # as registered; None: the tool type decides
    enabled: bool = True
    fast: bool = False  # known to finish within a few milliseconds
    function: str = ""  # of a builtin: dotted path
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None
    version: int = 1
    name: str = ""
    description: str = ""
    capabilities: tuple[Capability, ...] = ()
    cost: Cost = NOT_SAID
    limits: Limits = NO_LIMITS
    budget: DayBudget | None = None  # of a day
    measures: Measures = USUAL_MEASURES
    environment: str = ""  # "": may be chosen anywhere
    health: str = Health.UNKNOWN.value
    source_id: UUID | None = None
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ScriptSpec:
    """One version of a registered script, without its row."""

    name: str
    version: int
    language: str
    source: str
    sha256: str
    timeout_s: float
    limits: ScriptLimits = USUAL_HOLD
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None
    network: bool = False  # it asks for one, and its workspace allows it


@dataclass(frozen=True, slots=True)
class WorkspaceSettings:
    """What calls of a workspace's agents go by."""

    egress_allow: tuple[str, ...]
    budget: DayBudget | None  # of a day


class AgentBlock(Protocol):
    """As much of a template's block as the registry looks at."""

    @property
    def agent_id(self) -> str | None: ...
    @property
    def tool_type(self) -> Any: ...
    @property
    def effect(self) -> Any: ...
    @property
    def configuration(self) -> Any: ...
    @property
    def capabilities(self) -> Sequence[str]: ...


class _Cache(Generic[T]):
    """What the database said, for a moment.

    A worker calls the same few agents thousands of times a minute; an operator's change arrives
    within `SECONDS_CACHED`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Any, tuple[float, T]] = {}

    def get(self, key: Any, load: Callable[[], T]) -> T:
        now = time.monotonic()
        held = self._held.get(key)
        if held and held[0] > now:
            return held[1]
        value = load()
        with self._lock:
            if len(self._held) > 10_000:
                self._held.clear()
            self._held[key] = (now + SECONDS_CACHED, value)
        return value

    def clear(self) -> None:
        with self._lock:
            self._held.clear()


_agents: _Cache[AgentSpec | None] = _Cache()
_workspaces: _Cache[tuple[AgentSpec, ...]] = _Cache()
_scripts: _Cache[ScriptSpec | None] = _Cache()
_settings: _Cache[WorkspaceSettings] = _Cache()
_others: _Cache[Any] = _Cache()


def forget() -> None:
    """Drop what is cached in this process, so that a change just made is seen at once."""
    _agents.clear()
    _workspaces.clear()
    _scripts.clear()
    _settings.clear()
    secrets.forget()
    _others.clear()


def cached(key: Any, load: Callable[[], T]) -> T:
    """What `load` gave within the last `SECONDS_CACHED`."""
    found: T = _others.get(key, load)
    return found


def is_builtin(agent_id: str) -> bool:
    return agent_id in settings.AGENTFLOW_BUILTIN_AGENTS


_builtins: dict[str, tuple[dict[str, Any], AgentSpec]] = {}


def builtin(agent_id: str) -> AgentSpec | None:
    entry: dict[str, Any] | None = settings.AGENTFLOW_BUILTIN_AGENTS.get(agent_id)
    if entry is None:
        return None
    made = _builtins.get(agent_id)
    if made is None or made[0] is not entry:
        made = _builtins[agent_id] = entry, _builtin(agent_id, entry)
    return made[1]


def _builtin(agent_id: str, entry: dict[str, Any]) -> AgentSpec:
    return AgentSpec(
        agent_id=agent_id,
        tool_type=BUILTIN,
        effect=entry.get("effect"),
        fast=bool(entry.get("fast", False)),
        function=entry["function"],
        capabilities=tuple(Capability.model_validate(each) for each in entry.get("capabilities", ())),
        limits=Limits.model_validate(entry["limits"]) if "limits" in entry else Limits(),
    )


def builtin_function(spec: AgentSpec) -> Callable[[Any, JSONObject], Any]:
    function: Callable[[Any, JSONObject], Any] = import_string(spec.function)
    return function


def resolve(workspace_id: UUID, agent_id: str) -> AgentSpec | None:
    """The agent of that name in the workspace, enabled or not.  A builtin costs no query."""
    return builtin(agent_id) or _agents.get(
        (workspace_id, agent_id), lambda: _load(workspace_id, [agent_id]).get(agent_id)
    )


def resolve_many(workspace_id: UUID, agent_ids: Iterable[str]) -> dict[str, AgentSpec]:
    """All that exist, in at most one query, whatever is cached."""
    found: dict[str, AgentSpec] = {}
    unknown: list[str] = []
    for agent_id in set(agent_ids):
        spec = builtin(agent_id)
        if spec:
            found[agent_id] = spec
        else:
            unknown.append(agent_id)
    return {**found, **_load(workspace_id, unknown)} if unknown else found


def candidates(workspace_id: UUID) -> tuple[AgentSpec, ...]:
    """All agents of the workspace by name, those switched off among them; one query in two seconds.

    Builtins that say what they can do stand behind them.
    """
    return _workspaces.get(workspace_id, lambda: _candidates(workspace_id))


def _candidates(workspace_id: UUID) -> tuple[AgentSpec, ...]:
    builtins = (builtin(agent_id) for agent_id in sorted(settings.AGENTFLOW_BUILTIN_AGENTS))
    able = (spec for spec in builtins if spec is not None and spec.capabilities)
    return (*_specs(Agent.objects.filter(workspace_id=workspace_id)), *able)


def able(workspace_id: UUID, capabilities: Iterable[str], tool_type: str | None = None) -> list[AgentSpec]:
    """The agents of the workspace that are switched on and have all these capabilities."""
    wanted = set(capabilities)
    return [
        spec
        for spec in candidates(workspace_id)
        if spec.enabled
        and (tool_type is None or spec.tool_type == tool_type)
        and wanted <= {capability.name for capability in spec.capabilities}
    ]


def _load(workspace_id: UUID, agent_ids: Sequence[str]) -> dict[str, AgentSpec]:
    rows = Agent.objects.filter(workspace_id=workspace_id, agent_id__in=agent_ids)
    return {spec.agent_id: spec for spec in _specs(rows)}


_READ = (
    *("agent_id", "tool_type", "configuration", "effect", "enabled", "input_schema", "output_schema"),
    *("version", "name", "description", "environment", "health", "source_id", "gone_at"),
    *("capabilities", "cost", "limits", "measures", "budget"),
)


def _specs(rows: QuerySet[Agent]) -> Iterator[AgentSpec]:
    for row in rows.order_by("agent_id").values(*_READ):
        capabilities = tuple(map(Capability.model_validate, row.pop("capabilities")))
        cost, limits = Cost.model_validate(row.pop("cost")), Limits.model_validate(row.pop("limits"))
        measures, budget = Measures.model_validate(row.pop("measures")), of_day(row.pop("budget"))
        yield AgentSpec(
            **row, capabilities=capabilities, cost=cost, limits=limits, measures=measures, budget=budget
        )


def missing(workspace_id: UUID, agent_ids: Iterable[str]) -> set[str]:
    """Those of the names that no enabled agent of the workspace bears; one query."""
    wanted = set(agent_ids)
    found = resolve_many(workspace_id, wanted)
    return {agent_id for agent_id in wanted if agent_id not in found or not found[agent_id].enabled}


def effect(
    spec: AgentSpec | None, *, tool_type: str | None, configuration: JSONObject, declared: str | None = None
) -> str:
    """What repeating a call may do: `pure`, `keyed` or `once`.

    The block's own word counts first, then the agent's, then its tool type's habit; `once` where nothing
    is known, because only that is safe.
    """
    if declared or (spec and spec.effect):
        return str(declared or (spec and spec.effect))
    merged = merged_configuration(spec, configuration)
    match spec.tool_type if spec else tool_type:
        case ToolType.SCRIPT | ToolType.LLM | ToolType.USE_CASE:
            # A child execution is started once per key by the engine; its own blocks have their own effects.
            return Effect.PURE.value
        case ToolType.API if str(merged.get("method", "GET")).upper() in {"GET", "HEAD"}:
            return Effect.PURE.value
        case ToolType.MCP:
            # Only what was stored with the agent: a server's word about itself at call time is no promise.
            hints = (spec.configuration.get("annotations") if spec else None) or {}
            if hints.get("readOnlyHint") is True:
                return Effect.PURE.value
            return Effect.KEYED.value if hints.get("idempotentHint") is True else Effect.ONCE.value
    return Effect.ONCE.value


def effects(
    workspace_id: UUID, blocks: Sequence[AgentBlock], specs: Mapping[str, AgentSpec] | None = None
) -> list[str]:
    """The effect of each block, in their order, in one query; in none with the agents they name."""
    if specs is None:
        specs = resolve_many(workspace_id, {block.agent_id for block in blocks if block.agent_id})
    return [
        effect(
            specs.get(block.agent_id) if block.agent_id else None,
            tool_type=str(block.tool_type) if block.tool_type else None,
            configuration=dict(block.configuration or {}),
            declared=str(block.effect) if block.effect else None,
        )
        if block.agent_id or (block.tool_type and not block.capabilities)
        else _effect_of_able(workspace_id, block)
        for block in blocks
    ]


def _effect_of_able(workspace_id: UUID, block: AgentBlock) -> str:
    """Of a block whose agent is chosen later: as of the most careful that could be, were it chosen now."""
    if block.effect or not block.capabilities:
        return str(block.effect or Effect.PURE.value)
    tool_type = str(block.tool_type) if block.tool_type else None
    configuration = dict(block.configuration or {})
    known = {
        effect(spec, tool_type=spec.tool_type, configuration=configuration)
        for spec in able(workspace_id, block.capabilities, tool_type)
    }
    return next((each.value for each in MOST_CAREFUL if each in known), Effect.ONCE.value)


# What decides where a call goes and with whose credentials.  Where the agent says it, a template may not
# say otherwise: it would send the agent's credentials to an address of its author's choice.
_AGENT_DECIDES = frozenset(
    {
        "url",
        "method",
        "auth",
        "baseUrl",
        "apiKey",
        "server",
        "tool",
        "script",
        "environment",
        "templateId",
        "annotations",
        "agent",
        "protocolVersion",
        "tenant",
        "parameters",
        "fallbacks",
        "fallbackOn",
        "tools",
        "limits",
    }
)


def merged_configuration(spec: AgentSpec | None, block: JSONObject) -> JSONObject:
    """The block's configuration laid over the agent's; doing it twice changes nothing."""
    if spec is None or not spec.configuration:
        return block
    agent = spec.configuration
    merged = {**agent, **block, **{key: agent[key] for key in _AGENT_DECIDES & agent.keys()}}
    if isinstance(agent.get("headers"), dict):
        of_block = block.get("headers") if isinstance(block.get("headers"), dict) else {}
        of_agent = {name.lower() for name in agent["headers"]}
        merged["headers"] = {
            **agent["headers"],
            **{name: value for name, value in (of_block or {}).items() if name.lower() not in of_agent},
        }
    return merged


def script(workspace_id: UUID, name: str, version: int | None = None) -> ScriptSpec | None:
    """The registered script of that name: that version, or the newest."""
    return _scripts.get((workspace_id, name, version), lambda: _load_script(workspace_id, name, version))


_OF_SCRIPT = ("language", "source", "sha256", "timeout_s", "limits", "input_schema", "output_schema")


def _load_script(workspace_id: UUID, name: str, version: int | None) -> ScriptSpec | None:
    if version is None:
        rows = Script.objects.filter(workspace_id=workspace_id, name=name)
        found = rows.values("version", *_OF_SCRIPT, allowed=F("workspace__script_network")).first()
    else:
        of_script = ScriptVersion.objects.filter(
            script__workspace_id=workspace_id, script__name=name, number=version
        )
        allowed = F("script__workspace__script_network")
        found = of_script.values(*_OF_SCRIPT, version=F("number"), allowed=allowed).first()
    if found is None:
        return None
    limits = ScriptLimits.model_validate(found.pop("limits"))
    return ScriptSpec(name, **found | {"network": found.pop("allowed") and limits.network}, limits=limits)


def egress_allowed(workspace_id: UUID) -> tuple[str, ...]:
    """The workspace's exceptions to "public addresses only", as `EgressPolicy` reads them."""
    return _settings_of(workspace_id).egress_allow


def day_budget(workspace_id: UUID) -> DayBudget | None:
    """What the workspace's agents may use up in a day.  Read with what every call over the network needs."""
    return _settings_of(workspace_id).budget


def _settings_of(workspace_id: UUID) -> WorkspaceSettings:
    return _settings.get(workspace_id, lambda: _load_settings(workspace_id))


def _load_settings(workspace_id: UUID) -> WorkspaceSettings:
    from agentflow.governance.models import Workspace

    found = Workspace.objects.filter(pk=workspace_id).values_list("egress_allow", "budget").first()
    allowed, budget = found or ((), None)
    return WorkspaceSettings(tuple(str(entry) for entry in allowed or ()), of_day(budget))
