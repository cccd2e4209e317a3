"""What the inspected questions of a sample mean for the rest of it."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import F
from django.db.models.functions import Now

from agentflow.governance.models import User
from executions.models import BlockExecution, Execution, Timer
from executions.services import human

from ..models import Approval, DecisionKind, Sample, SampleState
from ..states import APPROVAL, ApprovalStatus
from . import gate, sampling, successive, trail

S = ApprovalStatus
AT_ONCE = 200  # released with the decision; the clock does the rest at once


def hold(execution: Execution, approval: Approval) -> None:
    """What `look` will lock, before the blocks behind the question take places: their locks come last."""
    if approval.inspected and approval.sample_place is not None:
        successive.hold(execution.template_version_id)


def look(execution: Execution, approval: Approval, by: User | None) -> None:
    """See what a decision about an inspected question means for the rest."""
    if approval.sample_id is None or not approval.inspected:
        return
    sample = Sample.objects.select_related("block").get(pk=approval.sample_id)
    if sample.state != SampleState.OPEN:
        return
    if by is None or approval.status != S.APPROVED or approval.decision != DecisionKind.APPROVE:
        Sample.objects.filter(pk=sample.pk).update(state=SampleState.FAILED)
        gate.tell("approval_sample", approval, sample="failed")
        return
    block = sample.block
    if block is None:
        _look_at_successive(sample, approval, by)
        return
    sampling.draw_others(
        sample,
        BlockExecution.objects.filter(execution=block.execution_id, epoch=block.epoch, idx=block.idx),
    )
    passed = Approval.objects.filter(
        sample=sample, inspected=True, status=S.APPROVED, decision=DecisionKind.APPROVE
    ).values_list("block_execution__iteration", flat=True)
    if not set(sample.chosen) <= set(passed):
        return
    sample.state, sample.released_by = SampleState.PASSED, by
    sample.save(update_fields=["state", "released_by"])
    gate.tell("approval_sample", approval, sample="passed")
    rest = Approval.objects.filter(sample=sample, inspected=False, status=S.PENDING)
    release(execution, sample, rest.order_by("pk")[:AT_ONCE])
    Timer.objects.filter(subject__in=rest.values("pk")).update(due_at=Now())


def _look_at_successive(sample: Sample, approval: Approval, by: User) -> None:
    """The rest belongs to other executions: the clock releases each under its own lock."""
    successive.draw_others(sample)
    if not set(sample.chosen) <= successive.passed(sample):
        return
    sample.state, sample.released_by = SampleState.PASSED, by
    sample.save(update_fields=["state", "released_by"])
    gate.tell("approval_sample", approval, sample="passed")
    successive.let_go(sample)


def is_released(approval: Approval) -> bool:
    """Whether an open question has nobody to wait for: it was asked after its sample had passed."""
    sample = approval.sample
    return sample is not None and not approval.inspected and sample.state == SampleState.PASSED


def release(execution: Execution, sample: Sample, rows: Iterable[Approval]) -> None:
    """Let through what a sample answers for: each is closed with a record of its own."""
    found = list(rows)
    if not found or sample.released_by is None:
        return
    said = f"Released by sample: {len(sample.chosen)} of {sample.of} were inspected."
    leaving = APPROVAL.leaving(S.APPROVED)
    Approval.objects.filter(pk__in=[each.pk for each in found], status__in=leaving).update(
        status=S.APPROVED,
        decision=DecisionKind.APPROVE,
        released=True,
        responder=sample.released_by,
        comments=said,
        responded_at=Now(),
        closed_at=Now(),
        claimed_by=None,
        claimed_at=None,
        version=F("version") + 1,
    )
    gate.drop_timers([each.pk for each in found])
    for approval in found:
        approval.status = S.APPROVED
        _record(approval, sample, sample.released_by)
    gate.tell_all("approval_responded", found, approved=True, decision="approve", releasedBySample=True)
    human.answered_all(
        execution=execution,
        verdicts={
            each.block_execution_id: human.Verdict(each.kind, True, None, sample.released_by, each.pk)
            for each in found
        },
    )


def _record(approval: Approval, sample: Sample, by: User) -> None:
    trail.record(
        "respond",
        approval,
        by,
        kind=approval.kind,
        approved=True,
        decision=DecisionKind.APPROVE.value,
        contentHash=approval.content_hash,
        releasedBySample={"inspected": len(sample.chosen), "of": sample.of},
    )
