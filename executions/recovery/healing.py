"""What a decision is made from: the block's policy, what was tried, and what there is to go on with.

Here it is what the template says and nothing more, so nothing is read.  `reading.Reader` knows also what
the workspace says, and reads what a written ladder needs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from agentflow.conf import LIMITS
from agentflow.workflow.definition import Recovery
from agentflow.workflow.failures import Failure
from agentflow.workflow.plan import PlanBlock

from .decision import Candidates, Decision, History, Policy, Strategy, cause_of, decide


class Failing(Protocol):
    """The attempt that failed, as its claim tells of it."""

    @property
    def pk(self) -> int: ...
    @property
    def idx(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def effect(self) -> str: ...
    @property
    def crashes(self) -> int: ...
    @property
    def tries(self) -> int: ...


class Healing:
    def classified(self, planned: PlanBlock, failure: Failure, agent_id: str) -> tuple[Failure, str]:
        """The failure as the workspace's rules see it, and the rule that did."""
        return failure, ""

    def recovery(self, planned: PlanBlock) -> Recovery:
        return planned.recovery

    def history(
        self, planned: PlanBlock, claim: Failing, failure: Failure, ladder: tuple[Strategy, ...]
    ) -> History:
        """Where no ladder is written, every try before was a retry."""
        used = {Strategy.RETRY: max(claim.tries - 1, 0)}
        return History(effect=claim.effect, crashes=claim.crashes, used=used)

    def candidates(
        self, planned: PlanBlock, claim: Failing, agent_id: str, ladder: tuple[Strategy, ...]
    ) -> Candidates:
        return Candidates(reassigned=False)

    def decided(
        self,
        planned: PlanBlock,
        claim: Failing,
        failure: Failure,
        *,
        agent_id: str = "",
        uniform: Callable[[], float] = random.random,
    ) -> tuple[Failure, Decision]:
        """What is done about an attempt that failed, and the failure as it was classified."""
        failure, rule = self.classified(planned, failure, agent_id)
        policy = self.policy(planned)
        poison_crashes = LIMITS.poison_crashes
        cause = cause_of(failure, effect=claim.effect, crashes=claim.crashes, poison_crashes=poison_crashes)
        ladder = policy.stated(cause) or ()
        decision = decide(
            failure,
            policy,
            self.history(planned, claim, failure, ladder),
            self.candidates(planned, claim, agent_id, ladder),
            poison_crashes=poison_crashes,
            uniform=uniform,
        )
        return failure, replace(decision, rule=rule) if rule else decision

    def policy(self, planned: PlanBlock) -> Policy:
        block = planned.block
        return Policy(
            retry=planned.retry,
            recovery=self.recovery(planned),
            on_unknown=Strategy.FAIL if block.on_unknown_outcome == "fail" else Strategy.ASK,
            compensates=planned.compensates is not None,
        )


AS_WRITTEN = Healing()
