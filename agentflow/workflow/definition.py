"""A workflow definition: the one model of what a template says, checked field by field.

`parse` turns JSON into a `Definition` or names everything that is malformed.  What needs more than
one field to be seen (cycles, unknown dependencies, expressions) is `validation.check`'s work.

    {"name": "Refund", "blocks": [{"blockId": "score", "agentId": "risk"},
                                  {"blockId": "pay", "agentId": "bank", "dependencies": ["score"]}]}

Durations are milliseconds.  `null` for an optional field means that the field is absent.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import sys
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.functional_validators import model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from agentflow.conf import KB, LIMITS
from agentflow.errors import InvalidInput
from agentflow.types import JSONObject, JSONValue

MAX_DURATION_MS = 10 * 365 * 24 * 3600 * 1000  # ten years: far from where dates overflow
MAX_ISSUES = 1000
NAME_CHARS = 200

Identifier: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.block_id_chars)]
Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS)]
Level: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", max_length=NAME_CHARS)]
Duration: TypeAlias = Annotated[int, Field(ge=1, le=MAX_DURATION_MS)]
Delay: TypeAlias = Annotated[int, Field(ge=0, le=MAX_DURATION_MS)]


class _Part(BaseModel):
    """What all parts of a definition share: immutable, strictly typed, no unknown field."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,  # for Python callers; `parse` takes the wire names only
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {k: v for k, v in value.items() if v is not None}
        return value


class Metadata(_Part):
    estimated_duration: float | int | None = Field(default=None, ge=0)
    complexity: Name | None = None
    category: Name | None = None


class Branch(_Part):
    """One way out of a choice.  `condition` is an expression, or a switch's literal, or `default`."""

    condition: str
    next_blocks: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()


class Conditions(_Part):
    type: Literal["if", "switch", "inclusive"]
    expression: str | None = None
    branches: Annotated[tuple[Branch, ...], Field(strict=False)] = ()


class Assignees(_Part):
    """Who is asked instead of a level's group: people and groups by name, roles of the workspace, and
    whoever `expression` names, a username, a group's name or a list of them."""

    users: Annotated[tuple[Name, ...], Field(strict=False, max_length=100)] = ()
    groups: Annotated[tuple[Name, ...], Field(strict=False, max_length=100)] = ()
    roles: Annotated[
        tuple[Literal["viewer", "author", "operator", "approver", "admin"], ...],
        Field(strict=False, max_length=5),
    ] = ()
    expression: str | None = None


def _quorum_kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    return "count" if isinstance(value, int) else "named" if isinstance(value, str) else None


Quorum: TypeAlias = Annotated[
    Annotated[Literal["any", "all"], Tag("named")] | Annotated[int, Field(ge=1, le=100), Tag("count")],
    Discriminator(_quorum_kind),
]
Reminders: TypeAlias = Annotated[tuple[Duration, ...], Field(strict=False, max_length=10)]


class HumanLevel(_Part):
    """One level that a question goes through: who, how many of them, and for how long.

    `reminders` are sent so many ms before the end of its time.
    """

    level: Level = "user"
    quorum: Quorum = "any"
    timeout: Duration | None = None
    assignees: Assignees | None = None
    reminders: Reminders | None = None


class Sampling(_Part):
    """So many are inspected: of the items of a `forEach`, or of every `of` questions that a block asks in
    whatever executions of its version.  When they pass, the rest is released.
    """

    inspect: int = Field(ge=1, le=LIMITS.items_per_block)
    of: int | None = Field(default=None, ge=2, le=LIMITS.items_per_block)


class HumanInLoop(_Part):
    """What a person is asked.  `required: false` switches the question off and keeps its text.

    A level whose time is over hands the question to the next; `escalate` goes on up the workspace's
    ladder after the last.  `on_timeout` is what happens when there is none left.
    """

    required: bool = True
    type: Literal["approval", "input", "review", "edit"] = "approval"
    approval_level: Level = "user"
    levels: Annotated[tuple[HumanLevel, ...], Field(strict=False, max_length=10)] = ()
    assignees: Assignees | None = None
    quorum: Quorum = "any"
    input_schema: JSONObject | None = None
    on_reject: Literal["fail", "skip", "continue"] = "fail"
    timeout: Duration = LIMITS.approval_timeout_ms
    on_timeout: Literal["fail", "approve", "reject", "wait"] = "fail"
    escalate: bool = False
    reminders: Reminders = ()
    business_hours: bool = False
    max_rework: int = Field(default=3, ge=0, le=100)
    sample: Sampling | None = None
    title: str | None = None
    description: str | None = None

    @property
    def ladder(self) -> tuple[HumanLevel, ...]:
        """The levels in their order, what they leave open filled in."""
        given = self.levels or (
            HumanLevel(level=self.approval_level, quorum=self.quorum, assignees=self.assignees),
        )
        return tuple(
            each.model_copy(
                update={
                    "timeout": each.timeout or self.timeout,
                    "reminders": self.reminders if each.reminders is None else each.reminders,
                }
            )
            for each in given
        )


