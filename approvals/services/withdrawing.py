"""Taking a question back: an operator says that nobody is to answer it, and its step fails."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from executions.services import human

from ..models import Approval
from ..states import BY_OPERATOR, ApprovalStatus
from . import gate, holding, trail


@transaction.atomic
def withdraw(*, approval_id: UUID, by: User, reason: str) -> Approval:
    """Close a question unanswered; its step fails with `approval_withdrawn`.

    Done twice it is done once.

    Raises:
        NotFound, NotPermitted
        AlreadyDecided, Expired, Withdrawn: it is no longer open.
    """
    execution, approval = holding.locked(approval_id, by)
    access.require(by, Permission.OPERATE, approval.workspace_id)
    if approval.status != ApprovalStatus.PENDING:
        if approval.reason == BY_OPERATOR:
            return approval
        raise holding.closed(approval)
    Approval.objects.filter(pk=approval.pk).update(comments=reason)
    gate.Gate().cancel(
        execution_id=approval.execution_id, block_pks=[approval.block_execution_id], reason=BY_OPERATOR
    )
    human.answered(
        execution=execution,
        block_pk=approval.block_execution_id,
        kind=approval.kind,
        approved=False,
        response=None,
        by=by,
        unanswered=human.WITHDRAWN,
        approval_id=approval.pk,
    )
    trail.record("withdraw", approval, by, kind=approval.kind, reason=reason)
    approval.refresh_from_db()
    return approval
