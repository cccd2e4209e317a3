"""Which calls a workspace's faults hit.  Pure, and the same for the same seed.

    draw((Rule(Fault(FaultKind.SLOW, ms=500), share=0.1),), "seed", target, "order-17:score:0:1:1")

What is drawn depends on the seed, the rule, and the attempt: execution, block, item, epoch and attempt.  An
execution is known by its business key where it has one, so that it can be started again and meet the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from agentflow.types import JSONObject
from agentflow.workflow.faults import Fault

MAX_RULES = 20


@dataclass(frozen=True, slots=True)
class Target:
    """A call that a rule may be about."""

    template_id: str
    block_id: str
    agent_id: str
    tool_type: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault, and the share of which calls it hits; empty lists: of any."""

    fault: Fault
    share: float
    templates: frozenset[str] = frozenset()
    blocks: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()
    tool_types: frozenset[str] = frozenset()
    attempts: int | None = None  # only the first so many of a block

    @classmethod
    def of(cls, stored: JSONObject) -> Self:
        """`{"kind": "slow", "ms": 500, "share": 0.1, "blocks": ["score"]}`"""
        return cls(
            Fault.of(stored),
            share=float(stored["share"]),
            templates=frozenset(stored.get("templates", ())),
            blocks=frozenset(stored.get("blocks", ())),
            agents=frozenset(stored.get("agents", ())),
            tool_types=frozenset(stored.get("toolTypes", ())),
            attempts=stored.get("attempts"),
        )

    def is_about(self, target: Target) -> bool:
        return (
            (not self.templates or target.template_id in self.templates)
            and (not self.blocks or target.block_id in self.blocks)
            and (not self.agents or target.agent_id in self.agents)
            and (not self.tool_types or target.tool_type in self.tool_types)
            and (self.attempts is None or target.attempt <= self.attempts)
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    rule: int  # its place, from 1
    fault: Fault


def draw(rules: Sequence[Rule], seed: str, target: Target, which: str) -> Drawn | None:
    """The fault of the first rule that is about the call and hits it.  `which` names the attempt."""
    for place, rule in enumerate(rules, 1):
        if rule.is_about(target) and _chance(seed, place, which) < rule.share:
            return Drawn(place, rule.fault)
    return None


def _chance(seed: str, place: int, which: str) -> float:
    """Between 0 and 1, and below 1."""
    digest = hashlib.blake2b(f"{seed}\0{place}\0{which}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
