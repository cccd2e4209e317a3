"""Inspecting some of many: the items of a `forEach` of which a few, drawn by chance, answer for all; those
of successive questions are in `successive`.

Which are drawn is fixed when the first of them is asked, and a draw is never repeated, so nobody can pick.
When all of them are approved as they stand, the rest is released, each with its own record; if one is not,
the rest keeps waiting for a person each, as it would without a sample.

Everything here happens under the execution's lock.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Count, Exists, F, Min, OuterRef, Q, QuerySet

from executions.models import BlockExecution
from executions.ports import HumanAsk
from executions.states import SETTLED

from ..models import Approval, Sample, SampleState
from ..states import ApprovalStatus
from . import successive

_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Drawn:
    """The sample that a question belongs to, and whether it is one of those inspected."""

    sample: Sample
    inspected: bool
    place: int | None = None

    @property
    def released(self) -> bool:
        return self.sample.state == SampleState.PASSED and not self.inspected


def drawn(asks: Sequence[HumanAsk], *, carried: bool = False) -> Mapping[int, Drawn]:
    """The samples of questions that are about to be asked, by block; none costs no query.

    `carried` ones are answered already: they take no place among successive questions.
    """
    wanted = {ask.block_pk: ask.sample for ask in asks if ask.sample and not ask.sample_of}
    found = _of_items(wanted) if wanted else {}
    following = [] if carried else [ask for ask in asks if ask.sample_of]
    if following:
        places = successive.places(following)
        found |= {pk: Drawn(sample, place in sample.chosen, place) for pk, (sample, place) in places.items()}
    return found


def _of_items(wanted: Mapping[int, int]) -> dict[int, Drawn]:
    rows = BlockExecution.objects.filter(pk__in=wanted, iteration__gt=0)
    places: dict[tuple[UUID, int, int], list[tuple[int, int]]] = {}
    for pk, iteration, execution_id, epoch, idx in rows.values_list(
        "pk", "iteration", "execution_id", "epoch", "idx"
    ):
        places.setdefault((execution_id, epoch, idx), []).append((pk, iteration))
    found: dict[int, Drawn] = {}
    for (execution_id, epoch, idx), items in places.items():
        of_block = BlockExecution.objects.filter(execution=execution_id, epoch=epoch, idx=idx)
        sample = _sample(of_block, wanted[items[0][0]])
        found |= {pk: Drawn(sample, iteration in sample.chosen) for pk, iteration in items}
    return found


def _sample(of_block: QuerySet[BlockExecution], inspect: int) -> Sample:
    """The draw of a block's items: the one there is, or made now."""
    counted = of_block.aggregate(
        parent=Min("pk", filter=Q(iteration=0)), of=Count("pk", filter=Q(iteration__gt=0))
    )
    sample = Sample.objects.filter(block=counted["parent"]).first()
    if sample is None:
        chosen = _chance.sample(range(1, counted["of"] + 1), min(inspect, counted["of"]))
        return Sample.objects.create(block_id=counted["parent"], of=counted["of"], chosen=sorted(chosen))
    if sample.state == SampleState.OPEN:
        draw_others(sample, of_block)
    return sample


def draw_others(sample: Sample, of_block: QuerySet[BlockExecution]) -> None:
    """In place of chosen items that ended before anybody was asked about them."""
    asked = Approval.objects.filter(block_execution=OuterRef("pk"), sample=sample)
    ended = of_block.filter(~Exists(asked), status__in=SETTLED)
    gone = set(ended.filter(iteration__in=sample.chosen).values_list("iteration", flat=True))
    if not gone:
        return
    left = of_block.filter(iteration__gt=0).exclude(iteration__in=sample.chosen).exclude(status__in=SETTLED)
    others = list(left.values_list("iteration", flat=True))
    fresh = _chance.sample(others, min(len(gone), len(others)))
    sample.chosen = sorted({*sample.chosen, *fresh} - gone)
    sample.save(update_fields=["chosen"])
    rows = Approval.objects.filter(
        sample=sample, status=ApprovalStatus.PENDING, block_execution__iteration__in=fresh
    )
    rows.update(inspected=True, version=F("version") + 1)
