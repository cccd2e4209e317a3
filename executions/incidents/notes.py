"""Which changes are failures that an incident counts, noted by the transaction that settles them.

One statement for all of them, and none where nothing failed.  `feed` counts what is noted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from agentflow.agents.calls import CIRCUIT_OPEN
from executions.engine.facts import as_text
from executions.models import AttemptOutcome
from executions.states import BlockStatus

from .fingerprint import fingerprint

if TYPE_CHECKING:
    from executions.engine.judging import Change
    from executions.engine.run import Run

# Nobody is at fault: a person said so, or nobody was called.
NO_FAULT = frozenset({"rejected", "failed_by_hand", "cancelled", CIRCUIT_OPEN})

_NOTE = """
INSERT INTO executions_failurenote (block, fingerprint, failure, at)
SELECT x.block, x.fingerprint, x.failure::jsonb, statement_timestamp()
FROM unnest(%(blocks)s::bigint[], %(fingerprints)s::text[], %(failures)s::text[])
  AS x(block, fingerprint, failure)
"""


def is_failure(change: Change) -> bool:
    """An attempt that failed or was lost, or a block that nobody was called for and that cannot go on."""
    if change.error is None or change.error.get("code") in NO_FAULT:
        return False
    if change.ended is not None:
        return change.ended in (AttemptOutcome.ERROR, AttemptOutcome.RESCUED) or change.ask == "fix"
    return change.status is BlockStatus.FAILED or change.ask == "fix"


def note(run: Run, changes: Sequence[Change], moved: Collection[int]) -> None:
    """Note the failures among the changes that were made."""
    failures = [change for change in changes if change.pk in moved and is_failure(change)]
    if not failures:
        return
    template_id, plan = run.facts.version.template_id, run.facts.plan
    run.execute(
        _NOTE,
        blocks=[change.pk for change in failures],
        fingerprints=[
            fingerprint(
                template_id,
                plan[change.idx].block_id,
                str((change.error or {}).get("code", "")),
                str((change.error or {}).get("message", "")),
                injected=change.injected is not None,
            )
            for change in failures
        ],
        failures=[as_text(change.error) for change in failures],
    )