class RetryPolicy(_Part):
    """When a failed attempt is tried again.  `max_retries` counts the attempts after the first."""

    max_retries: int = Field(default=LIMITS.attempts - 1, ge=0, le=100)
    backoff_strategy: Literal["fixed", "linear", "exponential"] = "exponential"
    retry_conditions: Annotated[tuple[Name, ...], Field(strict=False)] = ("transient", "agent")
    initial_delay: Delay = 1000
    max_delay: Delay = 60_000
    multiplier: float = Field(default=2.0, ge=1, le=100)
    jitter: bool = True
    on_exhausted: Literal["ask", "fail"] = "ask"


Rung: TypeAlias = Literal["retry", "reassign", "queue", "restart", "ask", "compensate", "fail"]
LastRung: TypeAlias = Literal["ask", "compensate", "fail"]
Ladder: TypeAlias = Annotated[tuple[Rung, ...], Field(strict=False, min_length=1, max_length=7)]
LastLadder: TypeAlias = Annotated[tuple[LastRung, ...], Field(strict=False, min_length=1, max_length=1)]


class Recovery(_Part):
    """What is tried, in this order, when an attempt failed so; a kind that is left out is as usual.

    `unknown_outcome` is of an effect that must happen once: it is never repeated by itself.  `adaptive`:
    what goes on by itself may be tried in another order, where that did clearly better.
    """

    transient: Ladder | None = None
    agent: Ladder | None = None
    configuration: Ladder | None = None
    critical: LastLadder | None = None
    unknown_outcome: LastLadder | None = None
    alternatives: Annotated[tuple[Identifier, ...], Field(strict=False, max_length=20)] = ()
    max_reassignments: int | None = Field(default=None, ge=0, le=20)
    max_restarts: int | None = Field(default=None, ge=0, le=10)
    queue_for: Duration | None = None
    adaptive: bool | None = None

    @property
    def reassignments(self) -> int:
        return 3 if self.max_reassignments is None else self.max_reassignments

    @property
    def restarts(self) -> int:
        return 1 if self.max_restarts is None else self.max_restarts

    @property
    def queues(self) -> bool:
        """Whether a block waits where its agent is not available."""
        return any("queue" in (ladder or ()) for ladder in (self.transient, self.agent, self.configuration))

    @property
    def queue_s(self) -> float:
        return (3_600_000 if self.queue_for is None else self.queue_for) / 1000

    def over(self, other: Recovery | None) -> Recovery:
        """What this one leaves open is as the other says."""
        if other is None or not other.model_fields_set:
            return self
        return other.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class AtLeast(_Part):
    """A partial join: this many taken edges are enough."""

    at_least: int = Field(ge=1, le=LIMITS.blocks_per_template)


class ForEach(_Part):
    """A fan-out over the list that `items`, an expression, gives at run time.

    With `atLeast` the block is complete once so many items completed; the others are cancelled.
    """

    items: str
    max_concurrency: int | None = Field(default=None, ge=1, le=LIMITS.blocks_per_template)
    at_least: int | None = Field(default=None, ge=1, le=LIMITS.items_per_block)


class Repeat(_Part):
    until: str
    max_iterations: int = Field(ge=1, le=LIMITS.blocks_per_template)


class Wait(_Part):
    """A pause without a worker: for some seconds, until a moment, or for an event."""

    seconds: float | int | None = Field(default=None, ge=0, le=MAX_DURATION_MS / 1000)
    until: str | None = None
    event: Name | None = None
    correlation: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Wait:
        if sum(x is not None for x in (self.seconds, self.until, self.event)) != 1:
            raise PydanticCustomError("one_of", "give exactly one of seconds, until and event")
        if self.correlation is not None and self.event is None:
            raise PydanticCustomError("one_of", "correlation goes with event only")
        return self


