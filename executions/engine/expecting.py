"""What a walker expects of blocks before it calls anybody: how long they take, and whether they only wait."""

from __future__ import annotations

from agentflow.agents import registry
from agentflow.agents.models import ToolType
from agentflow.types import JSONObject
from agentflow.workflow.plan import PlanBlock

from .callers import WORTH_MS
from .facts import Facts
from .profile import FAST_MS, history

FEW_KINDS = 32
# Who calls these waits for somebody else, until more is known.  A script is work for this machine.
_OUTSIDE = frozenset({ToolType.API, ToolType.MCP, ToolType.LLM, ToolType.A2A, ToolType.AGENT_SERVICE})


class Expected:
    """Of one run, as this process has known such blocks so far."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def ms(self, planned: PlanBlock) -> float:
        """Infinite where nothing is known, so that it counts as neither fast nor surely slow."""
        if self._facts.simulation is not None:
            return simulated_s(planned, self._facts.simulation) * 1000
        known = history.expect(planned.likeness)
        return float("inf") if known is None else known

    def is_fast(self, planned: PlanBlock) -> bool:
        return self.ms(planned) <= FAST_MS

    def all_fast(self) -> bool:
        """Whether every block may share a transaction with others; not asked of runs with many kinds."""
        kinds = self._facts.plan.alike
        return len(kinds) <= FEW_KINDS and all(map(self.is_fast, self._facts.plan.kinds))

    def waits(self, planned: PlanBlock) -> bool:
        """Whether its call is to wait for somebody outside, long enough to be worth another thread."""
        if self._facts.simulation is not None:
            return False
        known = history.waits(planned.likeness)
        return self._calls_out(planned) if known is None else known >= WORTH_MS

    def only_waits(self) -> bool:
        """Whether no block keeps this process at work for long; not asked of runs with many kinds."""
        kinds = self._facts.plan.alike
        return len(kinds) <= FEW_KINDS and all(map(self._is_light, self._facts.plan.kinds))

    def _is_light(self, planned: PlanBlock) -> bool:
        return planned.noop or planned.asks_input or self.ms(planned) <= WORTH_MS or self.waits(planned)

    def tool_type(self, agent_id: str | None, planned: PlanBlock) -> str:
        """Of whom it calls; empty where nobody has one."""
        spec = registry.resolve(self._facts.workspace_id, agent_id) if agent_id else None
        return spec.tool_type if spec is not None else str(planned.block.tool_type or "")

    def _calls_out(self, planned: PlanBlock) -> bool:
        block = planned.block
        if block.agent_id is None:
            return block.tool_type in _OUTSIDE
        if registry.is_builtin(block.agent_id):
            return False
        spec = registry.resolve(self._facts.workspace_id, block.agent_id)
        return spec is not None and spec.tool_type in _OUTSIDE


def simulated_s(planned: PlanBlock, script: JSONObject) -> float:
    """How long the simulator sleeps for a block, in seconds."""
    scale = float(script.get("scale") or 0)
    simulate = planned.block.configuration.get("simulate")
    runtime = simulate.get("runtimeSeconds") if isinstance(simulate, dict) else 0
    return scale * float(runtime) if isinstance(runtime, int | float) else 0.0
