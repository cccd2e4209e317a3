"""Recovery points made by people.  The automatic ones are taken where the run moves."""

from __future__ import annotations

from uuid import UUID

from agentflow.conf import LIMITS
from agentflow.errors import Conflict, NotFound
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions import selectors
from executions.engine import points
from executions.engine.facts import Facts, facts_of
from executions.engine.run import locked
from executions.models import PointKind, RecoveryPoint


class TooManyPoints(Conflict):
    """The execution has as many recovery points made by people as it may have."""

    code = "too_many_recovery_points"
    remedy = "Delete one that nobody needs any more."


def mark(*, execution_id: UUID, by: User, name: str = "") -> RecoveryPoint:
    """Take a recovery point of the execution as it is now.

    Raises:
        TooManyPoints
    """
    facts = _facts(execution_id)
    with locked(facts) as run:
        made = RecoveryPoint.objects.filter(execution=execution_id, kind=PointKind.MANUAL)
        if made.count() >= LIMITS.recovery_points_manual:
            raise TooManyPoints(f"The execution has {LIMITS.recovery_points_manual} of them.")
        point_id = points.write(run, PointKind.MANUAL, name=name, by_id=by.pk)
        _audit(facts, "execution.mark", by, {"recoveryPointId": point_id})
    return RecoveryPoint.objects.select_related("created_by").get(pk=point_id)


def unmark(*, execution_id: UUID, point_id: int, by: User) -> None:
    """Delete a recovery point; what it pointed to stays.

    Raises:
        NotFound: the execution has no such one.
    """
    facts = _facts(execution_id)
    with locked(facts):
        selectors.point(execution_id, point_id).delete()
        _audit(facts, "execution.unmark", by, {"recoveryPointId": point_id})


def _facts(execution_id: UUID) -> Facts:
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    return facts


def _audit(facts: Facts, action: str, by: User, detail: JSONObject) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=facts.workspace_id,
        target_type="execution",
        target_id=str(facts.execution_id),
        detail=detail,
    )
