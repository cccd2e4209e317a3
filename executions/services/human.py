"""What a person's decision does to the block that waited for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.settlement import Reason
from executions import blobs, dispatch
from executions.engine import budgets, journal
from executions.engine.facts import as_text, facts_of
from executions.engine.judging import Change
from executions.engine.opening import Answered
from executions.engine.run import Run, locked
from executions.incidents import fixing
from executions.incidents.fixes import Fix
from executions.models import BlockExecution, Execution, PointKind
from executions.states import BlockStatus as B

from . import editing

# What a question that nobody answered makes of its block, by why.
EXPIRED, WITHDRAWN = "approval_timeout", "approval_withdrawn"
_UNANSWERED = {
    EXPIRED: "Nobody answered in time.",
    WITHDRAWN: "An operator withdrew the question.",
}
_REFUSED = {"kind": "critical", "code": "rejected", "message": "A person refused this step."}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What people made of a question; `by` is None where a rule decided.

    `response` is as the kind's schema has it, with the changed value as `edited` where it was approved with
    changes.
    """

    kind: str
    approved: bool
    response: JSONValue
    by: User | None
    approval_id: UUID | None
    comments: str = ""


# Gives what becomes of the block.  The run is locked; the change is made by the caller.
Handler = Callable[[Run, BlockExecution, Verdict], Change]


def _by_template(run: Run, block: BlockExecution, verdict: Verdict) -> Change:
    """What the template asked, and recovery's questions."""
    waited = Answered.of(block)
    return run.answered(waited, kind=verdict.kind, approved=verdict.approved, response=verdict.response)


def _about_a_budget(run: Run, block: BlockExecution, verdict: Verdict) -> Change:
    """More may be used, another does it for less, or the block fails."""
    change = Change(pk=block.pk, idx=block.idx, iteration=block.iteration, status=B.READY, reason="extended")
    given = verdict.response if isinstance(verdict.response, dict) else {}
    if verdict.approved and given.get("action") == "cheaper":
        budgets.go_on_cheaper(run, block.pk, str(given["agentId"]), given)
        return replace(change, reason="cheaper_agent")
    if verdict.approved and given.get("action") != "stop":
        budgets.extend(run, block.pk, given)
        return change
    budgets.stop(run, block.pk)
    return replace(change, status=B.FAILED, reason=budgets.EXCEEDED, error=budgets.stopped_error())


def _about_a_tool(run: Run, block: BlockExecution, verdict: Verdict) -> Change:
    """The agent goes on, and does what was decided: a refusal is something that it is told."""
    operation = journal.operation(block.execution_id, block.block_id, block.iteration, block.effect_seq)
    decision: JSONObject = {
        "approved": verdict.approved,
        "response": verdict.response if isinstance(verdict.response, dict) else {},
        "by": verdict.by.get_username() if verdict.by else "",
        **({"comments": verdict.comments} if verdict.comments else {}),
    }
    journal.decide(run.cursor, operation, decision)
    return Change(
        pk=block.pk,
        idx=block.idx,
        iteration=block.iteration,
        status=B.READY,
        reason="tool_decided",
        afresh=True,
    )


def _edited(run: Run, block: BlockExecution, verdict: Verdict) -> Change:
    """The blocks before it gave what the person says they gave; then it goes on."""
    response = verdict.response
    if verdict.approved and verdict.by is not None and isinstance(response, dict) and "edited" in response:
        edited = response["edited"]
        assert isinstance(edited, dict)  # the gate has looked
        editing.overlay(run, edited, by=verdict.by, reason=f"approval {verdict.approval_id}")
    return _by_template(run, block, verdict)


def _reviewed(run: Run, block: BlockExecution, verdict: Verdict) -> Change:
    """The output flows on as it is or as it was changed; or it does not."""
    planned = run.facts.plan[block.idx]
    change = Change(pk=block.pk, idx=block.idx, iteration=block.iteration, status=B.COMPLETED)
    given = verdict.response if isinstance(verdict.response, dict) else {}
    output = given["edited"] if "edited" in given else blobs.of_row(as_text(block.output), block.output_blob)
    if verdict.approved:
        return run.complete(replace(change, reason="approved"), output, reviewed=True)
    on_reject = planned.human.on_reject if planned.human is not None else "fail"
    if on_reject == "fail":
        return replace(change, status=B.FAILED, reason="rejected", error=_REFUSED)
    if on_reject == "skip":
        return replace(change, status=B.SKIPPED, reason=str(Reason.REJECTED))
    refused = {"approved": False, "response": verdict.response, "output": output}
    return run.complete(change, refused, reviewed=True)


HANDLERS: dict[str, Handler] = {
    "approval": _by_template,
    "input": _by_template,
    "edit": _edited,
    "review": _reviewed,
    "fix": _by_template,
    "tool": _about_a_tool,
    "budget": _about_a_budget,
}


def answered(
    *,
    execution: Execution,
    block_pk: int,
    kind: str,
    approved: bool,
    response: JSONValue,
    by: User | None,
    unanswered: str = "",
    approval_id: UUID | None = None,
    comments: str = "",
) -> None:
    """Move the block on because of a decision, in the transaction that records the decision.

    `execution` is locked by the caller.  The block may have moved before (a cancel): then nothing happens.
    `unanswered` says why there is no decision: `EXPIRED` or `WITHDRAWN`.
    """
    facts = facts_of(execution.pk)
    assert facts is not None
    block = BlockExecution.objects.get(pk=block_pk, execution=execution)
    if block.status != B.WAITING_HUMAN:
        return
    if kind == "fix" and approved:
        _change(block, response, approval_id)
    with locked(facts) as run:
        if unanswered:
            change = _unanswered(block, unanswered)
            if kind == "budget":
                budgets.stop(run, block_pk)
        else:
            verdict = Verdict(kind, approved, response, by, approval_id, comments)
            change = HANDLERS[kind](run, block, verdict)
        run.settle([change], leaving=B.WAITING_HUMAN)
        if not unanswered and not run.compensates:
            decided = facts.plan[block.idx].block
            run.mark(PointKind.DECISION, decided.name or decided.block_id, by_id=by.pk if by else None)
        if run.works:
            run.look_again(2)
            dispatch.on_commit_hint(execution.pk)


def _change(block: BlockExecution, response: JSONValue, approval_id: UUID | None) -> None:
    """Let the block be called otherwise from now on, where the answer says so."""
    patch = Fix.of(response).patch
    if patch:
        fixing.apply(
            execution_id=block.execution_id,
            block_id=block.block_id,
            patch=patch,
            said=f"the answer to {approval_id}",
        )


def answered_all(*, execution: Execution, verdicts: Mapping[int, Verdict]) -> None:
    """As `answered`, of many blocks at once; those that have moved before stay as they are."""
    facts = facts_of(execution.pk)
    assert facts is not None
    blocks = BlockExecution.objects.filter(
        pk__in=list(verdicts), execution=execution, status=B.WAITING_HUMAN
    ).order_by("pk")
    with locked(facts) as run:
        changes = [HANDLERS[verdicts[block.pk].kind](run, block, verdicts[block.pk]) for block in blocks]
        run.settle(changes, leaving=B.WAITING_HUMAN)
        if run.works:
            run.look_again(2)
            dispatch.on_commit_hint(execution.pk, facts.max_parallel)


def _unanswered(block: BlockExecution, code: str) -> Change:
    return Change(
        pk=block.pk,
        idx=block.idx,
        iteration=block.iteration,
        status=B.FAILED,
        reason=code,
        error={"kind": "critical", "code": code, "message": _UNANSWERED[code]},
    )
