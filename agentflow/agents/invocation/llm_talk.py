"""A conversation with a model: answers and calls of tools by turns, until it has its final answer.

Each step is in the journal before it is done and again with what came of it.  So a conversation that broke
off is read back and goes on; the messages are made anew from the steps, and what was answered is not asked
again.  Tools, policies and limits come from the configuration alone: what a tool gives back is a message in
the tool's role and nothing else.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...integrations import llm
from ...integrations.llm import Wanted
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from .. import usage
from ..calls import AskTool, AwaitAgent, Call, Completed, Failed, Outcome, Postponed
from ..journal import Busy, Held, Journal, Step, StepKind, StepStatus, digest
from ..llm_configuration import LLMConfiguration
from ..models import Effect
from ..output import BadOutput, check_schema, measured
from . import llm_models, llm_tools
from .llm_models import Model, Said, failure
from .llm_tools import Tool, Unfit, told, told_error

ASKED_CHARS = 32_000  # of arguments that a person is to read
CALLS_MAX = 32  # that one answer may ask for
S = StepStatus


@dataclass(slots=True)
class Talk:
    call: Call
    parts: LLMConfiguration
    models: Sequence[Model]
    opening: Sequence[JSONObject]  # the messages that the configuration and the input make
    options: JSONObject
    schema: JSONObject | None
    tools: dict[str, Tool]
    journal: Journal
    messages: list[JSONObject] = field(default_factory=list)
    pending: deque[Wanted] = field(default_factory=deque)
    steps: list[Step] = field(default_factory=list)
    spent: list[JSONObject] = field(default_factory=list)  # by this attempt
    answer: llm.Answer | None = None  # the last
    repairs: int = 0
    deadline: float = 0.0

    def run(self) -> Outcome:
        """Go on until there is an answer, a failure, or somebody has to decide."""
        self.deadline = time.monotonic() + self.call.timeout_s
        try:
            self._read_back()
            outcome = None
            while outcome is None:
                outcome = self._next()
        except Held as held:
            outcome = self._held(held)
        except Busy as busy:
            outcome = AwaitAgent(busy.agent_id, busy.places, busy.rate)
        used = usage.total(self.spent)
        if not used or not isinstance(outcome, Completed | Failed | AskTool | Postponed | AwaitAgent):
            return outcome
        return replace(outcome, usage=used)

    def _next(self) -> Outcome | None:
        """One step; None: there is more to do."""
        if self.call.cancel.cancelled:
            return Failed(_stopped(self.call.cancel.reason))
        if self.pending:
            return self._use(self.pending[0])
        if self.answer is not None:
            outcome = self._finish(self.answer)
            if outcome is not None:
                return outcome
        return self._ask()

    # -- what was done before -----------------------------------------------------

    def _read_back(self) -> None:
        self.messages = list(self.opening)
        self.steps = self.journal.steps()
        for step in self.steps:
            if step.status is not S.DONE:
                continue  # failed, or still open: then it is the last
            if step.kind is StepKind.MODEL:
                self._heard(_answer_of(step))
            else:
                self._got(self.pending.popleft(), str(step.result))

    @property
    def _open(self) -> Step | None:
        """The step that was begun, or asked about, and not ended."""
        last = self.steps[-1] if self.steps else None
        return last if last is not None and last.status in (S.BEGUN, S.ASKED, S.UNKNOWN) else None

    def _heard(self, answer: llm.Answer) -> None:
        message: JSONObject = {"role": "assistant", "content": answer.text or None}
        if answer.wanted:
            message["tool_calls"] = [
                {
                    "id": each.call_id,
                    "type": "function",
                    "function": {"name": each.name, "arguments": each.arguments},
                }
                for each in answer.wanted
            ]
        self.messages.append(message)
        self.pending.extend(answer.wanted)
        self.answer = answer
        if not answer.wanted and (wrong := self._unfit(answer)):
            self._ask_to_mend(wrong)

    def _got(self, wanted: Wanted, text: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": wanted.call_id, "content": text})
        self.answer = None

    # -- the model ------------------------------------------------------------------

    def _ask(self) -> Outcome | None:
        over = self._over()
        if over is not None:
            return Failed(over)
        step = self._begin(
            StepKind.MODEL,
            name=self.models[0].name,
            request={"messages": len(self.messages)},
            digest_of=[self.models[0].name, self.messages],
        )
        began = time.monotonic()
        question = llm.Question(
            model="",
            messages=self.messages,
            options=self.options,
            schema=self.schema,
            tools=[tool.offered for tool in self.tools.values()],
        )
        said = llm_models.ask(
            self.call,
            self.models,
            question,
            key=self._key(step.number),
            deadline=self.deadline,
            parts=self.parts,
        )
        wrong = said.failure or self._unusable(said)
        self._end(
            step,
            status=S.FAILED if wrong else S.DONE,
            name=said.answer.model if said.answer else step.name,
            result=None if wrong or said.answer is None else self._clean(_stored(said.answer)),
            usage=said.used or None,
            failure=wrong.as_json() if wrong else None,
            seconds=time.monotonic() - began,
        )
        if wrong is not None:
            return Failed(wrong)
        self._heard(_answer_of(self.steps[-1]))
        return None

    def _unusable(self, said: Said) -> Failure | None:
        """Why an answer cannot be part of the conversation."""
        answer = said.answer
        assert answer is not None
        if len(answer.wanted) > CALLS_MAX:
            return failure("llm_bad_response", f"The model asks for {len(answer.wanted)} calls at once.")
        if answer.wanted and not self.tools:
            return failure("llm_bad_response", "The model asks for a tool, and it was given none.")
        if answer.finish_reason == "length" and (answer.wanted or self.schema is not None):
            message = "The model reached its token limit before its answer was complete."
            return failure("llm_truncated", message)
        return None

    # -- its final answer -------------------------------------------------------------

    def _unfit(self, answer: llm.Answer) -> Failure | None:
        """Why an answer is not what the schema asks for."""
        if self.schema is None:
            return None
        try:
            data = json.loads(answer.text)
        except (ValueError, RecursionError) as error:
            return failure(
                "llm_invalid_output", f"The model's answer is not JSON: {error}"[:300], answer.text
            )
        try:
            check_schema(data, self.schema, code="llm_invalid_output", kind=FailureKind.AGENT)
        except BadOutput as error:
            return error.failure
        return None

    def _ask_to_mend(self, wrong: Failure) -> None:
        """Once: what is wrong is said, and the next answer counts."""
        if self.repairs or wrong.kind is not FailureKind.AGENT:
            return
        self.repairs += 1
        issues = wrong.evidence.get("issues") or []
        said = "; ".join(f"{each['pointer'] or 'the value'}: {each['message']}" for each in issues)
        text = (
            f"That does not fit the schema of the answer: {said or wrong.message} Answer again, in JSON only."
        )
        self.messages.append({"role": "user", "content": text[:4000]})
        self.answer = None

    def _finish(self, answer: llm.Answer) -> Outcome | None:
        wrong = self._unfit(answer)
        if wrong is not None:
            return Failed(wrong)
        output: JSONObject = {
            "text": answer.text,
            "model": answer.model,
            "finishReason": answer.finish_reason,
            "usage": self._told_usage(),
        }
        if self.tools:
            done = [step.kind for step in self.steps if step.status is S.DONE]
            output |= {"turns": done.count(StepKind.MODEL), "toolCalls": done.count(StepKind.TOOL)}
        if self.schema is not None:
            output["data"] = json.loads(answer.text)
        return Completed(output)

    def _told_usage(self) -> JSONObject:
        used = usage.total(step.usage for step in self.steps)
        told: JSONObject = {name: used[name] for name in usage.TOKENS if name in used}
        if told:
            told["totalTokens"] = sum(told.values())
        return told

    # -- tools ------------------------------------------------------------------------

    def _use(self, wanted: Wanted) -> Outcome | None:
        """Answer one of the calls that the model asked for: with a result, an error, or a question."""
        open_ = self._open
        if open_ is not None and open_.decision is not None:
            return self._decided(wanted, open_, open_.decision)
        tool = self.tools.get(wanted.name)
        if open_ is not None:
            return self._take_up(wanted, open_, tool)
        try:
            if tool is None:
                known = ", ".join(self.tools)
                raise Unfit(
                    "unknown_tool", f"There is no tool {wanted.name[:100]!r}; there are: {known}."[:500]
                )
            arguments = llm_tools.arguments_of(wanted, tool)
        except Unfit as unfit:
            return self._answer_at_once(wanted, unfit.code, unfit.message)
        if tool.policy == "deny":
            return self._answer_at_once(wanted, "denied", "This tool may not be called.")
        if tool.policy == "ask":
            if len(json.dumps(arguments)) > ASKED_CHARS:
                message = "A person decides about this call, and the arguments are too large to be read."
                return self._answer_at_once(wanted, "arguments_too_large", message)
            step = self._begin_tool(wanted, tool, arguments, status=S.ASKED)
            return self._question(tool, step)
        self.journal.take(tool.agent_id)
        return self._invoke(wanted, tool, self._begin_tool(wanted, tool, arguments))

    def _take_up(self, wanted: Wanted, step: Step, tool: Tool | None) -> Outcome | None:
        """A call that an attempt before this one left open."""
        if tool is None or tool.agent_id != step.request.get("agentId"):
            return self._answer_at_once(wanted, "unknown_tool", "This tool is there no more.", step)
        if step.status is S.BEGUN and step.request.get("effect") == Effect.ONCE:
            lost = Failure(
                FailureKind.TRANSIENT,
                "worker_lost",
                "The worker that made this call vanished.",
                outcome_unknown=True,
            )
            step = self._end(self._begin_again(step), status=S.UNKNOWN, failure=lost.as_json())
        if step.status is not S.BEGUN:
            return self._question(tool, step)
        self.journal.take(tool.agent_id)
        return self._invoke(wanted, tool, self._begin_again(step))

    def _decided(self, wanted: Wanted, step: Step, decision: JSONObject) -> Outcome | None:
        """A person has decided about the call."""
        response = decision.get("response") or {}
        if step.status is S.UNKNOWN:
            if decision["approved"] and response.get("action") == "done":
                begun = self._begin_again(step)
                self._end(begun, status=S.DONE, result=told(self._clean(response.get("result"))))
                self._got(self.pending.popleft(), str(self.steps[-1].result))
                return None
            if not decision["approved"]:
                message = "Whether the call took effect is not known, and it is not made again."
                return self._answer_at_once(wanted, "outcome_unknown", message, step)
        elif not decision["approved"]:
            said = [str(each) for each in (response.get("reason"), decision.get("comments")) if each]
            message = f"A person refused this call{': ' + ' '.join(said) if said else '.'}"
            return self._answer_at_once(wanted, "rejected", message, step)
        tool = self.tools.get(wanted.name)
        try:
            if tool is None or tool.agent_id != step.request.get("agentId"):
                raise Unfit("unknown_tool", "This tool is there no more.")
            arguments = llm_tools.fitting(response.get("edited", step.request["arguments"]), tool)
        except Unfit as unfit:
            return self._answer_at_once(wanted, unfit.code, unfit.message, step)
        request = {**step.request, "arguments": arguments}
        edited = arguments != step.request["arguments"]
        begun = replace(step, request=request, request_hash=_hash(request), failure=None)
        self.journal.take(tool.agent_id)
        return self._invoke(wanted, tool, self._begin_again(begun), edited=edited)

    def _invoke(self, wanted: Wanted, tool: Tool, step: Step, *, edited: bool = False) -> Outcome | None:
        outcome = self._call(wanted, tool, step, edited=edited)
        self.journal.give_back(tool.agent_id)
        return outcome

    def _call(self, wanted: Wanted, tool: Tool, step: Step, *, edited: bool) -> Outcome | None:
        began = time.monotonic()
        arguments = step.request["arguments"]
        key = self._key(step.number)
        outcome = llm_tools.invoke(self.call, tool, arguments, key=key, deadline=self.deadline)
        seconds = time.monotonic() - began
        wrong: Failure | None = None
        if isinstance(outcome, Completed):
            result = self._clean(outcome.output)
            text = told({"calledWith": arguments, "gave": result} if edited else result)
        else:
            wrong = outcome.failure
            if wrong.outcome_unknown and tool.effect == Effect.ONCE:
                step = self._end(
                    step,
                    status=S.UNKNOWN,
                    usage=outcome.usage,
                    failure=wrong.as_json(),
                    seconds=seconds,
                    called=True,
                )
                return self._question(tool, step)
            if self.call.cancel.cancelled:
                return Failed(wrong)  # the step stays open: it was stopped, not answered
            text = told_error(wrong.code, wrong.message)
        self._end(
            step,
            status=S.DONE,
            result=text,
            usage=outcome.usage,
            failure=wrong.as_json() if wrong else None,
            seconds=seconds,
            called=True,
        )
        self._got(self.pending.popleft(), text)
        return None

    def _answer_at_once(
        self, wanted: Wanted, code: str, message: str, step: Step | None = None
    ) -> Outcome | None:
        """Tell the model why its call was not made."""
        if step is None:
            begun = self._begin(
                StepKind.TOOL,
                name=wanted.name[:200],
                request={"callId": wanted.call_id, "arguments": wanted.arguments[:2000]},
                digest_of=[wanted.name, wanted.arguments],
            )
        else:
            begun = self._begin_again(step)
        text = told_error(code, message)
        self._end(begun, status=S.DONE, result=text)
        self._got(self.pending.popleft(), text)
        return None

    def _question(self, tool: Tool, step: Step) -> Outcome:
        unknown = Failure.from_json(step.failure) if step.status is S.UNKNOWN and step.failure else None
        return llm_tools.question(
            tool,
            step.request["arguments"],
            step=step.number,
            request_hash=step.request_hash,
            unknown=unknown,
        )

    # -- steps --------------------------------------------------------------------------

    def _begin_tool(
        self, wanted: Wanted, tool: Tool, arguments: JSONObject, *, status: StepStatus = S.BEGUN
    ) -> Step:
        request = {
            "callId": wanted.call_id,
            "agentId": tool.agent_id,
            "arguments": self._clean(arguments),
            "effect": tool.effect,
        }
        return self._begin(
            StepKind.TOOL, name=tool.name, request=request, digest_of=_bound(request), status=status
        )

    def _begin(
        self,
        kind: StepKind,
        *,
        name: str,
        request: JSONObject,
        digest_of: JSONValue,
        status: StepStatus = S.BEGUN,
    ) -> Step:
        again = self._open
        number = again.number if again is not None else len(self.steps) + 1
        step = Step(number, kind, name, status, request, digest(digest_of))
        if again is not None:
            self.steps.pop()
        self.journal.begin(step)
        self.steps.append(step)
        return step

    def _begin_again(self, step: Step) -> Step:
        begun = replace(step, status=S.BEGUN)
        self.journal.begin(begun)
        self.steps[-1] = begun
        return begun

    def _end(self, step: Step, **came: Any) -> Step:
        ended = replace(step, **came)
        if ended.failure is not None:
            ended = replace(ended, failure=self._clean(ended.failure))
        if ended.usage:
            self.spent.append(ended.usage)
        self.steps[-1] = ended
        self.journal.end(ended)
        return ended

    def _key(self, number: int) -> str:
        """Of the operation itself, for the one question of an agent without tools."""
        key = self.call.idempotency_key
        return key if number == 1 and not self.tools else f"{key}:step:{number}"

    def _clean(self, value: JSONValue) -> JSONValue:
        return self.call.clean(measured(value)[0])

    # -- where it stops -------------------------------------------------------------------

    def _over(self) -> Failure | None:
        """The limit that has been reached: nothing more is asked for."""
        limits, used = self.parts.limits, usage.total(step.usage for step in self.steps)
        turns = sum(step.kind is StepKind.MODEL and step.status in (S.DONE, S.FAILED) for step in self.steps)
        tokens = used.get("inputTokens", 0) + used.get("outputTokens", 0)
        cost = usage.amount_in(used, self.models[0].cost.currency)
        seconds = sum(step.seconds for step in self.steps)
        for name, unit, reached, limit in (
            ("turn", "turns", turns, limits.max_turns if self.tools else None),
            ("token", "tokens", tokens, limits.max_tokens),
            ("cost", self.models[0].cost.currency, cost, limits.max_cost),
            ("time", "ms", round(seconds * 1000), limits.timeout),
        ):
            if limit is not None and reached >= limit:
                message = (
                    f"The agent has used {reached:g} {unit} and may use {limit:g}, without a final answer."
                )
                evidence = {"reached": reached, "limit": limit, "steps": len(self.steps)}
                return Failure(FailureKind.CONFIGURATION, f"llm_{name}_limit", message, evidence=evidence)
        return None

    def _held(self, held: Held) -> Outcome:
        if held.reason in ("paused", "budget"):
            return Postponed()
        return Failed(_stopped(held.reason))


def _stopped(reason: str) -> Failure:
    if reason == "timeout":
        return Failure(FailureKind.TRANSIENT, "timeout", "The agent did not come to an end in time.")
    return Failure(FailureKind.TRANSIENT, "cancelled", f"The agent was stopped: {reason}.")


def _bound(request: JSONObject) -> JSONValue:
    """What a person's approval is about."""
    return [request.get("agentId"), request.get("arguments")]


def _hash(request: JSONObject) -> str:
    return digest(_bound(request))


def _stored(answer: llm.Answer) -> JSONObject:
    return {
        "text": answer.text,
        "finishReason": answer.finish_reason,
        "calls": [
            {"id": each.call_id, "name": each.name, "arguments": each.arguments} for each in answer.wanted
        ],
    }


def _answer_of(step: Step) -> llm.Answer:
    stored = step.result
    wanted = tuple(
        Wanted(each["id"] or f"call-{step.number}-{place}", each["name"], each["arguments"])
        for place, each in enumerate(stored["calls"], 1)
    )
    return llm.Answer(stored["text"], step.name, stored["finishReason"], "", {}, wanted)
