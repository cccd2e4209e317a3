"""What an agent says of itself beside its configuration: what it can do, costs and bears.

Stored in camelCase as on the wire, without what is at its default:

    capabilities [{"name": "invoice.extract", "tags": ["pdf"], "inputSchema": {"type": "object"}}]
    cost {"perCall": 0.01, "perInputToken": 2e-6, "currency": "EUR"}
    limits {"concurrency": 4, "ratePerMinute": 120}
    healthCheck {"url": "https://api.example/health", "intervalSeconds": 30, "failures": 3}
    measures {"circuit": {"failureRate": 0.2, "slowMs": 2000}, "outsideWeight": 0.5}
    budget {"cost": 20, "currency": "EUR", "whenSpent": "wait"}: of a day, as `workflow.daily` has it
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field, StringConstraints
from pydantic.functional_validators import model_validator

from ..types import JSONObject, JSONValue
from ..workflow import daily
from ..workflow.definition import Name
from ..workflow.parts import Part, read, said
from .checks import address_problem, schema_issues

CAPABILITIES_MAX = 200

Tag: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Price: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]


class Capability(Part):
    """Something an agent can do, by the name that a block asks for it with."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=4000)] = ""
    tags: Annotated[tuple[Tag, ...], Field(strict=False, max_length=50)] = ()
    input_schema: JSONObject | None = None
    output_schema: JSONObject | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Cost(Part):
    """What using an agent costs; None: not said."""

    per_call: Price | None = None
    per_input_token: Price | None = None
    per_output_token: Price | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"

    @property
    def priced(self) -> bool:
        return (self.per_call, self.per_input_token, self.per_output_token) != (None, None, None)


class Limits(Part):
    """How much an agent bears at once, of all workers together; None: as much as comes."""

    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    rate_per_minute: int | None = Field(default=None, ge=1, le=10_000_000)


class HealthCheck(Part):
    """How an agent's health is looked at; without `interval_seconds` as often as the installation says."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = None
    interval_seconds: int | None = Field(default=None, ge=5, le=7 * 86400)
    failures: int = Field(default=3, ge=1, le=100)  # in a row, before it counts as unhealthy


class CircuitRules(Part):
    """When the agent's circuit opens, and for how long."""

    enabled: bool = True
    window_seconds: int = Field(default=60, ge=1, le=3600)
    minimum_calls: int = Field(default=10, ge=1, le=100_000)  # in the window, before a rate counts
    failure_rate: float = Field(default=0.5, gt=0, le=1)
    slow_ms: float | None = Field(default=None, ge=1, le=1e9)  # a call that takes as long is slow
    slow_rate: float = Field(default=0.8, gt=0, le=1)
    unreachable_calls: int = Field(default=2, ge=1, le=1000)  # in a row that reached nobody
    cooldown_seconds: float = Field(default=5.0, ge=0.1, le=86400)
    cooldown_growth: float = Field(default=2.0, ge=1, le=10)
    cooldown_max_seconds: float = Field(default=120.0, ge=0.1, le=86400)
    probe_seconds: float = Field(default=30.0, ge=1, le=86400)  # then another may be let through
    patience_seconds: float = Field(default=1800.0, ge=0, le=30 * 86400)  # that blocks wait for it to close


class Measures(Part):
    """How an agent is measured; `outside_weight` is what a measurement from outside counts beside our own."""

    circuit: CircuitRules = CircuitRules()
    outside_weight: float | None = Field(default=None, ge=0, le=10)


class ScriptLimits(Part):
    """What one run of a script may use.  `network` counts only where its workspace allows it."""

    cpu_seconds: float | None = Field(default=None, ge=0.1, le=3600)  # None: the time-out
    memory_mb: int = Field(default=512, ge=16, le=4096)
    file_mb: int = Field(default=16, ge=1, le=1024)  # one file
    open_files: int = Field(default=64, ge=16, le=1024)
    processes: int = Field(default=16, ge=1, le=256)  # and threads
    output_kb: int = Field(default=8192, ge=1, le=8192)
    network: bool = False


def read_capabilities(values: list[JSONValue]) -> tuple[tuple[Capability, ...], list[JSONObject]]:
    """All that are sound, and everything wrong with the others; a name counts once."""
    found: dict[str, Capability] = {}
    issues: list[JSONObject] = []
    if len(values) > CAPABILITIES_MAX:
        message = f"There are more than {CAPABILITIES_MAX} capabilities."
        return (), [said("/capabilities", "too_many", message)]
    for index, value in enumerate(values):
        at = f"/capabilities/{index}"
        capability, wrong = read(Capability, value, at)
        issues += wrong
        if capability is None:
            continue
        issues += schema_issues(f"{at}/inputSchema", capability.input_schema)
        issues += schema_issues(f"{at}/outputSchema", capability.output_schema)
        if capability.name in found:
            issues.append(said(at, "duplicate", f"The capability {capability.name[:100]!r} is there twice."))
        found[capability.name] = capability
    return tuple(found.values()), issues


def issues(
    *,
    capabilities: list[JSONValue],
    cost: JSONObject,
    limits: JSONObject,
    health_check: JSONObject,
    measures: JSONObject,
    budget: JSONObject,
) -> list[JSONObject]:
    """Everything wrong with an agent's words about itself, as issues with JSON pointers."""
    check, wrong = read(HealthCheck, health_check, "/healthCheck")
    if check is not None and check.url is not None and (problem := address_problem(check.url)):
        wrong.append(said("/healthCheck/url", "bad_address", problem))
    return [
        *read_capabilities(capabilities)[1],
        *read(Cost, cost, "/cost")[1],
        *read(Limits, limits, "/limits")[1],
        *read(Measures, measures, "/measures")[1],
        *daily.issues(budget),
        *wrong,
    ]
