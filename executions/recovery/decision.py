"""What is done about a failed attempt: a ladder of strategies, of which the first that is possible is taken.

    decide(failure, policy, history, candidates) -> Decision(Strategy.RETRY, after_s=1.7)

Pure.  Each strategy that goes on by itself is taken a bounded number of times, so a ladder comes to its
last rung: a person, or an end.  An effect that must happen once and may have happened is never repeated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agentflow.types import JSONObject
from agentflow.workflow.definition import Recovery, RetryPolicy
from agentflow.workflow.failures import Failure
from agentflow.workflow.retry import delay_s, wants_retry

from .ordering import Experience, learned

POISON = "poison"  # the code of work that kills its workers
WORKER_LOST = "worker_lost"
UNKNOWN_OUTCOME = "unknown_outcome"
NO_AGENT = "no_agent"  # none was free as long as the block had patience
MOST_QUEUED = 10  # times that a block goes to wait for an agent on account of a failure


class Strategy(StrEnum):
    RETRY = "retry"  # again, after a backoff
    REASSIGN = "reassign"  # another agent, at once
    QUEUE = "queue"  # again once an agent is available
    RESTART = "restart"  # the execution goes back to its last recovery point
    ASK = "ask"  # a person decides
    COMPENSATE = "compensate"  # what was done is undone, and the execution ends as failed
    FAIL = "fail"  # the block fails, and its `onError` says what follows


class Cause(StrEnum):
    """Which ladder is taken: the failure's kind, or what weighs more than that."""

    TRANSIENT = "transient"
    AGENT = "agent"
    CONFIGURATION = "configuration"
    CRITICAL = "critical"
    UNKNOWN_OUTCOME = "unknownOutcome"  # the effect must happen once, and may have happened
    WORKER_LOST = "workerLost"
    POISON = "poison"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the block, its template and its workspace say, laid over each other."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    recovery: Recovery = field(default_factory=Recovery)
    on_unknown: Strategy = Strategy.ASK
    compensates: bool = False  # what undoes something never fails unasked

    @property
    def last(self) -> Strategy:
        """When nothing is left to try."""
        return Strategy.FAIL if self.retry.on_exhausted == "fail" else Strategy.ASK

    def stated(self, cause: Cause) -> tuple[Strategy, ...] | None:
        """The ladder that somebody wrote down, if anybody did."""
        names: tuple[str, ...] | None = {
            Cause.TRANSIENT: self.recovery.transient,
            Cause.AGENT: self.recovery.agent,
            Cause.CONFIGURATION: self.recovery.configuration,
            Cause.CRITICAL: self.recovery.critical,
            Cause.UNKNOWN_OUTCOME: self.recovery.unknown_outcome,
        }.get(cause)
        return None if names is None else tuple(map(Strategy, names))

    def ladder(self, cause: Cause, failure: Failure) -> tuple[Strategy, ...]:
        if cause is Cause.POISON:
            return (Strategy.ASK,)
        if cause is Cause.WORKER_LOST:
            return (Strategy.RETRY, Strategy.ASK)
        stated = self.stated(cause)
        if stated is not None:
            return (*stated, self.last)
        if cause is Cause.UNKNOWN_OUTCOME:
            return (self.on_unknown,)
        if cause is Cause.CRITICAL:
            return (Strategy.ASK if self.compensates else Strategy.FAIL,)
        wanted = wants_retry(self.retry, failure, 0)
        return (Strategy.RETRY, self.last) if wanted else (self.last,)


