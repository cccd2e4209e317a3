"""What the configuration of an LLM agent says beyond its prompt: fallbacks, tools and limits.

{"model": "large", "fallbacks": [{"model": "small", "baseUrl": "https://...", "apiKey": "${secrets.B}"}],
 "fallbackOn": ["transient", "llm_refused"],
 "tools": ["orders.read", {"agentId": "orders.refund", "name": "refund", "policy": "ask"}],
 "limits": {"maxTurns": 10, "maxTokens": 50000, "maxCost": 0.5, "timeout": 600000}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.functional_validators import model_validator

from ..types import JSONObject
from ..workflow.issues import pointer
from .models import ToolType
from .profile import Cost

FALLBACK_ON = ("transient", "llm_quota_exhausted", "llm_context_too_long", "llm_bad_response")
FALLBACKS_MAX, TOOLS_MAX = 5, 64
_NAME = r"^[A-Za-z0-9_-]{1,64}$"
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")

Issue = tuple[str, str, str, str]  # pointer, code, message, remedy


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        allow_inf_nan=False,
    )


class Fallback(_Part):
    """Who is asked instead.  Without `base_url` it is another model at the same address, with its key."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    base_url: str | None = None
    api_key: str | None = None
    cost: Cost | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Fallback:
        if self.base_url is None and (self.api_key is not None or self.model is None):
            raise ValueError("a fallback names another model, or another baseUrl; a key needs a baseUrl")
        return self


class ToolUse(_Part):
    """An agent of the workspace that the model may call; without `policy` its effect decides."""

    agent_id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: Annotated[str, StringConstraints(pattern=_NAME)] | None = None
    description: Annotated[str, StringConstraints(max_length=4000)] | None = None
    policy: Literal["allow", "ask", "deny"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return {"agentId": value} if isinstance(value, str) else value

    @property
    def called(self) -> str:
        """As the model knows it."""
        return self.name or _UNFIT.sub("_", self.agent_id)[:64]


class LoopLimits(_Part):
    """Where an agent with tools stops, over all its attempts; the time is what its steps took, in ms."""

    max_turns: int = Field(default=20, ge=1, le=200)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    timeout: int | None = Field(default=None, ge=1000)


class LLMConfiguration(_Part):
    """The part of the configuration that is checked as a whole; the rest is read where it is used."""

    fallbacks: Annotated[tuple[Fallback, ...], Field(strict=False, max_length=FALLBACKS_MAX)] = ()
    fallback_on: Annotated[tuple[str, ...], Field(strict=False, max_length=50)] = FALLBACK_ON
    tools: Annotated[tuple[ToolUse, ...], Field(strict=False, max_length=TOOLS_MAX)] = ()
    limits: LoopLimits = LoopLimits()
    stream: bool = False


FIELDS = frozenset(field.alias or name for name, field in LLMConfiguration.model_fields.items())


def read(configuration: JSONObject) -> LLMConfiguration:
    """
    Raises:
        ValidationError: it is not as it must be.
    """
    return LLMConfiguration.model_validate({k: v for k, v in configuration.items() if k in FIELDS})


def tool_agents(configuration: JSONObject) -> list[str]:
    """The agents that are named as tools; none where they are not named as they must be."""
    try:
        return [tool.agent_id for tool in read(configuration).tools] if configuration.get("tools") else []
    except ValidationError:
        return []


def issues(configuration: JSONObject) -> Iterator[Issue]:
    """Everything wrong with these parts, with pointers into the configuration."""
    try:
        found = read(configuration)
    except ValidationError as error:
        for detail in error.errors(include_url=False)[:50]:
            yield _issue(detail)
        return
    names: set[str] = set()
    for index, tool in enumerate(found.tools):
        if tool.called in names:
            message = f"Two tools would be called {tool.called!r}."
            yield f"/tools/{index}", "duplicate", message, "Give one of them another name."
        names.add(tool.called)


def unusable(tool_type: str, configuration: JSONObject) -> str:
    """Why an agent cannot be a tool of another; empty: it can."""
    if tool_type == ToolType.API and configuration.get("callback") is not None:
        return "brings its result later, by callback, for which a tool does not wait."
    return ""


WRAP = "Put it into a template, and name a UseCase agent that runs this one."


def first_problem(error: ValidationError) -> str:
    pointer_, _, message, _ = _issue(error.errors(include_url=False)[0])
    return f"configuration{pointer_}: {message}"


_REMEDIES = {
    "policy": "Write allow, ask or deny.",
    "name": "Use letters, digits, _ and -, 64 at most.",
    "agentId": "Name a registered agent of the workspace.",
    "tools": "Give agentIds, or objects with agentId, name, description and policy.",
    "limits": "Give maxTurns, maxTokens, maxCost and timeout (in ms).",
    "fallbacks": "Give objects with model, baseUrl, apiKey and cost.",
    "stream": "Write true or false.",
}


def _issue(detail: Any) -> Issue:
    place = tuple(detail["loc"])
    where = pointer(*place)
    remedy = next((_REMEDIES[str(each)] for each in reversed(place) if str(each) in _REMEDIES), "")
    match detail["type"]:
        case "missing":
            return where, "required", "This is needed.", remedy
        case "extra_forbidden":
            return where, "unknown_field", "There is no such field here.", remedy or "Remove it."
    code = "wrong_type" if detail["type"].endswith("_type") else "invalid"
    return where, code, f"{detail['msg']}."[:300], remedy
