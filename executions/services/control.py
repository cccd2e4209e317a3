"""The commands on a run.  Each is one transaction with one audit entry; a repeat changes nothing."""

from __future__ import annotations

from uuid import UUID

from agentflow.errors import Conflict, NotFound
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions import dispatch
from executions.engine.facts import Facts, facts_of
from executions.engine.run import Run, locked
from executions.models import Compensation
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


class NotCompensable(Conflict):
    """The execution can no longer be asked to undo what it did."""

    code = "not_compensable"
    remedy = "Undo by hand what its completed blocks did, or restart the execution and cancel it then."


def cancel(*, execution_id: UUID, by: User | None, reason: str = "", compensate: bool = False) -> None:
    """Stop cooperatively: what waits is cancelled now, calls in flight within seconds, children too.

    With `compensate` it undoes what completed blocks did before it ends, also when it is being stopped
    already.  Without, a compensation that is under way is stopped: what is left of it is cancelled.

    Raises:
        IllegalTransition: the run has ended.
        NotCompensable: its compensation was stopped, or it is about to complete.
    """
    facts = _facts(execution_id)
    with locked(facts) as run:
        if run.status is E.CANCELLING:
            changed = _compensate_too(run) if compensate else _stop_compensating(run)
        elif run.status is E.CANCELLED and (not compensate or run.compensation or not run.undoable()):
            changed = False
        else:
            stop(run, code="cancelled", message=reason or "Cancelled by a person.", compensate=compensate)
            changed = True
        if changed:
            _audit(facts, "execution.cancel", by, reason, {"compensate": True} if compensate else {})


def _compensate_too(run: Run) -> bool:
    if run.compensation in (Compensation.DUE, Compensation.RUNNING):
        return False
    if run.compensation or run.ends_as == E.COMPLETED:
        raise NotCompensable
    run.set_compensation(Compensation.DUE)
    run.tell_compensation()
    return True


def _stop_compensating(run: Run) -> bool:
    if run.compensation not in (Compensation.DUE, Compensation.RUNNING):
        return False
    run.stop_compensating("compensation_stopped")
    return True


def stop(run: Run, *, code: str, message: str, compensate: bool = False) -> None:
    """Cancel a run that is locked already: by command, by its deadline, or with its parent."""
    error: JSONObject = {"code": code, "message": message}
    run.stop(ends_as=E.CANCELLED, reason=code, error=error, compensate=compensate)


def _facts(execution_id: UUID) -> Facts:
    facts = facts_of(execution_id)
    if facts is None:
        raise NotFound()
    return facts


def _audit(facts: Facts, action: str, by: User | None, reason: str, detail: JSONObject | None = None) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=facts.workspace_id,
        target_type="execution",
        target_id=str(facts.execution_id),
        detail={**({"reason": reason} if reason else {}), **(detail or {})},
    )