@dataclass(frozen=True, slots=True)
class History:
    """What was tried of a block since its tries are counted; a person's word begins the count anew.

    `bound`: what came of an attempt is not known, so only its agent would recognise a repeat.
    """

    effect: str = "once"
    crashes: int = 0
    used: Mapping[Strategy, int] = field(default_factory=dict)
    bound: bool = False
    experience: Experience | None = None  # with such failures, of this block and others

    def count(self, strategy: Strategy) -> int:
        return self.used.get(strategy, 0)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What there is to go on with, as far as the policy asks for it."""

    agents: tuple[str, ...] = ()  # that could take over, the best first
    point: int | None = None  # a recovery point from which no effect that must happen once is repeated
    reassigned: bool = True  # whether the block's agent can be another at all
    no_point: str = "there is no recovery point to go back to"


@dataclass(frozen=True, slots=True)
class Decision:
    """`passed` are the rungs that could not be taken, each with the reason.

    `learned`: the rungs were tried in another order than they are written in, and from what that follows.
    """

    strategy: Strategy
    cause: Cause
    after_s: float = 0.0
    agent_id: str = ""
    point: int | None = None
    passed: tuple[tuple[Strategy, str], ...] = ()
    rule: str = ""  # of the workspace, that classified the failure
    learned: JSONObject | None = None

    def as_json(self) -> JSONObject:
        """`{"strategy": "reassign", "cause": "agent", "agentId": "b", "passed": [...]}`"""
        found: JSONObject = {"strategy": str(self.strategy), "cause": str(self.cause)}
        if self.after_s:
            found["afterSeconds"] = round(self.after_s, 3)
        if self.agent_id:
            found["agentId"] = self.agent_id
        if self.point is not None:
            found["recoveryPointId"] = self.point
        if self.passed:
            found["passed"] = [{"strategy": str(name), "why": why} for name, why in self.passed]
        if self.rule:
            found["rule"] = self.rule
        if self.learned:
            found["learned"] = self.learned
        return found


def cause_of(failure: Failure, *, effect: str, crashes: int, poison_crashes: int) -> Cause:
    if failure.outcome_unknown and effect == "once":
        return Cause.UNKNOWN_OUTCOME
    if failure.code == POISON or crashes >= poison_crashes:
        return Cause.POISON
    return Cause.WORKER_LOST if failure.code == WORKER_LOST else Cause(str(failure.kind))


def decide(
    failure: Failure,
    policy: Policy,
    history: History,
    candidates: Candidates,
    *,
    poison_crashes: int = 3,
    uniform: Callable[[], float] = random.random,
) -> Decision:
    """The first rung of the failure's ladder that is possible."""
    cause = cause_of(failure, effect=history.effect, crashes=history.crashes, poison_crashes=poison_crashes)
    passed: list[tuple[Strategy, str]] = []
    ladder, why_so = _in_order(policy.ladder(cause, failure), cause, policy, history.experience)
    for strategy in ladder:
        why_not = _impossible(strategy, cause, failure, policy, history, candidates)
        if why_not is None:
            return Decision(
                strategy,
                cause,
                after_s=_wait_s(strategy, cause, failure, policy, history, uniform),
                agent_id=candidates.agents[0] if strategy is Strategy.REASSIGN else "",
                point=candidates.point if strategy is Strategy.RESTART else None,
                passed=tuple(passed),
                learned=why_so,
            )
        passed.append((strategy, why_not))
    return Decision(Strategy.ASK, cause, passed=tuple(passed), learned=why_so)


def _in_order(
    ladder: tuple[Strategy, ...], cause: Cause, policy: Policy, experience: Experience | None
) -> tuple[tuple[Strategy, ...], JSONObject | None]:
    """The ladder as it is climbed, and why not as it is written.

    Ladders that nobody wrote keep their order, as does that of an effect that must happen once.
    """
    adapts = policy.recovery.adaptive and policy.stated(cause) is not None
    if experience is None or not adapts or cause is Cause.UNKNOWN_OUTCOME:
        return ladder, None
    order = learned(ladder, experience.tried)
    return order, None if order == ladder else experience.as_json(ladder, order)


def _impossible(
    strategy: Strategy,
    cause: Cause,
    failure: Failure,
    policy: Policy,
    history: History,
    candidates: Candidates,
) -> str | None:
    """Why a rung cannot be taken; None: it can."""
    used = history.count(strategy)
    repeats = strategy in (Strategy.RETRY, Strategy.REASSIGN, Strategy.QUEUE, Strategy.RESTART)
    if repeats and cause is Cause.UNKNOWN_OUTCOME:
        return "its effect may have happened, and must happen once"
    if policy.compensates and strategy in (Strategy.FAIL, Strategy.COMPENSATE, Strategy.RESTART):
        return "what undoes something does not fail unasked"
    match strategy:
        case Strategy.RETRY if cause is not Cause.WORKER_LOST and used >= policy.retry.max_retries:
            return f"tried again {_times(used)}"
        case Strategy.REASSIGN if history.bound:
            return "what an attempt did is not known, and only its agent would recognise a repeat"
        case Strategy.REASSIGN if not candidates.reassigned:
            return "the block names its agent and no alternatives"
        case Strategy.REASSIGN if used >= policy.recovery.reassignments:
            return f"given to another agent {_times(used)}"
        case Strategy.REASSIGN if not candidates.agents:
            return "no other agent is available"
        case Strategy.QUEUE if failure.code == NO_AGENT:
            return "it has waited for an agent as long as it may"
        case Strategy.QUEUE if used >= MOST_QUEUED:
            return f"waited for an agent {_times(used)}"
        case Strategy.RESTART if used >= policy.recovery.restarts:
            return f"restarted {_times(used)}"
        case Strategy.RESTART if candidates.point is None:
            return candidates.no_point
    return None


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _wait_s(
    strategy: Strategy,
    cause: Cause,
    failure: Failure,
    policy: Policy,
    history: History,
    uniform: Callable[[], float],
) -> float:
    if cause is Cause.WORKER_LOST or strategy not in (Strategy.RETRY, Strategy.QUEUE):
        return 0.0
    backoff_s = delay_s(policy.retry, history.count(strategy) + 1, uniform)
    return max(backoff_s, failure.retry_after_s or 0.0)