ToolType: TypeAlias = Literal["API", "Script", "UseCase", "MCP", "LLM"]


class Compensation(_Part):
    """The call that undoes what a block did: run when the execution fails, or is cancelled so."""

    agent_id: Identifier | None = None
    agent_type: Name | None = None
    tool_type: ToolType | None = None
    configuration: JSONObject = Field(default_factory=dict)
    input: JSONObject | None = None
    timeout: Duration | None = None
    retry_policy: RetryPolicy | None = None
    effect: Literal["pure", "keyed", "once"] | None = None


def _join_kind(value: Any) -> str | None:
    if isinstance(value, (dict, AtLeast)):
        return "partial"
    return "named" if isinstance(value, str) else None


Join: TypeAlias = Annotated[
    Annotated[Literal["merge", "all", "any"], Tag("named")] | Annotated[AtLeast, Tag("partial")],
    Discriminator(_join_kind),
]


class Concurrency(_Part):
    """At most `limit` at a time of those whose `key`, a text with `${...}`, gives the same."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.expression_bytes)]
    limit: int = Field(ge=1, le=LIMITS.holders_per_key)


class RunConcurrency(Concurrency):
    """Of executions; among those that wait, higher `priority` goes first."""

    priority: int = Field(default=0, ge=-100, le=100)


class Budget(_Part):
    """What may be used up before a person is asked; from `soft_share` of it on there is a warning.

    `cost` is in `currency`; `time` is what attempts took, added up.
    """

    tokens: int | None = Field(default=None, ge=1, le=10**15)
    cost: float | None = Field(default=None, gt=0, le=1e12)
    currency: Annotated[str, StringConstraints(min_length=3, max_length=3)] = "USD"
    time: Duration | None = None
    soft_share: float = Field(default=0.8, gt=0, le=1)


class Block(_Part):
    """One step: who does it, what it waits for, and what happens when it goes wrong."""

    block_id: Identifier
    name: str | None = None
    description: str | None = None
    agent_id: Identifier | None = None
    agent_type: Name | None = None
    tool_type: ToolType | None = None
    capabilities: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    configuration: JSONObject = Field(default_factory=dict)
    input: JSONObject | None = None
    dependencies: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()
    conditions: Conditions | None = None
    human_in_loop: HumanInLoop | None = None
    retry_policy: RetryPolicy | None = None
    join: Join = "merge"
    when: str | None = None
    run_on: Literal["success", "failure", "always"] = "success"
    for_each: ForEach | None = None
    repeat: Repeat | None = None
    wait: Wait | None = None
    concurrency: Concurrency | None = None
    budget: Budget | None = None
    timeout: Duration | None = None
    agent_patience: Duration | None = None
    on_error: Literal["fail", "continue"] = "fail"
    recovery: Recovery | None = None
    compensation: Compensation | None = None
    effect: Literal["pure", "keyed", "once"] | None = None
    on_unknown_outcome: Literal["ask", "fail"] = "ask"
    checkpoint: bool = False
    priority: int = Field(default=0, ge=-100, le=100)
    end: Literal["completed", "failed"] | None = None


Durability = Literal["strict", "group"]


class GlobalSettings(_Part):
    """Settings of the run, and what blocks get that say nothing themselves."""

    timeout: Duration | None = None
    max_parallel_blocks: int = Field(default=LIMITS.max_parallel_blocks, ge=1, le=LIMITS.blocks_per_template)
    durability: Durability = "group"
    concurrency: RunConcurrency | None = None
    agent_patience: Duration | None = None
    budget: Budget | None = None
    default_retry_policy: RetryPolicy | None = None
    recovery: Recovery | None = None
    human_in_loop_defaults: HumanInLoop | None = None


class Definition(_Part):
    name: Name
    description: str | None = None
    version: Name | None = None  # the author's label; numbers are given by the server
    tags: Annotated[tuple[Name, ...], Field(strict=False, max_length=100)] = ()
    metadata: Metadata = Metadata()
    input_schema: JSONObject | None = None
    blocks: Annotated[
        tuple[Block, ...], Field(strict=False, min_length=1, max_length=LIMITS.blocks_per_template)
    ]
    global_settings: GlobalSettings = GlobalSettings()

    def retry_policy_of(self, block: Block) -> RetryPolicy:
        """The block's own policy, else the template's, else three attempts with backoff."""
        return block.retry_policy or self.global_settings.default_retry_policy or RetryPolicy()

    def recovery_of(self, block: Block) -> Recovery:
        """The block's own, laid over the template's; its `onUnknownOutcome` is its own, too."""
        own = block.recovery or Recovery()
        if own.unknown_outcome is None and "on_unknown_outcome" in block.model_fields_set:
            own = Recovery(unknown_outcome=(block.on_unknown_outcome,)).over(own)
        return own.over(self.global_settings.recovery)

    def human_of(self, block: Block) -> HumanInLoop | None:
        """What the block asks of a person, the template's defaults laid under; None: nothing."""
        asked, defaults = block.human_in_loop, self.global_settings.human_in_loop_defaults
        if asked is not None and defaults is not None:
            own = {name: getattr(asked, name) for name in asked.model_fields_set}
            asked = defaults.model_copy(update=own)
        return asked if asked is not None and asked.required else None

    def timeout_of(self, block: Block) -> int:
        """How long one attempt of the block may take, in ms."""
        return block.timeout or LIMITS.block_timeout_ms

    def agent_patience_of(self, block: Block) -> int | None:
        """How long an attempt may wait for an agent, in ms; None: as long as it takes."""
        return block.agent_patience or self.global_settings.agent_patience


