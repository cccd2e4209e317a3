"""Which processes live, and when a worker counts as deaf."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from executions import processes
from executions.models import Process, ProcessKind
from executions.processes import BEAT_S, DEAF_S, Canary, Signs, deaf


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        (Signs(None), False),
        (Signs(DEAF_S), False),
        (Signs(DEAF_S + 1), True),
        (Signs(DEAF_S + 1, busy=True), False),
        (Signs(DEAF_S + 1, leaving=True), False),
    ],
)
def test_deaf_is_who_waits_in_vain_for_a_canary_that_the_broker_took(signs: Signs, expected: bool) -> None:
    assert deaf(signs) is expected


class Story:
    """A canary with a clock of its own; each step is one beat."""

    def __init__(self) -> None:
        self.now = 0.0
        self.broker = True
        self.canary = Canary(lambda: self.broker, clock=lambda: self.now)

    def beats(self, count: int, *, heard: bool = False, busy: bool = False, every_s: float = BEAT_S) -> bool:
        """Whether any of these beats called the process deaf."""
        found = False
        for _ in range(count):
            self.now += every_s
            if heard:
                self.canary.heard()
            found |= deaf(self.canary.beat(busy=busy, leaving=False))
        return found


def test_a_worker_that_hears_is_never_deaf() -> None:
    assert not Story().beats(100, heard=True)


def test_a_worker_that_stops_hearing_is_deaf_after_a_minute() -> None:
    story = Story()
    story.beats(5, heard=True)
    assert not story.beats(int(DEAF_S / BEAT_S))
    assert story.beats(2)


def test_no_broker_and_no_free_thread_are_no_deafness() -> None:
    story = Story()
    story.broker = False
    assert not story.beats(100)
    story.broker = True
    assert not story.beats(100, busy=True)
    assert not story.beats(int(DEAF_S / BEAT_S)), "time without a broker counted"


def test_a_process_that_was_stopped_gets_time_to_hear_again() -> None:
    story = Story()
    story.beats(3, heard=True)
    story.beats(1)
    assert not story.beats(1, every_s=10 * DEAF_S)
    assert not story.beats(1, heard=True)


@pytest.mark.django_db
def test_a_row_tells_when_a_process_was_seen_and_heard() -> None:
    process = processes.register(
        ProcessKind.WORKER, name="worker-1@here", queues=["control", "blocks"], threads=8
    )
    processes.stamp(process)
    (seen,) = processes.listed()
    assert (seen.kind, seen.queues, seen.alive, seen.heard_s) == ("worker", ("blocks", "control"), True, None)
    processes.stamp(process, heard=True)
    (seen,) = processes.listed()
    assert seen.heard_s is not None
    assert seen.heard_s < 5


@pytest.mark.django_db
def test_the_clock_forgets_processes_that_vanished_and_no_others() -> None:
    for name, age_s in (("gone", processes.FORGET_S + 5), ("dead", processes.GONE_S + 5), ("alive", 0)):
        Process.objects.create(
            id=uuid4(),
            kind=ProcessKind.WORKER,
            name=name,
            host="h",
            pid=1,
            seen_at=Now() - timedelta(seconds=age_s),
        )
    assert processes.forget_vanished() == 1
    assert {seen.name: seen.alive for seen in processes.listed()} == {"dead": False, "alive": True}


@pytest.mark.django_db
def test_a_row_that_was_removed_too_early_comes_back() -> None:
    process = processes.register(ProcessKind.CLOCK, name="clock")
    processes.stamp(process)
    Process.objects.all().delete()
    processes.stamp(process)
    assert [seen.name for seen in processes.listed()] == ["clock"]
