"""What the checker says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Violation:
    """`invariant` is I1 to I12."""

    invariant: str
    execution_id: UUID
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.execution_id}: {self.what}"


class Ledger(Protocol):
    """What agents wrote down: by idempotency key, how often they were called and did their effect."""

    @property
    def calls(self) -> Mapping[str, int]: ...

    @property
    def effects(self) -> Mapping[str, int]: ...
