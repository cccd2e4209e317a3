"""A workflow definition: the one model of what a template says, field by field.

`parsing.parse` turns JSON into a `Definition` or names everything that is malformed.  What needs more than
one field to be seen (cycles, unknown dependencies, expressions) is `validation.check`'s work.

    {"name": "Refund", "blocks": [{"blockId": "score", "agentId": "risk"},
                                  {"blockId": "pay", "agentId": "bank", "dependencies": ["score"]}]}

Durations are milliseconds.  `null` for an optional field means that the field is absent.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic.alias_generators import to_camel
from pydantic.functional_validators import model_validator
from pydantic_core import PydanticCustomError

from agentflow.conf import LIMITS
from agentflow.types import JSONObject, JSONValue

MAX_DURATION_MS = 10 * 365 * 24 * 3600 * 1000  # ten years: far from where dates overflow
NAME_CHARS = 200

Identifier: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.block_id_chars)]
Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS)]
Level: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", max_length=NAME_CHARS)]
Duration: TypeAlias = Annotated[int, Field(ge=1, le=MAX_DURATION_MS)]
Delay: TypeAlias = Annotated[int, Field(ge=0, le=MAX_DURATION_MS)]


class Part(BaseModel):
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


class Metadata(Part):
    estimated_duration: float | int | None = Field(default=None, ge=0)
    complexity: Name | None = None
    category: Name | None = None


class Branch(Part):
    """One way out of a choice.  `condition` is an expression, or a switch's literal, or `default`."""

    condition: str
    next_blocks: Annotated[tuple[Identifier, ...], Field(strict=False)] = ()


class Conditions(Part):
    type: Literal["if", "switch", "inclusive"]
    expression: str | None = None
    branches: Annotated[tuple[Branch, ...], Field(strict=False)] = ()


class Assignees(Part):
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


class HumanLevel(Part):
    """One level that a question goes through: who, how many of them, and for how long.

    `reminders` are sent so many ms before the end of its time.
    """

    level: Level = "user"
    quorum: Quorum = "any"
    timeout: Duration | None = None
    assignees: Assignees | None = None
    reminders: Reminders | None = None


class Sampling(Part):
    """So many are inspected: of the items of a `forEach`, or of every `of` questions that a block asks in
    whatever executions of its version.  When they pass, the rest is released.
    """

    inspect: int = Field(ge=1, le=LIMITS.items_per_block)
    of: int | None = Field(default=None, ge=2, le=LIMITS.items_per_block)


class HumanInLoop(Part):
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


class RetryPolicy(Part):
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


class Recovery(Part):
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


class AtLeast(Part):
    """A partial join: this many taken edges are enough."""

    at_least: int = Field(ge=1, le=LIMITS.blocks_per_template)


class ForEach(Part):
    """A fan-out over the list that `items`, an expression, gives at run time.

    With `atLeast` the block is complete once so many items completed; the others are cancelled.
    """

    items: str
    max_concurrency: int | None = Field(default=None, ge=1, le=LIMITS.blocks_per_template)
    at_least: int | None = Field(default=None, ge=1, le=LIMITS.items_per_block)


class Repeat(Part):
    until: str
    max_iterations: int = Field(ge=1, le=LIMITS.blocks_per_template)


class Wait(Part):
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


class Compensation(Part):
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


class Concurrency(Part):
    """At most `limit` at a time of those whose `key`, a text with `${...}`, gives the same."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.expression_bytes)]
    limit: int = Field(ge=1, le=LIMITS.holders_per_key)


class RunConcurrency(Concurrency):
    """Of executions; among those that wait, higher `priority` goes first."""

    priority: int = Field(default=0, ge=-100, le=100)


class Budget(Part):
    """What may be used up before a person is asked; from `soft_share` of it on there is a warning.

    `cost` is in `currency`; `time` is what attempts took, added up.
    """

    tokens: int | None = Field(default=None, ge=1, le=10**15)
    cost: float | None = Field(default=None, gt=0, le=1e12)
    currency: Annotated[str, StringConstraints(min_length=3, max_length=3)] = "USD"
    time: Duration | None = None
    soft_share: float = Field(default=0.8, gt=0, le=1)


class Block(Part):
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


class GlobalSettings(Part):
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


class Definition(Part):
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


def dump(definition: Definition) -> JSONObject:
    """The definition as JSON, with the fields that were set and no defaults."""
    return definition.model_dump(mode="json", by_alias=True, exclude_unset=True)


def content_hash(definition: Definition) -> str:
    """SHA-256 over canonical JSON: equal definitions have equal hashes, however they were written."""
    text = json.dumps(_canonical(dump(definition)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: JSONValue) -> JSONValue:
    """1.0 and 1 are one number in JSON, and PostgreSQL gives 1e3 back as 1000."""
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
