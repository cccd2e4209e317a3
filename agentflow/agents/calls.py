"""One call of an agent: what goes in and the four things that can come out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from ..types import JSONObject, JSONValue
from ..workflow.failures import Failure
from .journal import Journal

if TYPE_CHECKING:
    from .injection import Injection

CIRCUIT_OPEN = "circuit_open"  # the code of a call that was not made, because the agent's circuit is open
TIMED_OUT = "timeout"  # why a call is stopped that has reached its deadline


class CancelToken:
    """Tells a call in flight to stop, from another thread.

    A tool that can be interrupted registers how: `token.on_cancel(process.kill)`.  A callback
    registered after the cancel runs at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.reason = ""

    @property
    def cancelled(self) -> bool:
        return bool(self.reason)

    def cancel(self, reason: str) -> None:
        with self._lock:
            if self.reason:
                return
            self.reason = reason
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if not self.reason:
                self._callbacks.append(callback)
                return
        callback()


@dataclass(frozen=True, slots=True)
class SimulatedBlock:
    """What the simulator does in place of the agent.

    `seconds` is how long it sleeps; `failure` is set while the script still wants this attempt to fail.
    """

    seconds: float
    output: JSONValue
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Everything a tool needs to know; it reads no row and writes none."""

    workspace_id: UUID
    execution_id: UUID
    block_id: str  # the template's blockId
    attempt: int
    agent_id: str | None  # the template's agentId; None only for a bare tool
    tool_type: str | None  # API | Script | UseCase | MCP | LLM, from the block; the agent's own wins
    configuration: JSONObject  # the block's, laid over the agent's
    input: JSONValue  # the block's mapped input
    timeout_s: float
    idempotency_key: str  # the same across attempts of one logical operation
    effect: str = "once"  # what a repeat may do
    simulated: SimulatedBlock | None = None
    injection: Injection | None = None  # a fault that it meets
    callback_url: Callable[[], str] = lambda: ""  # of this attempt; empty: none can be given
    cancel: CancelToken = field(default_factory=CancelToken)
    log: Callable[[str, str], Any] = lambda level, message: None  # level: debug | info | warning | error
    hide: Callable[[str], Any] = lambda secret: None  # what else must not be seen of this call
    clean: Callable[[Any], Any] = lambda value: value  # the value without the call's secrets
    within: tuple[str, ...] = ()  # the agents whose tool this call is, the block's own first
    journal: Callable[[], Journal | None] = lambda: (
        None
    )  # of an agent that works in steps; None: there is none
    show: Callable[[str], Any] = lambda text: None  # what the agent has written so far, to who looks on


@dataclass(frozen=True, slots=True)
class Completed:
    output: JSONValue
    bytes: int = 0  # as JSON, once it has been cleaned
    usage: JSONObject | None = None  # what it used up, as `usage` describes it


@dataclass(frozen=True, slots=True)
class Failed:
    failure: Failure
    usage: JSONObject | None = None  # a failure may have been paid for, too


@dataclass(frozen=True, slots=True)
class StartChild:
    """A UseCase block: the engine starts this template as a child and the block waits as a row."""

    template_id: UUID
    version: int | None
    input: JSONObject


@dataclass(frozen=True, slots=True)
class AwaitCallback:
    """The other side has accepted the work and will bring what came of it to the attempt's callback URL."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class AskTool:
    """A person decides about a call that the agent wants to make; the block waits as a row until then.

    `unknown` is the failure of a call whose effect may have happened.
    """

    step: int
    agent_id: str
    description: str
    arguments: JSONObject
    schema: JSONObject  # of the arguments
    request_hash: str
    unknown: Failure | None = None
    usage: JSONObject | None = None
    within: tuple[str, ...] = ()  # the agents that stand between the block's own and this call


@dataclass(frozen=True, slots=True)
class Postponed:
    """The agent has stopped between two steps, because its run is paused."""

    usage: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class AwaitAgent:
    """An agent that this one wants to call has no place free; the block waits as a row until it has one."""

    agent_id: str
    places: int  # that the agent has at a time
    rate: int | None  # calls that it takes in a minute
    usage: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class AwaitChild:
    """The agent has called a sub-workflow, which is started as its block begins to wait as a row."""

    step: str  # its key
    child: Any  # as the journal gave it
    usage: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class AwaitBudget:
    """A budget is used up that the agent's next step would draw on; the block asks, or waits."""

    change: Any  # as the journal gave it
    usage: JSONObject | None = None


Outcome: TypeAlias = (
    Completed
    | Failed
    | StartChild
    | AwaitCallback
    | AskTool
    | Postponed
    | AwaitAgent
    | AwaitChild
    | AwaitBudget
)
