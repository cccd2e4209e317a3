"""The steps of a conversation: each is in the journal before it is done and again with what came of it.

So a conversation that broke off is read back and goes on.  What the steps used up is counted here, against
the limits of the agent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ...integrations import llm
from ...integrations.llm import Wanted
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from .. import usage
from ..journal import Journal, Step, StepKind, StepStatus, digest
from ..llm_configuration import LoopLimits
from .llm_tools import Tool

S = StepStatus


@dataclass(slots=True)
class Steps:
    journal: Journal
    clean: Callable[[JSONValue], JSONValue]
    key: str  # of the operation
    in_steps: bool  # else it is the one question of an agent without tools
    all: list[Step] = field(default_factory=list)
    spent: list[JSONObject] = field(default_factory=list)  # by this attempt

    def read(self) -> list[Step]:
        """What is part of the conversation until now."""
        self.all = self.journal.steps()
        return [step for step in self.all if step.status is S.DONE]  # failed, or still open: it is the last

    @property
    def open(self) -> Step | None:
        """The step that was begun, or asked about, and not ended."""
        last = self.all[-1] if self.all else None
        return last if last is not None and last.status in (S.BEGUN, S.ASKED, S.UNKNOWN) else None

    def key_of(self, number: int) -> str:
        return f"{self.key}:step:{number}" if self.in_steps or number > 1 else self.key

    # -- written -------------------------------------------------------------------

    def begin_tool(
        self, wanted: Wanted, tool: Tool, arguments: JSONObject, *, status: StepStatus = S.BEGUN
    ) -> Step:
        request = {
            "callId": wanted.call_id,
            "agentId": tool.agent_id,
            "arguments": self.clean(arguments),
            "effect": tool.effect,
        }
        return self.begin(
            StepKind.TOOL, name=tool.name, request=request, digest_of=_bound(request), status=status
        )

    def begin(
        self,
        kind: StepKind,
        *,
        name: str,
        request: JSONObject,
        digest_of: JSONValue,
        status: StepStatus = S.BEGUN,
    ) -> Step:
        again = self.open
        number = again.number if again is not None else len(self.all) + 1
        step = Step(number, kind, name, status, request, digest(digest_of))
        if again is not None:
            self.all.pop()
        self.journal.begin(step)
        self.all.append(step)
        return step

    def begin_again(self, step: Step) -> Step:
        begun = replace(step, status=S.BEGUN)
        self.journal.begin(begun)
        self.all[-1] = begun
        return begun

    def end(self, step: Step, **came: Any) -> Step:
        ended = replace(step, **came)
        if ended.failure is not None:
            ended = replace(ended, failure=self.clean(ended.failure))
        if ended.usage:
            self.spent.append(ended.usage)
        self.all[-1] = ended
        self.journal.end(ended)
        return ended

    # -- counted ---------------------------------------------------------------------

    def count(self, kind: StepKind, *statuses: StepStatus) -> int:
        return sum(step.kind is kind and step.status in statuses for step in self.all)

    def used(self) -> JSONObject:
        return usage.total(step.usage for step in self.all)

    def over(self, limits: LoopLimits, currency: str) -> Failure | None:
        """The limit that has been reached: nothing more is asked for.

        What sub-workflows and agents with tools used counts too, though it is theirs in the books.
        """
        used = usage.total([self.used(), *(step.request.get("used") for step in self.all)])
        turns = self.count(StepKind.MODEL, S.DONE, S.FAILED)
        tokens = used.get("inputTokens", 0) + used.get("outputTokens", 0)
        cost = usage.amount_in(used, currency)
        seconds = sum(step.seconds for step in self.all)
        for name, unit, reached, limit in (
            ("turn", "turns", turns, limits.max_turns if self.in_steps else None),
            ("token", "tokens", tokens, limits.max_tokens),
            ("cost", currency, cost, limits.max_cost),
            ("time", "ms", round(seconds * 1000), limits.timeout),
        ):
            if limit is not None and reached >= limit:
                message = (
                    f"The agent has used {reached:g} {unit} and may use {limit:g}, without a final answer."
                )
                evidence = {"reached": reached, "limit": limit, "steps": len(self.all)}
                return Failure(FailureKind.CONFIGURATION, f"llm_{name}_limit", message, evidence=evidence)
        return None


def worked(journal: Journal) -> tuple[JSONObject, float]:
    """What an agent with tools used up in all its steps, and how long they took."""
    steps = journal.steps()
    used = usage.total([*(step.usage for step in steps), *(step.request.get("used") for step in steps)])
    return used, sum(step.seconds for step in steps)


def hash_of(request: JSONObject) -> str:
    return digest(_bound(request))


def _bound(request: JSONObject) -> JSONValue:
    """What a person's approval is about."""
    return [request.get("agentId"), request.get("arguments")]


def stored(answer: llm.Answer) -> JSONObject:
    return {
        "text": answer.text,
        "finishReason": answer.finish_reason,
        "calls": [
            {"id": each.call_id, "name": each.name, "arguments": each.arguments} for each in answer.wanted
        ],
    }


def answer_of(step: Step) -> llm.Answer:
    wanted = tuple(
        Wanted(each["id"] or f"call-{step.number}-{place}", each["name"], each["arguments"])
        for place, each in enumerate(step.result["calls"], 1)
    )
    return llm.Answer(step.result["text"], step.name, step.result["finishReason"], "", {}, wanted)