def compensation_id(block_id: str) -> str:
    """What a block's compensation is called as a block of its own."""
    return f"{block_id}:compensation"


def compensation_of(block: Block) -> Block | None:
    """A block's compensation as a block of its own."""
    undo = block.compensation
    if undo is None:
        return None
    return Block(
        block_id=compensation_id(block.block_id),
        name=f"Undo: {block.name or block.block_id}",
        agent_id=undo.agent_id,
        agent_type=undo.agent_type,
        tool_type=undo.tool_type,
        configuration=undo.configuration,
        input=undo.input,
        timeout=undo.timeout,
        retry_policy=undo.retry_policy,
        effect=undo.effect,
        on_error="continue",  # the run ends as it would have ended without it
    )


def parse(body: JSONValue) -> Definition:
    """Read a definition.

    Raises:
        InvalidInput: with one issue for each structural problem, all of them at once.
    """
    if not isinstance(body, dict):
        raise _refused([_issue("wrong_type", "", "A definition is a JSON object.", "Send an object.")])
    issues = _json_issues(body)
    if not any(issue["code"] == "too_deep" for issue in issues):  # deeper than the model's walk may go
        try:
            definition = Definition.model_validate(body, by_alias=True, by_name=False)
        except ValidationError as error:
            known = {issue["pointer"] for issue in issues}
            for detail in error.errors(include_url=False):
                issue = _explain(detail, body)
                if issue["pointer"] not in known and not _is_echo(detail):
                    issues.append(issue)
            issues = _once_each(issues)
        else:
            if not issues:
                return definition
    raise _refused(issues)


def dump(definition: Definition) -> JSONObject:
    """The definition as JSON, with the fields that were set and no defaults."""
    return definition.model_dump(mode="json", by_alias=True, exclude_unset=True)


