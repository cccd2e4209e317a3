"""What follows from what an agent said: pure decisions that `run` carries out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agentflow.agents.calls import (
    CIRCUIT_OPEN,
    AskTool,
    AwaitAgent,
    AwaitBudget,
    AwaitCallback,
    AwaitChild,
    Completed,
    Failed,
    Outcome,
    Postponed,
    StartChild,
)
from agentflow.conf import LIMITS
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.conditions import NoBranchMatched, choose, holds
from agentflow.workflow.expressions import ExpressionError
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.plan import PlanBlock
from executions.models import AttemptOutcome
from executions.recovery.decision import (
    POISON,
    UNKNOWN_OUTCOME,
    WORKER_LOST,
    Cause,
    Decision,
    Strategy,
)
from executions.recovery.healing import AS_WRITTEN, Healing
from executions.states import BlockStatus as B

_ASKED = {Cause.UNKNOWN_OUTCOME: UNKNOWN_OUTCOME, Cause.POISON: POISON}  # why a person is asked
REVIEW = "review"  # the reason of a block whose output a person looks at
BUDGET = "budget"  # the reason of a block that waits for a word about a budget
BUDGET_DAY = "budget_day"  # of one that waits for the next day, which brings another budget
AGENT = "agent"  # the reason of a block that waits for an agent
TOOL_AGENT = "tool_agent"  # and of one that waits for an agent which its own wants to call
CHILD = "child"  # the reason of a block that waits for the sub-workflow that it started
TOOL_CHILD = "tool_child"  # and of one whose agent called it
SHUT_MIN_S, SHUT_MAX_S = 0.5, 15.0  # between two looks at an open circuit
CALLBACK = "callback"  # the reason of a block whose agent will bring its result later
REPEAT_EXHAUSTED = "repeat_exhausted"  # every round was accepted, and `until` never held
FIX_SCHEMA: JSONObject = {
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {"enum": ["retry", "complete", "skip", "fail", "abort"]},
        "output": {},
        "agentId": {"type": "string", "minLength": 1, "maxLength": LIMITS.block_id_chars},
        "configuration": {"type": "object"},
        "input": {"type": "object"},
    },
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt that this process holds."""

    pk: int
    idx: int
    attempt: int
    effect: str
    effect_seq: int
    crashes: int
    tries_from: int = 0
    iteration: int = 0
    round: int = 0

    @property
    def tries(self) -> int:
        """Attempts that answered since they are counted: a vanished worker is no fault of the agent."""
        return self.attempt - self.crashes - self.tries_from


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """A place of an agent, to be taken or waited for."""

    agent_id: str
    limit: int
    rate: int | None = None  # calls a minute


@dataclass(frozen=True, slots=True)
class Change:
    """The next state of one block.

    `attempt` fences a walker's change; None where the block was not running.  `ask` is the kind of
    question to open: `fix`, `budget`, or `tool` about the `tool` that an agent wants to call.  `ended` is
    the outcome that the attempt is recorded with.  `afresh` counts the block's retries anew; `again`
    begins the next round of a `repeat`.  `items` are the rows of a `forEach` to be made, `wait_for` names
    the event that a block waits for.  `times` are when the call began and ended, in seconds of this
    process's monotonic clock.
    """

    pk: int
    idx: int
    status: B
    iteration: int = 0
    attempt: int | None = None
    output: JSONValue = None
    input: JSONValue = None
    error: JSONObject | None = None
    reason: str = ""
    choice: tuple[int, ...] | None = None
    delay_s: float | None = None
    ended: AttemptOutcome | None = None
    agent_id: str = ""
    ask: str = ""
    tool: AskTool | None = None
    child: Any = None  # the child to start: `starting.Child`
    step: str = ""  # the key of the one that starts the child, of the block's agent
    afresh: bool = False
    again: bool = False
    items: list[JSONValue] | None = None
    wait_for: tuple[str, str] | None = None  # type and correlation of the event to wait for
    times: tuple[float, float] | None = None
    place: tuple[str, int, int] | None = None  # concurrency key, limit and priority of the place to wait for
    limited: bool = False  # the attempt held a place of its agent
    addressed: bool = False  # the other side was told where to bring a result: one that is there counts
    usage: JSONObject | None = None  # what the attempt used up
    injected: JSONObject | None = None  # the fault that the attempt met on purpose
    budget: Any = None  # the one that is used up, to be asked about: `budgets.Overspent`
    # These are waited for, none: any.  Without `ended` nobody was called, and the claim is handed back.
    agents: tuple[AgentPlace, ...] | None = None
    ends_run: Strategy | None = None  # the block's failure ends the run, which is undone or goes back then


