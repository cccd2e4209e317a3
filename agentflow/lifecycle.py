"""Transition tables: which status may follow which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from .errors import Conflict

S = TypeVar("S", bound=str)


class IllegalTransition(Conflict):
    """That step is not allowed from the present status."""

    code = "illegal_transition"


class Lifecycle(Generic[S]):
    """The table of one state machine.

    Rows move by compare-and-set statements that name the statuses they leave; `leaving(to)` gives
    those statuses from the table, so no statement can invent an edge.
    """

    def __init__(self, table: Mapping[S, Iterable[S]]) -> None:
        self.table: dict[S, frozenset[S]] = {state: frozenset(nexts) for state, nexts in table.items()}

    def allows(self, before: S, after: S) -> bool:
        return after in self.table.get(before, frozenset())

    def check(self, before: S, after: S) -> None:
        if not self.allows(before, after):
            raise IllegalTransition(f"{before} cannot become {after}.", before=before, after=after)

    def leaving(self, to: S) -> tuple[S, ...]:
        """Every status from which `to` can be reached in one step."""
        return tuple(state for state, nexts in self.table.items() if to in nexts)

    @property
    def final(self) -> frozenset[S]:
        return frozenset(state for state, nexts in self.table.items() if not nexts)

    def as_mermaid(self) -> str:
        """The table as a Mermaid state diagram, for the documents that are generated from it."""
        lines = ["stateDiagram-v2"]
        for state, nexts in self.table.items():
            lines += [f"    {state} --> {after}" for after in sorted(nexts)] or [f"    {state} --> [*]"]
        return "\n".join(lines)
