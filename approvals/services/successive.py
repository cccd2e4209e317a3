"""Inspecting some of successive questions: of every so many that the same block of the same version asks, of
whatever executions, a few are drawn by chance before the first of them is asked.

All that is done to such a sample is done under the lock of its version, taken after an execution's and its
questions' and never before: nobody who holds it waits for another execution.  Questions of others are touched
only where nobody holds them; the clock, which holds their execution, releases them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from functools import partial

from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from executions.models import Execution, Timer
from executions.ports import HumanAsk

from ..models import Approval, Sample, SampleState
from ..states import ApprovalStatus

S = ApprovalStatus
SPACE = 0x5A4D  # of advisory locks; the others' are in `executions.engine.places`
_chance = random.SystemRandom()


def hold(version_id: int) -> None:
    """One transaction at a time changes the samples of a version; until it ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [SPACE, version_id % 2**31])


def places(asks: Sequence[HumanAsk]) -> dict[int, tuple[Sample, int]]:
    """The sample of each question that is about to be asked, and its place there; by block.

    What is simulated is in none: it would answer for what is not.
    """
    rows = Execution.objects.filter(pk__in={ask.execution_id for ask in asks}, simulation__isnull=True)
    versions = dict(rows.values_list("pk", "template_version"))
    found = {}
    for ask in asks:
        version_id = versions.get(ask.execution_id)
        if version_id is not None:
            hold(version_id)
            sample = _filling(version_id, ask)
            draw_others(sample)
            sample.asked += 1
            sample.save(update_fields=["asked"])
            found[ask.block_pk] = (sample, sample.asked)
    return found


def _filling(version_id: int, ask: HumanAsk) -> Sample:
    """The sample that has places left, or a new one."""
    rows = Sample.objects.filter(version=version_id, step=ask.block_id, asked__lt=F("of"))
    if (sample := rows.first()) is not None:
        return sample
    chosen = _chance.sample(range(1, ask.sample_of + 1), ask.sample)
    return Sample.objects.create(
        version_id=version_id, step=ask.block_id, of=ask.sample_of, chosen=sorted(chosen)
    )


def draw_others(sample: Sample) -> None:
    """In place of chosen questions that were withdrawn: others that are open, or are still to be asked."""
    if sample.state != SampleState.OPEN:
        return
    rows = Approval.objects.filter(sample=sample)
    gone = set(
        rows.filter(inspected=True, status=S.CANCELLED, sample_place__in=sample.chosen).values_list(
            "sample_place", flat=True
        )
    )
    if not gone:
        return
    waiting = rows.filter(inspected=False, status=S.PENDING).select_for_update(no_key=True, skip_locked=True)
    asked = dict(waiting.values_list("sample_place", "pk"))
    coming = set(range(sample.asked + 1, sample.of + 1)) - set(sample.chosen)
    others = [*asked, *sorted(coming)]
    fresh = _chance.sample(others, min(len(gone), len(others)))
    sample.chosen = sorted({*sample.chosen, *fresh} - gone)
    sample.save(update_fields=["chosen"])
    now_inspected = [asked[place] for place in fresh if place in asked]
    Approval.objects.filter(pk__in=now_inspected).update(inspected=True, version=F("version") + 1)


def withdrawn(approvals: Collection[Approval]) -> None:
    """Some questions were taken back: others are drawn for those that were to be inspected."""
    for approval in approvals:
        sample = approval.sample if approval.inspected else None
        if sample is not None and sample.version_id is not None:
            hold(sample.version_id)
            sample.refresh_from_db()  # as those before left it
            draw_others(sample)


def passed(sample: Sample) -> set[int]:
    """The places of those that were inspected and approved as they stood."""
    rows = Approval.objects.filter(sample=sample, inspected=True, status=S.APPROVED, decision="approve")
    return {place for place in rows.values_list("sample_place", flat=True) if place is not None}


def let_go(sample: Sample) -> None:
    """Have the clock release the rest: at once, and those that somebody holds just now a moment later."""
    free = _timers(sample).select_for_update(skip_locked=True)
    Timer.objects.filter(pk__in=list(free.values_list("pk", flat=True))).update(due_at=Now())
    transaction.on_commit(partial(_let_go_of_others, sample.pk), robust=True)


def _let_go_of_others(sample_id: int) -> None:
    _timers(Sample(pk=sample_id)).update(due_at=Now())


def _timers(sample: Sample) -> QuerySet[Timer]:
    rest = Approval.objects.filter(sample=sample.pk, inspected=False, status=S.PENDING)
    return Timer.objects.filter(subject__in=rest.values("pk"), due_at__gt=Now())
