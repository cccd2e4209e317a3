"""What the pages of governance need from above: who refers to a secret."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ..bus import Port


@dataclass(frozen=True, slots=True)
class SecretUse:
    """Who refers to a secret, as names and addresses of pages, and when the last of them was called."""

    by: tuple[tuple[str, str], ...]
    last_used: datetime | None


class SecretUses(Protocol):
    """Bound by agents.  A constant number of queries."""

    def __call__(self, workspace_ids: Collection[UUID]) -> Mapping[tuple[UUID, str], SecretUse]: ...


secret_uses: Port[SecretUses] = Port("governance.secret_uses")
