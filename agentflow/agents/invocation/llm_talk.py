"""A conversation with a model: answers and calls of tools by turns, until it has its final answer.

The messages are made anew from the steps (module `llm_steps`), so what was answered is not asked again.
Tools, policies and limits come from the configuration alone: what a tool gives back is a message in the
tool's role and nothing else.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...integrations import llm
from ...integrations.llm import Wanted
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from ...workflow.large import LargeUnavailable
from .. import usage
from ..calls import (
    AskTool,
    AwaitAgent,
    AwaitBudget,
    AwaitChild,
    Call,
    Completed,
    Failed,
    Outcome,
    Postponed,
    StartChild,
)
from ..journal import Busy, Held, Step, StepKind, StepStatus
from ..llm_configuration import LLMConfiguration
from ..models import Effect
from ..output import BadOutput, check_schema
from . import llm_models, llm_tools
from .llm_models import Model, Said, failure
from .llm_steps import Steps, answer_of, hash_of, stored, worked
from .llm_tools import Tool, Unfit, Waits, told, told_error

ASKED_CHARS = 32_000  # of arguments that a person is to read
CALLS_MAX = 32  # that one answer may ask for
UNAVAILABLE = "output_unavailable"
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
    steps: Steps
    messages: list[JSONObject] = field(default_factory=list)
    pending: deque[Wanted] = field(default_factory=deque)
    answer: llm.Answer | None = None  # the last
    below: list[JSONObject] = field(default_factory=list)  # used in this attempt by agents that it called
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
        except LargeUnavailable as error:
            outcome = Failed(Failure(FailureKind.TRANSIENT, UNAVAILABLE, str(error)))
        used = usage.total([*self.steps.spent, *self.below])
        if not used or not isinstance(outcome, Completed | Failed | Waits):
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
        for step in self.steps.read():
            if step.kind is StepKind.MODEL:
                self._heard(answer_of(step))
            else:
                self._got(self.pending.popleft(), str(step.result))

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
        over = self.steps.over(self.parts.limits, self.models[0].cost.currency)
        if over is not None:
            return Failed(over)
        step = self.steps.begin(
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
            key=self.steps.key_of(step.number),
            deadline=self.deadline,
            parts=self.parts,
        )
        wrong = said.failure or self._unusable(said)
        self.steps.end(
            step,
            status=S.FAILED if wrong else S.DONE,
            name=said.answer.model if said.answer else step.name,
            result=None if wrong or said.answer is None else self.steps.clean(stored(said.answer)),
            usage=said.used or None,
            failure=wrong.as_json() if wrong else None,
            seconds=time.monotonic() - began,
        )
        if wrong is not None:
            return Failed(wrong)
        self._heard(answer_of(self.steps.all[-1]))
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
            output["turns"] = self.steps.count(StepKind.MODEL, S.DONE)
            output["toolCalls"] = self.steps.count(StepKind.TOOL, S.DONE)
        if self.schema is not None:
            output["data"] = json.loads(answer.text)
        return Completed(output)

    def _told_usage(self) -> JSONObject:
        used = self.steps.used()
        told: JSONObject = {name: used[name] for name in usage.TOKENS if name in used}
        if told:
            told["totalTokens"] = sum(told.values())
        return told

    # -- tools ------------------------------------------------------------------------

    def _use(self, wanted: Wanted) -> Outcome | None:
        """Answer one of the calls that the model asked for: with a result, an error, or a question."""
        open_ = self.steps.open
        if open_ is not None and (came := self._came_of(open_)) is not None:
            return self._child_ended(open_, came)
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
            step = self.steps.begin_tool(wanted, tool, arguments, status=S.ASKED)
            return self._question(tool, step)
        self.steps.journal.take(tool.agent_id)
        return self._invoke(wanted, tool, self.steps.begin_tool(wanted, tool, arguments))

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
            step = self.steps.end(self.steps.begin_again(step), status=S.UNKNOWN, failure=lost.as_json())
        if step.status is not S.BEGUN:
            return self._question(tool, step)
        self.steps.journal.take(tool.agent_id)
        return self._invoke(wanted, tool, self.steps.begin_again(step))

    def _decided(self, wanted: Wanted, step: Step, decision: JSONObject) -> Outcome | None:
        """A person has decided about the call."""
        response = decision.get("response") or {}
        if step.status is S.UNKNOWN:
            if decision["approved"] and response.get("action") == "done":
                begun = self.steps.begin_again(step)
                self.steps.end(begun, status=S.DONE, result=told(self.steps.clean(response.get("result"))))
                self._got(self.pending.popleft(), str(self.steps.all[-1].result))
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
        if arguments != step.request["arguments"]:
            request["edited"] = True
        begun = replace(step, request=request, request_hash=hash_of(request), failure=None)
        self.steps.journal.take(tool.agent_id)
        return self._invoke(wanted, tool, self.steps.begin_again(begun))

    def _invoke(self, wanted: Wanted, tool: Tool, step: Step) -> Outcome | None:
        outcome = self._call(wanted, tool, step)
        # A sub-workflow keeps the place until it has ended; an agent that called one does not.
        if tool.in_steps or not isinstance(outcome, AwaitChild):
            self.steps.journal.give_back(tool.agent_id)
        return outcome

    def _call(self, wanted: Wanted, tool: Tool, step: Step) -> Outcome | None:
        began = time.monotonic()
        arguments, key = step.request["arguments"], self.steps.key_of(step.number)
        journal = self.steps.journal.inside(tool.agent_id, key)
        outcome = llm_tools.invoke(self.call, tool, arguments, key, journal, deadline=self.deadline)
        seconds = time.monotonic() - began
        called = not isinstance(outcome, StartChild)
        if isinstance(outcome, Waits):  # the called goes on where it is, once this is called anew
            self.below.append(outcome.usage or {})
            return (
                replace(outcome, within=(tool.name, *outcome.within))
                if isinstance(outcome, AskTool)
                else outcome
            )
        if isinstance(outcome, StartChild):
            child = self.steps.journal.child(outcome)
            if not isinstance(child, Failure):
                return AwaitChild(key, child)
            outcome = Failed(child)
        if tool.in_steps:
            self.below.append(outcome.usage or {})
            outcome = replace(outcome, usage=None)  # its steps say it
            used, seconds = worked(journal)
            step = self.steps.begin_again(replace(step, request={**step.request, "used": used}))
        wrong: Failure | None = None
        if isinstance(outcome, Completed):
            text = _told_of(step, self.steps.clean(outcome.output))
        else:
            wrong = outcome.failure
            if wrong.outcome_unknown and tool.effect == Effect.ONCE:
                step = self.steps.end(
                    step,
                    status=S.UNKNOWN,
                    usage=outcome.usage,
                    failure=wrong.as_json(),
                    seconds=seconds,
                    called=True,
                )
                return self._question(tool, step)
            if self.call.cancel.cancelled or (tool.in_steps and wrong.code == UNAVAILABLE):
                return Failed(wrong)  # the step stays open: it was stopped, not answered
            text = told_error(wrong.code, wrong.message)
        self.steps.end(
            step,
            status=S.DONE,
            result=text,
            usage=outcome.usage,
            failure=wrong.as_json() if wrong else None,
            seconds=seconds,
            called=called,
        )
        self._got(self.pending.popleft(), text)
        return None

    def _came_of(self, step: Step) -> Completed | Failed | None:
        """What came of the sub-workflow that a step started, if it did; one that was stopped is none."""
        if step.status is not S.BEGUN or "executionId" not in step.request:
            return None
        return self.steps.journal.came_of(step)

    def _child_ended(self, step: Step, came: Completed | Failed) -> Outcome | None:
        wrong: Failure | None = None
        try:
            if isinstance(came, Failed):
                raise BadOutput(came.failure)
            text = _told_of(step, self.steps.clean(came.output))
        except BadOutput as error:
            wrong = error.failure
            text = told_error(wrong.code, wrong.message)
        begun = self.steps.begin_again(replace(step, request={**step.request, "used": came.usage}))
        self.steps.end(begun, status=S.DONE, result=text, failure=wrong.as_json() if wrong else None)
        self._got(self.pending.popleft(), text)
        return None

    def _answer_at_once(
        self, wanted: Wanted, code: str, message: str, step: Step | None = None
    ) -> Outcome | None:
        """Tell the model why its call was not made."""
        if step is None:
            begun = self.steps.begin(
                StepKind.TOOL,
                name=wanted.name[:200],
                request={"callId": wanted.call_id, "arguments": wanted.arguments[:2000]},
                digest_of=[wanted.name, wanted.arguments],
            )
        else:
            begun = self.steps.begin_again(step)
        text = told_error(code, message)
        self.steps.end(begun, status=S.DONE, result=text)
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

    def _held(self, held: Held) -> Outcome:
        if held.about is not None:
            return AwaitBudget(held.about)
        if held.reason == "paused" or self.call.within:  # else it would be told as an answer
            return Postponed()
        return Failed(_stopped(held.reason))


def _told_of(step: Step, result: JSONValue) -> str:
    """The model is told of arguments that are not its own."""
    if step.request.get("edited"):
        return told({"calledWith": step.request["arguments"], "gave": result})
    return told(result)


def _stopped(reason: str) -> Failure:
    if reason == "timeout":
        return Failure(FailureKind.TRANSIENT, "timeout", "The agent did not come to an end in time.")
    return Failure(FailureKind.TRANSIENT, "cancelled", f"The agent was stopped: {reason}.")
