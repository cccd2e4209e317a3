"""Looks through a template's failures, and keeps its open proposals as they say."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog
from django.db import DatabaseError, InterfaceError, transaction
from django.utils import timezone

from agentflow.types import JSONObject
from executions.engine.run import raw_cursor

from . import evidence
from .facts import Proposed
from .models import Proposal, ProposalLook
from .proposing import propose
from .states import PROPOSAL, ProposalState

log = structlog.get_logger(__name__)

AT_ONCE = 20  # templates, in one look of the clock
MOST_OPEN = 50  # proposals of a template
NOT_AGAIN = timedelta(days=30)  # after it was dismissed
GONE = "The failures that it was made for come no more, or a newer version needs it no more."

# Those with failures lately, or with proposals that may have to go.  One that a clock has taken is not due
# for another; if that dies, in an hour.
_DUE = """
INSERT INTO executions_proposallook AS l (template_id, at)
SELECT t.id, statement_timestamp() FROM (
  SELECT template_id AS id FROM executions_incident
  WHERE NOT simulated AND last_seen > statement_timestamp() - interval '7 days'
  UNION SELECT template_id FROM executions_proposal WHERE state = 'open') t
LEFT JOIN executions_proposallook d ON d.template_id = t.id
WHERE d.at IS NULL OR d.at < statement_timestamp() - interval '1 hour'
ORDER BY t.id LIMIT %(most)s
ON CONFLICT (template_id) DO UPDATE SET at = excluded.at
WHERE l.at < statement_timestamp() - interval '1 hour'
RETURNING template_id
"""


def look_due() -> int:
    """Look through templates whose last look is an hour ago.  Gives how many."""
    due = [row[0] for row in raw_cursor().execute(_DUE, {"most": AT_ONCE}).fetchall()]
    for template_id in due:
        try:
            look(template_id)
        except (DatabaseError, InterfaceError):
            raise
        except Exception:  # one template must not keep the clock from the others
            log.exception("proposals_not_made", template_id=str(template_id))
    return len(due)


def look(template_id: UUID) -> None:
    """Make proposals, refresh those that still hold, withdraw the others.  Safe to repeat."""
    found = evidence.read(template_id)
    proposed = propose(found.facts) if found is not None else []
    proposed.sort(key=lambda each: -each.evidence["failures"])
    with transaction.atomic():
        ProposalLook.objects.bulk_create([ProposalLook(template_id=template_id)], ignore_conflicts=True)
        ProposalLook.objects.select_for_update().get(pk=template_id)
        rows = Proposal.objects.select_for_update(of=("self",)).filter(
            template=template_id, state=ProposalState.OPEN
        )
        left = {(row.block_id, row.kind): row for row in rows.order_by("pk")}
        refused = _dismissed(template_id)
        for each in proposed[:MOST_OPEN]:
            assert found is not None
            key = each.block_id, each.kind.value
            row = left.pop(key, None)
            if row is None and refused.get(key) == each.patch:
                continue
            _keep(row, each, found)
        for row in left.values():
            _withdraw(row)


def _keep(row: Proposal | None, each: Proposed, found: evidence.Evidence) -> None:
    told: JSONObject = {
        **each.evidence,
        **found.links(each.block_id, each.evidence["codes"], each.fits),
    }
    given = {
        "base": found.number,
        "patch": each.patch,
        "evidence": told,
        "predicted": each.predicted,
        "seen_at": timezone.now(),
    }
    if row is None:
        Proposal.objects.create(
            workspace_id=found.template.workspace_id,
            template=found.template,
            block_id=each.block_id,
            kind=each.kind.value,
            **given,
        )
        return
    for name, value in given.items():
        setattr(row, name, value)
    row.save(update_fields=list(given))


def _withdraw(row: Proposal) -> None:
    PROPOSAL.check(ProposalState(row.state), ProposalState.WITHDRAWN)
    row.state, row.reason, row.decided_at = ProposalState.WITHDRAWN, GONE, timezone.now()
    row.save(update_fields=["state", "reason", "decided_at"])


def _dismissed(template_id: UUID) -> dict[tuple[str, str], JSONObject]:
    rows = Proposal.objects.filter(
        template=template_id, state=ProposalState.DISMISSED, decided_at__gt=timezone.now() - NOT_AGAIN
    ).order_by("decided_at")
    return {(row.block_id, row.kind): row.patch for row in rows}
