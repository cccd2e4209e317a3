"""The commands on a run.  Each is one transaction with one audit entry; a repeat changes nothing."""

from __future__ import annotations

from uuid import UUID

from agentflow.errors import NotFound
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions import dispatch
from executions.engine.facts import Facts, facts_of
from executions.engine.run import Run, locked
from executions.states import EXECUTION
from executions.states import ExecutionStatus as E


def pause(*, execution_id: UUID, by: User | None, reason: str = "") -> None:
    """Open nothing more.  Running calls finish and are recorded; approvals may be answered.

    Raises:
        IllegalTransition: the run has ended, or is being cancelled.
    """
    facts = _facts(execution_id)
    with locked(facts) as run:
        if run.status is E.PAUSED:
            return
        run.move_to(E.PAUSED)
        _audit(facts, "execution.pause", by, reason)


def resume(*, execution_id: UUID, by: User | None, reason: str = "") -> None:
    """Go on: what the pause left undecided is decided now.

    Raises:
        IllegalTransition: the run has ended, or is being cancelled.
    """
    facts = _facts(execution_id)
    with locked(facts) as run:
        if run.status is E.RUNNING:
            return
        if run.status is not E.PAUSED:
            EXECUTION.check(run.status, E.PAUSED)  # pending: resuming what was never paused
            return
        run.move_to(E.RUNNING if run.places.entered() else E.PENDING)
        run.advance()
        run.look_again(0)
        _audit(facts, "execution.resume", by, reason)
        dispatch.on_commit_hint(execution_id)


def cancel(*, execution_id: UUID, by: User | None, reason: str = "") -> None:
    """Stop cooperatively: what waits is cancelled now, calls in flight within seconds, children too.

    Raises:
        IllegalTransition: the run has ended.
    """
    facts = _facts(execution_id)
    with locked(facts) as run:
        if run.status in (E.CANCELLING, E.CANCELLED):
            return
        stop(run, code="cancelled", message=reason or "Cancelled by a person.")
        _audit(facts, "execution.cancel", by, reason)


def stop(run: Run, *, code: str, message: str) -> None:
    """Cancel a run that is locked already: by command, by its deadline, or with its parent."""
    error: JSONObject = {"code": code, "message": message}
    run.stop(ends_as=E.CANCELLED, reason=code, error=error)


def _facts(execution_id: UUID) -> Facts:
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    return facts


def _audit(facts: Facts, action: str, by: User | None, reason: str) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=facts.workspace_id,
        target_type="execution",
        target_id=str(facts.execution_id),
        detail={"reason": reason} if reason else {},
    )
