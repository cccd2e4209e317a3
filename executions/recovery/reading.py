"""What a decision needs from the rows: read only after a failure, and only what its ladder asks for.

Nothing for a failure without a written ladder but the workspace's settings, which are kept for a moment;
one statement for what was tried before, one for the recovery point where the ladder goes back to one, one
for what strategies came to where the order may be learned, which is kept for a moment.
"""

from __future__ import annotations

from agentflow.workflow.definition import Recovery
from agentflow.workflow.failures import Failure
from agentflow.workflow.plan import PlanBlock
from executions.engine.ahead import AHEAD
from executions.engine.choosing import others
from executions.engine.facts import Facts

from . import experience, settings
from .decision import Candidates, History, Strategy
from .healing import Failing, Healing
from .ordering import SWAPPED, Experience
from .past import Past, past_of, safe_point
from .rules import classify


class Reader(Healing):
    """For one failure of one run."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._past: Past | None = None

    def classified(self, planned: PlanBlock, failure: Failure, agent_id: str) -> tuple[Failure, str]:
        found = classify(
            failure,
            settings.of(self._facts.workspace_id).rules,
            block=planned.block_id,
            template=str(self._facts.version.template_id),
            agent=agent_id,
        )
        settings.tell_broken(found.broken)
        return found.failure, found.rule

    def recovery(self, planned: PlanBlock) -> Recovery:
        return settings.recovery_of(self._facts.workspace_id, planned)

    def history(
        self, planned: PlanBlock, claim: Failing, failure: Failure, ladder: tuple[Strategy, ...]
    ) -> History:
        if not ladder:
            return super().history(planned, claim, failure, ladder)
        past = self._before(claim)
        unknown = failure.outcome_unknown and claim.effect != "pure"
        return History(
            effect=claim.effect,
            crashes=claim.crashes,
            used=past.used,
            bound=unknown or past.bound is not None,
            experience=self._experience(planned, failure, ladder),
        )

    def candidates(
        self, planned: PlanBlock, claim: Failing, agent_id: str, ladder: tuple[Strategy, ...]
    ) -> Candidates:
        agents: tuple[str, ...] = ()
        if Strategy.REASSIGN in ladder and planned.routed:
            past = self._before(claim)
            agents = others(self._facts, planned, claim.effect, past.failed | past.left | {agent_id})
        point, why = self._point(claim) if Strategy.RESTART in ladder else (None, "")
        return Candidates(agents=agents, point=point, reassigned=planned.routed, no_point=why)

    def _experience(
        self, planned: PlanBlock, failure: Failure, ladder: tuple[Strategy, ...]
    ) -> Experience | None:
        if not self.recovery(planned).adaptive or len(SWAPPED.intersection(ladder)) < 2:
            return None
        known = experience.of(self._facts.workspace_id, self._facts.version.template_id)
        return experience.about(known, str(failure.kind), failure.code, ladder)

    def _point(self, claim: Failing) -> tuple[int | None, str]:
        facts = self._facts
        if facts.parent_execution_id is not None:
            return None, "a sub-workflow runs again only with the execution that started it"
        bound = self._before(claim).bound is not None
        return safe_point(facts.execution_id, blocks=len(facts.plan.blocks), but=0 if bound else claim.pk)

    def _before(self, claim: Failing) -> Past:
        if self._past is None:
            first = claim.pk == AHEAD
            self._past = Past() if first else past_of(claim.pk, claim.attempt, claim.effect)
        return self._past