def judge(
    planned: PlanBlock,
    claim: Claim,
    outcome: Outcome,
    *,
    scope: Callable[[], dict[str, JSONValue]],
    uniform: Callable[[], float] = random.random,
    healing: Healing = AS_WRITTEN,
    agent_id: str | None = None,
) -> Change:
    """The change that an outcome asks for.  A `StartChild` is resolved before, by the walker.

    `scope` gives the names for the block's conditions, its own output among them; `agent_id` is who was
    called where the block does not name it.
    """
    base = Change(
        pk=claim.pk,
        idx=claim.idx,
        status=B.COMPLETED,
        iteration=claim.iteration,
        attempt=claim.attempt,
        agent_id=agent_id or ("" if planned.routed else planned.block.agent_id or ""),
    )
    if not isinstance(outcome, StartChild | AwaitCallback):
        base = replace(base, usage=outcome.usage)
    if isinstance(outcome, AwaitBudget):
        return budget_spent(base, outcome)
    if isinstance(outcome, AskTool):
        return tool_asked(planned, base, outcome)
    if isinstance(outcome, Postponed):
        return replace(base, status=B.READY, reason="postponed", ended=AttemptOutcome.WAITED, afresh=True)
    if isinstance(outcome, AwaitAgent):
        return tool_busy(planned, base, outcome)
    if isinstance(outcome, AwaitChild):
        return child_called(base, outcome)
    if isinstance(outcome, AwaitCallback):
        return replace(base, status=B.WAITING_EXTERNAL, reason=CALLBACK, delay_s=outcome.timeout_s)
    if isinstance(outcome, Completed):
        if planned.repeat_until is not None:
            return round_ended(planned, base, claim, outcome.output, scope=scope)
        return completed(planned, base, outcome.output, scope=scope)
    assert isinstance(outcome, Failed)
    return failed(planned, base, claim, outcome.failure, uniform=uniform, healing=healing)


def named(planned: PlanBlock) -> frozenset[str]:
    """The blocks that `judge` may ask the scope for."""
    found: frozenset[str] = frozenset()
    for expression in (planned.conditions, planned.repeat_until):
        if expression is not None:
            found |= expression.block_refs
    return found


def completed(
    planned: PlanBlock,
    base: Change,
    output: JSONValue,
    *,
    scope: Callable[[], dict[str, JSONValue]],
    reviewed: bool = False,
) -> Change:
    """Completed, with the branches its conditions choose; a choice that fails asks a person.

    What a person is to look at first waits with its output, unless it was `reviewed`.
    An item of a `forEach` chooses nothing: its block does, once all items are settled.
    """
    ended = AttemptOutcome.OK if base.attempt is not None else None
    if planned.reviewed and not reviewed and (planned.items is None or base.iteration):
        return replace(
            base, status=B.WAITING_HUMAN, output=output, reason=REVIEW, ask=REVIEW, ended=ended, error=None
        )
    if planned.conditions is None or base.iteration:
        return replace(base, status=B.COMPLETED, output=output, ended=ended)
    names = scope()
    names["blocks"] = {**names["blocks"], planned.block_id: {"output": output, "status": "completed"}}
    try:
        choice = choose(planned.conditions, names)
    except (NoBranchMatched, ExpressionError) as error:
        failure = Failure(
            FailureKind.CONFIGURATION,
            error.code,
            str(error),
            evidence={"field": "conditions", "output": output},
        )
        return ask_fix(base, failure)
    return replace(base, status=B.COMPLETED, output=output, choice=choice.taken, ended=ended)


def round_ended(
    planned: PlanBlock,
    base: Change,
    claim: Claim,
    output: JSONValue,
    *,
    scope: Callable[[], dict[str, JSONValue]],
) -> Change:
    """One round of a `repeat`: completed when `until` holds, else the next, up to its bound."""
    repeat = planned.block.repeat
    assert repeat is not None
    assert planned.repeat_until is not None
    names = scope()
    names["blocks"] = {**names["blocks"], planned.block_id: {"output": output, "status": "completed"}}
    names["index"] = claim.round
    try:
        done = holds(planned.repeat_until, names)
    except ExpressionError as error:
        return ask_fix(base, Failure(FailureKind.CONFIGURATION, error.code, f"repeat.until: {error}"))
    if done:
        return completed(planned, base, output, scope=scope)
    if claim.round + 1 >= repeat.max_iterations:
        failure = Failure(
            FailureKind.CONFIGURATION,
            REPEAT_EXHAUSTED,
            f"After {repeat.max_iterations} rounds `until` still did not hold.",
            evidence={"output": output},
        )
        return give_up(planned, replace(base, output=output, ended=AttemptOutcome.OK), failure)
    return replace(
        base,
        status=B.READY,
        reason="repeat",
        output=output,
        ended=AttemptOutcome.OK,
        afresh=True,
        again=True,
    )


def failed(
    planned: PlanBlock,
    base: Change,
    claim: Claim,
    failure: Failure,
    *,
    uniform: Callable[[], float],
    healing: Healing = AS_WRITTEN,
) -> Change:
    """What recovery decides, within what the block's policy and its effect allow."""
    base = replace(base, ended=AttemptOutcome.ERROR)
    if failure.code == CIRCUIT_OPEN:
        base = replace(base, error=failure.as_json())
        return kept_out(planned, base, failure, uniform=uniform)
    failure, decision = healing.decided(planned, claim, failure, agent_id=base.agent_id, uniform=uniform)
    return decided(base, failure, decision)


