"""The lock of a run, for transactions that touch rows beside it."""

from __future__ import annotations

from uuid import UUID

from executions.models import Execution


def lock(execution_id: UUID) -> Execution:
    """The run's row, held `FOR NO KEY UPDATE` until the transaction ends.

    Always the first lock of a transaction; blocks follow by id, then what belongs to apps above.

    Raises:
        Execution.DoesNotExist
    """
    return Execution.objects.select_for_update(no_key=True).get(pk=execution_id)
