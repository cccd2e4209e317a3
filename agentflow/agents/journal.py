"""The steps of an agent that works in several: what a model said, and what its tools gave.

A step is written before the work goes on, so that after a crash the next attempt begins where the last
one stopped, and asks and pays for nothing twice.  Steps belong to the logical operation, not to an attempt.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from ..types import JSONObject, JSONValue

if TYPE_CHECKING:
    from ..workflow.failures import Failure
    from .calls import Completed, Failed, StartChild


class StepKind(StrEnum):
    MODEL = "model"
    TOOL = "tool"


class StepStatus(StrEnum):
    BEGUN = "begun"  # the call was, or is about to be, made
    ASKED = "asked"  # nobody was called: a person decides first
    DONE = "done"  # `result` is part of the conversation
    FAILED = "failed"  # it is no part of the conversation: the next step tries again
    UNKNOWN = "unknown"  # it may have happened, and is not repeated without a person's decision


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a model, or of a tool.

    `request` of a model is `{"messages": 3}`, of a tool `{"callId", "agentId", "arguments", "effect"}`, with
    `"edited"` where a person changed the arguments, for a sub-workflow with its `"executionId"`, and for that
    and for an agent with tools in the end with what it `"used"`, which is counted elsewhere.  `decision` is
    `{"approved", "response", "by", "comments"?}`.
    """

    number: int  # from 1
    kind: StepKind
    name: str  # of the model, or the tool as the model calls it
    status: StepStatus = StepStatus.BEGUN
    request: JSONObject = field(default_factory=dict)
    request_hash: str = ""
    result: JSONValue = None
    usage: JSONObject | None = None
    failure: JSONObject | None = None
    decision: JSONObject | None = None
    seconds: float = 0.0  # that it took
    called: bool = False  # a tool's agent was called, and the call counts among that agent's


class Held(Exception):
    """The step may not begin: `reason` is paused, budget (there is none left), cancelled or lost (the
    block is another worker's)."""

    def __init__(self, reason: str, about: Any = None) -> None:
        """`about`: what follows for the block, where that is known by now."""
        self.reason, self.about = reason, about
        super().__init__(reason)


class Busy(Exception):
    """The agent has no place free: the call is not made yet."""

    def __init__(self, agent_id: str, places: int, rate: int | None) -> None:
        self.agent_id, self.places, self.rate = agent_id, places, rate
        super().__init__(agent_id)


class Journal(Protocol):
    def steps(self) -> list[Step]:
        """What is written, in order."""

    def begin(self, step: Step) -> None:
        """Write a step, or write it anew, before it is done.

        Raises:
            Held: it may not begin.
        """

    def end(self, step: Step) -> None:
        """Write what came of a step that this attempt began.

        Raises:
            Held: another attempt has begun it anew meanwhile.
        """

    def take(self, agent_id: str) -> None:
        """Take a place of an agent that is to be called, where it has limits.

        Raises:
            Busy: there is none.
        """

    def give_back(self, agent_id: str) -> None:
        """The call is over, and what came of it is written."""

    def inside(self, agent_id: str, key: str) -> Journal:
        """Of an agent with tools that a step calls: its steps are those of that step's key."""

    def child(self, wanted: StartChild) -> Any | Failure:
        """The sub-workflow that a step would start, for `AwaitChild`; or why it cannot be."""

    def came_of(self, step: Step) -> Completed | Failed | None:
        """How the sub-workflow ended that a step started.  None: it was stopped, the step is done anew."""


class Forgetful:
    """The journal of a single answer, which needs none and calls nobody."""

    def steps(self) -> list[Step]:
        return []

    def begin(self, step: Step) -> None:
        pass

    def end(self, step: Step) -> None:
        pass

    def take(self, agent_id: str) -> None:
        pass

    def give_back(self, agent_id: str) -> None:
        pass

    def inside(self, agent_id: str, key: str) -> Journal:
        return self

    def child(self, wanted: StartChild) -> Any | Failure:
        raise AssertionError("a single answer starts nothing")

    def came_of(self, step: Step) -> Completed | Failed | None:
        raise AssertionError("a single answer starts nothing")


def digest(value: JSONValue) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