def decided(base: Change, failure: Failure, decision: Decision) -> Change:
    """The change that carries a decision out; it is kept with the failure, which is the attempt's."""
    base = replace(base, error={**failure.as_json(), "recovery": decision.as_json()})
    match decision.strategy:
        case Strategy.RETRY if decision.cause is Cause.WORKER_LOST:
            return replace(base, status=B.READY, reason=WORKER_LOST)
        case Strategy.RETRY:
            return replace(base, status=B.READY, reason="retry", delay_s=decision.after_s)
        case Strategy.REASSIGN:
            return replace(base, status=B.READY, reason="reassign")
        case Strategy.QUEUE:
            return replace(base, status=B.READY, reason="queued", delay_s=decision.after_s)
        case Strategy.ASK:
            reason = _ASKED.get(decision.cause, "fix")
            return replace(base, status=B.WAITING_HUMAN, reason=reason, ask="fix")
    unknown = decision.cause is Cause.UNKNOWN_OUTCOME
    return replace(
        base,
        status=B.FAILED,
        reason=UNKNOWN_OUTCOME if unknown else failure.code,
        ends_run=decision.strategy if decision.strategy is not Strategy.FAIL else None,
    )


def kept_out(planned: PlanBlock, base: Change, failure: Failure, *, uniform: Callable[[], float]) -> Change:
    """Nobody was called: the block waits, and none of its tries is used up.

    Not longer than some seconds at a time, for the circuit may be reset by hand.  A block whose agent is
    chosen comes back within a moment, and is given another: its attempt is kept, to tell whom it was not.
    """
    if planned.chosen:
        return replace(base, status=B.READY, reason=CIRCUIT_OPEN, delay_s=SHUT_MIN_S * uniform())
    wait_s = min(max(failure.retry_after_s or 0.0, SHUT_MIN_S), SHUT_MAX_S) * (1 + uniform() / 4)
    return replace(base, status=B.READY, reason=CIRCUIT_OPEN, delay_s=wait_s, ended=None)


def tool_asked(planned: PlanBlock, base: Change, asked: AskTool) -> Change:
    """The agent waits for a person's word about a call; one that may have happened may also fail it."""
    if asked.unknown is not None and planned.block.on_unknown_outcome == "fail":
        error = asked.unknown.as_json()
        return replace(
            base, status=B.FAILED, reason="unknown_outcome", error=error, ended=AttemptOutcome.ERROR
        )
    return replace(
        base, status=B.WAITING_HUMAN, reason="tool", ask="tool", tool=asked, ended=AttemptOutcome.WAITED
    )


def tool_busy(planned: PlanBlock, base: Change, busy: AwaitAgent) -> Change:
    """The agent goes on where it is as soon as the one that it wants to call has a place."""
    return replace(
        base,
        status=B.WAITING_EXTERNAL,
        reason=TOOL_AGENT,
        ended=AttemptOutcome.WAITED,
        afresh=True,
        delay_s=planned.patience_s,
        agents=(AgentPlace(busy.agent_id, busy.places, busy.rate),),
    )


def budget_spent(base: Change, spent: AwaitBudget) -> Change:
    """The agent goes on where it is once there is more to spend."""
    change: Change = spent.change
    return replace(change, afresh=True, agent_id=base.agent_id, usage=base.usage)


def child_called(base: Change, called: AwaitChild) -> Change:
    """The agent goes on where it is as soon as the sub-workflow that it called has ended."""
    return replace(
        base,
        status=B.WAITING_EXTERNAL,
        reason=TOOL_CHILD,
        ended=AttemptOutcome.WAITED,
        afresh=True,
        child=called.child,
        step=called.step,
    )


def give_up(planned: PlanBlock, base: Change, failure: Failure) -> Change:
    """Nothing is left to try without a person."""
    if planned.retry.on_exhausted == "fail":
        return replace(base, status=B.FAILED, reason=failure.code, error=failure.as_json())
    return ask_fix(base, failure)


def ask_fix(base: Change, failure: Failure, *, reason: str = "fix") -> Change:
    return replace(
        base,
        status=B.WAITING_HUMAN,
        reason=reason,
        error=failure.as_json(),
        ask="fix",
        ended=base.ended or (AttemptOutcome.ERROR if base.attempt is not None else None),
    )


def rescued(planned: PlanBlock, claim: Claim, *, healing: Healing = AS_WRITTEN) -> Change:
    """The worker vanished with the block in hand.  `claim.crashes` counts this crash already."""
    failure = Failure(
        FailureKind.TRANSIENT,
        WORKER_LOST,
        f"The worker that ran attempt {claim.attempt} vanished.",
        outcome_unknown=True,
    )
    failure, decision = healing.decided(planned, claim, failure)
    if decision.cause is Cause.POISON:
        message = f"The block's worker vanished {claim.crashes} times."
        failure = replace(failure, code=POISON, message=message)
    base = Change(
        pk=claim.pk,
        idx=claim.idx,
        status=B.READY,
        iteration=claim.iteration,
        attempt=claim.attempt,
        ended=AttemptOutcome.RESCUED,
        agent_id="" if planned.routed else planned.block.agent_id or "",
    )
    return decided(base, failure, decision)
