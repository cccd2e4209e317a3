"""The faults that one execution meets: read with its facts, asked before each call, and on only while the
row says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self
from uuid import UUID

from django.db import connection

from agentflow.agents.injection import Injection
from agentflow.types import JSONObject

from .rules import Rule, Target, draw

# What the row says at this moment: the facts of a run are read once, and a mode is ended at once.
_ON = """
SELECT 1 FROM executions_faultinjection f JOIN governance_workspace w ON w.id = f.workspace_id
WHERE f.id = %s AND f.ended_at IS NULL AND f.ends_at > statement_timestamp() AND w.environment <> 'production'
"""


class Attempt(Protocol):
    @property
    def attempt(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def round(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Faults:
    """`key` is the execution's business key, or its id."""

    injection_id: UUID
    seed: str
    rules: tuple[Rule, ...]
    counts: bool
    key: str

    @classmethod
    def of(cls, injection_id: UUID, seed: str, rules: Any, counts: bool, key: str) -> Self:
        return cls(injection_id, seed, tuple(map(Rule.of, rules)), counts, key)

    def drawn(
        self,
        claim: Attempt,
        *,
        epoch: int,
        block_id: str,
        template_id: UUID,
        agent_id: str | None,
        tool_type: str,
    ) -> Injection | None:
        """What happens to the attempt; the same each time it is asked for."""
        target = Target(str(template_id), block_id, agent_id or "", tool_type, claim.attempt)
        which = f"{self.key}:{block_id}:{claim.iteration}:{claim.round}:{epoch}:{claim.attempt}"
        found = draw(self.rules, self.seed, target, which)
        if found is None:
            return None
        mark: JSONObject = {"fault": str(found.fault.kind), "rule": found.rule, "counted": self.counts}
        if found.fault.ms:
            mark["ms"] = found.fault.ms
        return Injection(found.fault, mark, counts=self.counts)

    def are_on(self) -> bool:
        with connection.cursor() as cursor:
            cursor.execute(_ON, [self.injection_id])
            return cursor.fetchone() is not None
