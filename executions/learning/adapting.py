"""What a person makes of proposals: a new draft version, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from agentflow.errors import Conflict, NotFound, Unprocessable
from agentflow.governance import access, audit
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from templates_app import selectors
from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring
from templates_app.states import VersionStatus

from . import looking
from .models import Proposal
from .proposing import patched
from .states import PROPOSAL, ProposalState

REASON_CHARS = 1_000


class ProposalDecided(Conflict):
    """The proposal is not open any more."""

    code = "proposal_decided"


class StaleProposal(Conflict):
    """The template has a newer version than the one that the proposal changes."""

    code = "stale_proposal"
    remedy = "Look through the failures again: POST /templates/{id}/proposals."


class NothingProposed(Unprocessable):
    """There is no open proposal for the template."""

    code = "nothing_proposed"


def accept(*, proposal_id: UUID, by: User, reason: str = "") -> TemplateVersion:
    """Make a draft version with this change.

    Raises:
        as `adapt`
    """
    row = Proposal.objects.filter(pk=proposal_id).first()
    if row is None:
        raise NotFound("There is no such proposal.")
    return adapt(template_id=row.template_id, by=by, proposal_ids=[proposal_id], reason=reason)


def adapt(
    *, template_id: UUID, by: User, proposal_ids: Sequence[UUID] | None = None, reason: str = ""
) -> TemplateVersion:
    """Make one draft version with these changes, or with all open ones.  It is published by a person.

    Raises:
        NotFound, NotPermitted
        NothingProposed: none is named, and none is open.
        ProposalDecided: one was accepted, dismissed or withdrawn.
        StaleProposal: the template's newest version is another than they change.
        InvalidDefinition: the changes do not go together.
        TemplateArchived
    """
    with transaction.atomic():
        rows = _locked(template_id, proposal_ids)
        template = Template.objects.filter(pk=template_id).first()
        if template is None:
            raise NotFound("There is no such template.")
        access.require(by, Permission.AUTHOR, template.workspace_id)
        if not rows:
            raise NothingProposed
        for row in rows:
            _check_open(row)
        version = _draft(template, by, rows)
        for row in rows:
            row.made = version.number
            _decide(row, ProposalState.ACCEPTED, by, reason, {"versionNumber": version.number})
        transaction.on_commit(partial(looking.look, template_id), robust=True)
    return version


def _draft(template: Template, by: User, rows: Sequence[Proposal]) -> TemplateVersion:
    newest = selectors.version(template)
    if any(row.base != newest.number for row in rows):
        raise StaleProposal(versionNumber=newest.number)
    body = patched(newest.definition, [(row.block_id, row.patch) for row in rows])
    try:
        version = authoring.update_template(
            template_id=template.pk,
            by=by,
            definition=parse(body),
            status=VersionStatus.DRAFT,
            expected=str(newest.number),
        )
    except authoring.StaleTemplate as error:
        raise StaleProposal from error
    if version.number == newest.number:
        raise StaleProposal(versionNumber=newest.number)
    return version


@transaction.atomic
def dismiss(*, proposal_id: UUID, by: User, reason: str) -> None:
    """Leave the template as it is; the same is not proposed again for a month.

    Raises:
        NotFound, NotPermitted, ProposalDecided
    """
    row = Proposal.objects.select_for_update(of=("self",)).filter(pk=proposal_id).first()
    if row is None:
        raise NotFound("There is no such proposal.")
    access.require(by, Permission.AUTHOR, row.workspace_id)
    _check_open(row)
    _decide(row, ProposalState.DISMISSED, by, reason, {})


def _locked(template_id: UUID, proposal_ids: Sequence[UUID] | None) -> list[Proposal]:
    """In one order for all who lock them."""
    rows = Proposal.objects.select_for_update(of=("self",)).filter(template=template_id).order_by("pk")
    if proposal_ids is None:
        return list(rows.filter(state=ProposalState.OPEN))
    found = list(rows.filter(pk__in=proposal_ids))
    if len(found) < len(set(proposal_ids)):
        raise NotFound("There is no such proposal for this template.", pointer="/proposalIds")
    return found


def _check_open(row: Proposal) -> None:
    if row.state != ProposalState.OPEN:
        raise ProposalDecided(state=row.state)


def _decide(row: Proposal, to: ProposalState, by: User, reason: str, detail: JSONObject) -> None:
    PROPOSAL.check(ProposalState(row.state), to)
    row.state, row.reason, row.decided_by, row.decided_at = to, reason, by, timezone.now()
    row.save(update_fields=["state", "reason", "decided_by", "decided_at", "made"])
    audit.record(
        action=f"proposal.{'accept' if to == ProposalState.ACCEPTED else 'dismiss'}",
        by=by,
        workspace_id=row.workspace_id,
        target_type="proposal",
        target_id=str(row.pk),
        detail={"blockId": row.block_id, "kind": row.kind, "reason": reason, **detail},
    )
