"""What a walker gives to the blocks it claimed: outputs before them, items, events they waited for."""

from __future__ import annotations

from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.plan import PlanBlock
from executions.blobs import of_row

from . import statements
from .ahead import AHEAD
from .facts import Facts
from .judging import Claim
from .opening import SettledBlocks, simulated_event
from .rows import int_array, loads
from .run import raw_cursor

OUTPUTS_KEPT = 2000


class Inputs:
    """Of one walk.  An output is read once and kept, until `forget`."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.epoch = 1
        self.rework: JSONObject | None = None  # why the run was last sent back
        self.outputs: SettledBlocks = {}

    def forget(self) -> None:
        self.outputs.clear()

    def keep(self, idx: int, output: JSONValue) -> None:
        """What a block of this walk gave, which may be in no row yet."""
        self.outputs[idx] = {"output": output, "status": "completed"}

    def read(self, claims: list[Claim]) -> SettledBlocks:
        """The outputs that these claims read, in at most one query."""
        wanted: set[int] = set()
        for claim in claims:
            planned = self.facts.plan[claim.idx]
            wanted |= self._read_by(planned)
            if planned.repeat_until is not None:
                self.outputs.pop(planned.idx, None)  # the last round's output is in the row
        missing = [idx for idx in wanted if idx not in self.outputs]
        held = not any(claim.pk == AHEAD for claim in claims)  # else the last outputs are in no row yet
        if held and len(self.outputs) + len(missing) > OUTPUTS_KEPT:
            self.outputs.clear()
            missing = list(wanted)
        if missing:
            rows = raw_cursor().execute(
                statements.OUTPUTS,
                {"execution": self.facts.execution_id, "epoch": self.epoch, "idxs": int_array(missing)},
            )
            for idx, status, output, blob in rows:
                self.outputs[idx] = {"output": of_row(output, blob), "status": status}
        return {idx: self.outputs[idx] for idx in wanted if idx in self.outputs}

    def _read_by(self, planned: PlanBlock) -> set[int]:
        plan = self.facts.plan
        wanted = set(planned.sources) if planned.mapping is None else set()
        if planned.mapping is not None:
            wanted |= plan.refs(planned.mapping.block_refs)
        if planned.conditions is not None:
            wanted |= plan.refs(planned.conditions.block_refs - {planned.block_id})
        if planned.repeat_until is not None:
            wanted |= plan.refs(planned.repeat_until.block_refs)
        return wanted

    def events(self, claims: list[Claim]) -> dict[int, JSONValue]:
        """What blocks with `wait.event` waited for, by their place in the plan."""
        idxs = {claim.idx for claim in claims}
        waited = [idx for idx in idxs if (wait := self.facts.plan[idx].block.wait) and wait.event]
        if not waited:
            return {}
        if self.facts.simulation is not None:
            return {idx: simulated_event(self.facts, self.facts.plan[idx]) for idx in waited}
        rows = raw_cursor().execute(
            statements.EVENTS_TAKEN,
            {"execution": self.facts.execution_id, "epoch": self.epoch, "idxs": waited},
        )
        return {idx: loads(event) for idx, event in rows}

    def items(self, claims: list[Claim]) -> dict[int, JSONValue]:
        """What the rows of a `forEach` stand for, by row."""
        pks = [claim.pk for claim in claims if claim.iteration]
        if not pks:
            return {}
        rows = raw_cursor().execute(
            "SELECT id, item FROM executions_blockexecution WHERE id = ANY(%s::bigint[])", (pks,)
        )
        return {pk: loads(item) for pk, item in rows}

    def by_default(self, planned: PlanBlock, known: SettledBlocks) -> JSONValue:
        """Without a mapping a block gets its completed dependencies' outputs, or the run's input."""
        if not planned.sources:
            return self.facts.input
        return {
            self.facts.plan[idx].block_id: known[idx]["output"]
            for idx in planned.sources
            if idx in known and known[idx]["status"] == "completed"
        }

    def scope(self, known: SettledBlocks, block_ids: frozenset[str]) -> dict[str, JSONValue]:
        """The names of an expression that refers to these blocks."""
        refs = self.facts.plan.refs(block_ids)
        return self.facts.scope({idx: known[idx] for idx in refs if idx in known}, self.rework)