def content_hash(definition: Definition) -> str:
    """SHA-256 over canonical JSON: equal definitions have equal hashes, however they were written."""
    text = json.dumps(_canonical(dump(definition)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def pointer(*path: str | int) -> str:
    """An RFC 6901 JSON pointer: `pointer("blocks", 3, "a/b")` is `/blocks/3/a~1b`."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def closest(name: str, known: list[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    same = [other for other in known if _bare(other) == _bare(name)]
    if same:
        return same[0]
    near = difflib.get_close_matches(name[:NAME_CHARS], known[:2000], n=1)
    return near[0] if near else None


def _bare(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(" ", "").lower()


def _canonical(value: JSONValue) -> JSONValue:
    """1.0 and 1 are one number in JSON, and PostgreSQL gives 1e3 back as 1000."""
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# -- issues ------------------------------------------------------------------


def _issue(code: str, at: str, message: str, remedy: str) -> JSONObject:
    # Names come from the body; a lone surrogate in one would break the answer that quotes it.
    return {
        "severity": "error",
        "code": code,
        "pointer": _printable(at),
        "message": _printable(message),
        "remedy": _printable(remedy),
    }


def _printable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refused(issues: list[JSONObject]) -> InvalidInput:
    if len(issues) > MAX_ISSUES:
        left = len(issues) - MAX_ISSUES
        more = _issue("more_issues", "", f"There are {left} more issues.", "Mend these first.")
        issues = [*issues[:MAX_ISSUES], more]
    count = len(issues)
    return InvalidInput(
        f"The definition has {count} problem{'s' if count != 1 else ''}.",
        issues=issues,
        remedy="Mend what the issues name and send it again.",
    )


def _json_issues(body: JSONObject) -> list[JSONObject]:
    """What no JSON value may hold, wherever it stands: the open objects are checked here too."""
    issues: list[JSONObject] = []
    todo: list[tuple[Any, tuple[Any, ...], int]] = [(body, (), 1)]
    while todo and len(issues) <= MAX_ISSUES:
        value, path, depth = todo.pop()
        kind = type(value)
        if kind is dict or kind is list:
            if depth > LIMITS.json_depth:
                message = f"Objects and lists are nested more than {LIMITS.json_depth} deep."
                issues.append(_issue("too_deep", _where(path), message, "Flatten the value."))
            elif kind is dict:
                for key, item in value.items():
                    if type(key) is not str:
                        message = "The key of an object is not text."
                        issues.append(_issue("wrong_type", _where(path), message, "Use text as key."))
                        continue
                    if not key.isascii() or "\x00" in key or len(key) > KB:
                        _check_text(key, path, issues)
                    todo.append((item, (path, key), depth + 1))
            else:
                todo.extend((item, (path, index), depth + 1) for index, item in enumerate(value))
        elif kind is str:
            if not value.isascii() or "\x00" in value or len(value) > LIMITS.text_bytes:
                _check_text(value, path, issues)
        elif kind is float or kind is int:
            # Beyond a double's range a number cannot be stored and read back by every JSON client.
            if not (math.isfinite(value) if kind is float else abs(value) <= sys.float_info.max):
                message = "The number is NaN, infinite, or too large."
                issues.append(_issue("out_of_range", _where(path), message, "Use a finite number."))
        elif value is not None and kind is not bool:
            message = f"A {kind.__name__} is no JSON value."
            issues.append(_issue("wrong_type", _where(path), message, "Use a JSON value."))
    issues.reverse()
    return issues


def _where(path: tuple[Any, ...]) -> str:
    """Paths are linked pairs while the walk goes on, for a tuple per value would cost too much."""
    steps: list[str | int] = []
    while path:
        path, step = path
        steps.append(step)
    return pointer(*reversed(steps))


def _check_text(text: str, path: tuple[Any, ...], issues: list[JSONObject]) -> None:
    if "\x00" in text:
        message = "The text holds a NUL character, which cannot be stored."
        issues.append(_issue("invalid_text", _where(path), message, "Remove the NUL character."))
        return
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        message = "The text holds half of a surrogate pair, which is no character."
        issues.append(_issue("invalid_text", _where(path), message, "Send valid Unicode."))
        return
    if size > LIMITS.text_bytes:
        message = f"The text has {size} bytes; {LIMITS.text_bytes} are allowed."
        issues.append(_issue("too_long", _where(path), message, "Shorten it, or store it elsewhere."))


# The parts by the field they stand in, to know which fields a wrong one may have meant.
_PARTS: dict[str, type[_Part]] = {
    "": Definition,
    "metadata": Metadata,
    "globalSettings": GlobalSettings,
    "blocks": Block,
    "conditions": Conditions,
    "branches": Branch,
    "humanInLoop": HumanInLoop,
    "humanInLoopDefaults": HumanInLoop,
    "levels": HumanLevel,
    "assignees": Assignees,
    "recovery": Recovery,
    "retryPolicy": RetryPolicy,
    "defaultRetryPolicy": RetryPolicy,
    "join": AtLeast,
    "forEach": ForEach,
    "concurrency": RunConcurrency,
    "budget": Budget,
    "repeat": Repeat,
    "wait": Wait,
    "compensation": Compensation,
}
_ALIASES = {
    part: [cast(str, field.alias) for field in part.model_fields.values()] for part in _PARTS.values()
}
_NOUNS = {"": "a definition", "blocks": "a block", "branches": "a branch"}
_OFTEN_MEANT = {
    "id": "blockId",
    "dependson": "dependencies",
    "needs": "dependencies",
    "after": "dependencies",
    "config": "configuration",
    "if": "when",
    "agent": "agentId",
    "tool": "toolType",
    "retries": "maxRetries",
    "retry": "retryPolicy",
    "steps": "blocks",
    "tasks": "blocks",
    "approval": "humanInLoop",
}
_TYPE_NAMES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
    "union_tag_not_found": 'one of "merge", "all" and "any", or {"atLeast": n}',
    "union_tag_of_quorum": '"any", "all" or a number of people',
}
_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "literal_error": "unknown_value",
    "string_pattern_mismatch": "wrong_format",
    "string_unicode": "invalid_text",
    "string_too_short": "too_short",
    "too_short": "too_short",
    "string_too_long": "too_long",
    "too_long": "too_long",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "int_parsing_size": "out_of_range",
    "one_of": "one_of",
    **dict.fromkeys(_TYPE_NAMES, "wrong_type"),
}


def _is_echo(detail: ErrorDetails) -> bool:
    """Whether the model only repeats another finding: a list whose items were all refused is "too short"
    to it, and bad Unicode was found by the walk over the JSON."""
    return detail["type"] == "string_unicode" or (detail["type"] == "too_short" and bool(detail["input"]))


def _once_each(issues: list[JSONObject]) -> list[JSONObject]:
    """A union tries each of its types and reports the same for all of them."""
    first: dict[tuple[str, str], JSONObject] = {}
    for issue in issues:
        first.setdefault((issue["pointer"], issue["code"]), issue)
    return list(first.values())


def _explain(detail: ErrorDetails, body: JSONObject) -> JSONObject:
    """One finding of the model in our words, at its place in the body."""
    kind, value = detail["type"], detail["input"]
    path = _path_in(body, detail["loc"], missing=kind == "missing")
    code, field = _CODES.get(kind, "invalid_value"), _named(path)
    context = detail.get("ctx", {})
    if code == "unknown_field":
        message, remedy = _unknown_field(path)
    elif code == "missing_field":
        message, remedy = f"The field {field} is missing.", f"Add {field}."
    elif code == "wrong_type":
        wanted = _TYPE_NAMES["union_tag_of_quorum" if field == "'quorum'" else kind]
        message = f"{field} must be {wanted}, not {_type_name(value)}."
        remedy = f"Give {wanted}."
    elif code == "unknown_value":
        message = f"{field} cannot be {_short(value)}."
        remedy = f"Use {context.get('expected', 'an allowed value')}."
    elif code == "wrong_format":
        message = f"{field} may hold letters, digits, '_', '.' and '-' only."
        remedy = "Use a name such as finance.lead."
    elif code in ("too_short", "too_long"):
        message, remedy = _wrong_length(field, code, context)
    elif code == "out_of_range":
        message = f"{field} is out of range: {_short(value)}."
        remedy = detail["msg"].replace("Input should be", "It must be") + "."
    else:
        message, remedy = f"{field} is not valid: {detail['msg']}.", "See the definition's reference."
    return _issue(code, pointer(*path), message, remedy)


def _named(path: list[str | int]) -> str:
    if not path:
        return "The definition"
    if isinstance(path[-1], int):
        return f"Item {path[-1]} of {_named(path[:-1])}"
    return repr(path[-1])


def _path_in(body: JSONObject, loc: tuple[Any, ...], *, missing: bool) -> list[str | int]:
    """The steps of `loc` that lead through the body: a union's tag is a step, but no place in it."""
    path: list[str | int] = []
    here: Any = body
    for step in loc:
        if (isinstance(here, dict) and step in here) or (
            isinstance(here, list) and isinstance(step, int) and step < len(here)
        ):
            here = here[step]
        elif missing and step == loc[-1]:
            here = None
        else:
            continue
        path.append(step)
    return path


def _unknown_field(path: list[str | int]) -> tuple[str, str]:
    field = str(path[-1])
    holder = next((step for step in reversed(path[:-1]) if isinstance(step, str)), "")
    known = _ALIASES[_PARTS[holder]]
    place = f"in {_NOUNS.get(holder, repr(holder))}"
    meant = closest(field, known)
    if meant is None and _OFTEN_MEANT.get(_bare(field)) in known:
        meant = _OFTEN_MEANT[_bare(field)]
    remedy = f"Did you mean {meant!r}?" if meant else f"Remove it. Known here: {', '.join(known)}."
    return f"There is no field {_short(field)} {place}.", remedy


def _wrong_length(field: str, code: str, context: dict[str, Any]) -> tuple[str, str]:
    if code == "too_short":
        if field == "'blocks'":
            return "A template needs at least one block.", "Add a block."
        return f"{field} may not be empty.", "Give a value, or leave the field out."
    most = context.get("max_length", "")
    return f"{field} is too long: at most {most} are allowed.", f"Keep to {most}."


def _type_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), _short(value))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
