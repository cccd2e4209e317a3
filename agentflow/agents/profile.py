"""What an agent says of itself beside its configuration: what it can do, costs and bears.

Stored in camelCase as on the wire, without what is at its default:

    capabilities [{"name": "invoice.extract", "tags": ["pdf"], "inputSchema": {"type": "object"}}]
    cost {"perCall": 0.01, "perInputToken": 2e-6, "currency": "EUR"}
    limits {"concurrency": 4, "ratePerMinute": 120}
    healthCheck {"url": "https://api.example/health", "intervalSeconds": 30, "failures": 3}
    measures {"circuit": {"failureRate": 0.2, "slowMs": 2000}, "outsideWeight": 0.5}
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.functional_validators import model_validator
from pydantic_core import ErrorDetails

from ..types import JSONObject, JSONValue
from ..workflow.definition import Name, pointer
from .checks import address_problem, schema_issues

CAPABILITIES_MAX = 200

Tag: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Price: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        allow_inf_nan=False,
    )

    def stored(self) -> JSONObject:
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class Capability(_Part):
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


class Cost(_Part):
    """What using an agent costs; None: not said."""

    per_call: Price | None = None
    per_input_token: Price | None = None
    per_output_token: Price | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"

    @property
    def priced(self) -> bool:
        return (self.per_call, self.per_input_token, self.per_output_token) != (None, None, None)


class Limits(_Part):
    """How much an agent bears at once, of all workers together; None: as much as comes."""

    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    rate_per_minute: int | None = Field(default=None, ge=1, le=10_000_000)


class HealthCheck(_Part):
    """How an agent's health is looked at; without `interval_seconds` as often as the installation says."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = None
    interval_seconds: int | None = Field(default=None, ge=5, le=7 * 86400)
    failures: int = Field(default=3, ge=1, le=100)  # in a row, before it counts as unhealthy


class CircuitRules(_Part):
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


class Measures(_Part):
    """How an agent is measured; `outside_weight` is what a measurement from outside counts beside our own."""

    circuit: CircuitRules = CircuitRules()
    outside_weight: float | None = Field(default=None, ge=0, le=10)


class ScriptLimits(_Part):
    """What one run of a script may use.  `network` counts only where its workspace allows it."""

    cpu_seconds: float | None = Field(default=None, ge=0.1, le=3600)  # None: the time-out
    memory_mb: int = Field(default=512, ge=16, le=4096)
    file_mb: int = Field(default=16, ge=1, le=1024)  # one file
    open_files: int = Field(default=64, ge=16, le=1024)
    processes: int = Field(default=16, ge=1, le=256)  # and threads
    output_kb: int = Field(default=8192, ge=1, le=8192)
    network: bool = False


P = TypeVar("P", bound=_Part)


def read(kind: type[P], value: JSONValue, at: str) -> tuple[P | None, list[JSONObject]]:
    """The part, or everything wrong with it, as issues below the pointer `at`."""
    try:
        return kind.model_validate(value), []
    except ValidationError as error:
        return None, [_issue(detail, at) for detail in error.errors(include_url=False)[:50]]


def read_capabilities(values: list[JSONValue]) -> tuple[tuple[Capability, ...], list[JSONObject]]:
    """All that are sound, and everything wrong with the others; a name counts once."""
    found: dict[str, Capability] = {}
    issues: list[JSONObject] = []
    if len(values) > CAPABILITIES_MAX:
        message = f"There are more than {CAPABILITIES_MAX} capabilities."
        return (), [_said("/capabilities", "too_many", message)]
    for index, value in enumerate(values):
        at = f"/capabilities/{index}"
        capability, wrong = read(Capability, value, at)
        issues += wrong
        if capability is None:
            continue
        issues += schema_issues(f"{at}/inputSchema", capability.input_schema)
        issues += schema_issues(f"{at}/outputSchema", capability.output_schema)
        if capability.name in found:
            issues.append(_said(at, "duplicate", f"The capability {capability.name[:100]!r} is there twice."))
        found[capability.name] = capability
    return tuple(found.values()), issues


def issues(
    *,
    capabilities: list[JSONValue],
    cost: JSONObject,
    limits: JSONObject,
    health_check: JSONObject,
    measures: JSONObject,
) -> list[JSONObject]:
    """Everything wrong with an agent's words about itself, as issues with JSON pointers."""
    check, wrong = read(HealthCheck, health_check, "/healthCheck")
    if check is not None and check.url is not None and (problem := address_problem(check.url)):
        wrong.append(_said("/healthCheck/url", "bad_address", problem))
    return [
        *read_capabilities(capabilities)[1],
        *read(Cost, cost, "/cost")[1],
        *read(Limits, limits, "/limits")[1],
        *read(Measures, measures, "/measures")[1],
        *wrong,
    ]


def _issue(detail: ErrorDetails, at: str) -> JSONObject:
    where = at + pointer(*detail["loc"]) if detail["loc"] else at
    match detail["type"]:
        case "missing":
            return _said(where, "required", "This is needed.")
        case "extra_forbidden":
            return _said(where, "unknown_field", "There is no such field here.")
        case "model_type" | "dict_type":
            return _said(where, "wrong_type", "Must be an object.")
    code = "wrong_type" if detail["type"].endswith("_type") else "invalid"
    return _said(where, code, f"{detail['msg']}."[:300])


def _said(at: str, code: str, message: str) -> JSONObject:
    return {"pointer": at, "code": code, "message": message, "remedy": ""}
