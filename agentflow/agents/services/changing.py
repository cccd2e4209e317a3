"""What every change of an agent, or of the rules for choosing one, has to tell."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from .. import registry
from ..ports import agents_changed


def tell(workspace_id: UUID, name: str = "") -> None:
    """In the transaction of the change of an agent or a script; no `name`: it may be any of the workspace."""
    agents_changed()(workspace_id, name)
    transaction.on_commit(registry.forget)
