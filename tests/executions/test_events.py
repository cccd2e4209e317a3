"""Blocks that wait for events from outside: each event is lost on nobody and moves one block of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from agentflow.events.models import ReceivedEvent
from agentflow.types import JSONObject
from executions.engine.walker import walk
from executions.models import EventWait, Execution
from executions.services import control, reconcile, restarting, signals, starting
from executions.services.restarting import RestartRequest
from executions.services.signals import EventIdTaken
from tests.factories.executions import statuses
from tests.waiting import PATIENCE_S

from .conftest import Start, answer, block, drain, make_due, row, template

pytestmark = pytest.mark.django_db(transaction=True)


def paid(
    block_id: str = "paid", *dependencies: str, correlation: str | None = "input.order", **more: Any
) -> Any:
    wait = {"event": "paid", **({"correlation": correlation} if correlation else {})}
    return {"blockId": block_id, "dependencies": list(dependencies), "wait": wait, **more}


def tell(execution: Execution, correlation: str = "A-1", payload: Any = None, **more: Any) -> Any:
    return signals.receive(
        workspace_id=more.pop("workspace_id", execution.workspace_id),
        type=more.pop("type", "paid"),
        correlation=correlation,
        payload=payload,
        **more,
    )


def look(execution: Execution) -> None:
    """What the clock or a hint does after a commit."""
    reconcile.look(execution.pk)
    drain(execution)


def deliver_all() -> None:
    for received in ReceivedEvent.objects.filter(delivered_at=None).values_list("pk", flat=True):
        signals.deliver(received)


def test_a_block_waits_for_its_event_and_gives_the_payload(run: Start) -> None:
    execution = run(template(paid(), block("b", "paid")), input={"order": "A-1"})
    look(execution)
    assert statuses(execution) == {"paid": "waiting_external", "b": "blocked"}
    assert row(execution, "paid").reason == "event"
    tell(execution, payload={"sum": 12})
    deliver_all()
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "paid").output == {"sum": 12}
    assert row(execution, "b").output == {"paid": {"sum": 12}}


@pytest.mark.parametrize(
    "other",
    [{"correlation": "A-2"}, {"type": "refunded"}, {"workspace_id": uuid4()}],
    ids=["correlation", "type", "workspace"],
)
def test_another_event_moves_nothing(run: Start, other: JSONObject) -> None:
    execution = run(template(paid()), input={"order": "A-1"})
    tell(execution, **other)
    deliver_all()
    look(execution)
    assert statuses(execution) == {"paid": "waiting_external"}


@pytest.mark.parametrize(("order", "text"), [(7, "7"), (7.0, "7"), (True, "true"), ("ü", "ü")])
def test_correlations_are_compared_as_text(run: Start, order: Any, text: str) -> None:
    execution = run(template(paid()), input={"order": order})
    tell(execution, text)
    deliver_all()
    assert statuses(execution) == {"paid": "completed"}


@pytest.mark.parametrize("order", [None, [], {"a": 1}, "x" * 201])
def test_what_cannot_be_a_correlation_asks_a_person(run: Start, order: Any) -> None:
    execution = run(template(paid()), input={"order": order})
    assert statuses(execution) == {"paid": "waiting_human"}
    assert row(execution, "paid").error["code"] == "not_a_correlation"  # type: ignore[index]


def test_an_event_that_came_before_the_wait_counts_if_it_came_after_the_start(
    run: Start, author: Any
) -> None:
    gate = {"blockId": "gate", "humanInLoop": {"type": "approval"}}
    execution = run(template(gate, paid("paid", "gate")), input={"order": "A-1"})
    tell(execution, payload="early")
    deliver_all()
    answer(execution, "gate", author)
    look(execution)
    assert row(execution, "paid").output == "early"


def test_an_event_from_before_the_start_does_not_count(start: Start, run: Start) -> None:
    execution = start(template(paid()), input={"order": "A-1"})
    tell(execution)
    Execution.objects.filter(pk=execution.pk).update(created_at=Now())
    walk(execution.pk)
    look(execution)
    assert statuses(execution) == {"paid": "waiting_external"}


def test_an_agent_gets_the_event_in_its_input(run: Start) -> None:
    waiting = block("a", wait={"event": "paid"}, input={"sum": "${event.payload.sum}", "by": "${event.type}"})
    execution = run(template(waiting))
    tell(execution, "", payload={"sum": 3})
    deliver_all()
    drain(execution)
    assert row(execution, "a").output == {"sum": 3, "by": "paid"}


def test_two_waits_in_a_row_take_two_events(run: Start) -> None:
    execution = run(template(paid("one"), paid("two", "one")), input={"order": "A-1"})
    tell(execution, payload=1)
    deliver_all()
    look(execution)
    assert statuses(execution) == {"one": "completed", "two": "waiting_external"}
    tell(execution, payload=2)
    deliver_all()
    assert row(execution, "two").output == 2


def test_after_a_restart_what_a_carried_wait_took_stays_taken(run: Start, author: Any) -> None:
    execution = run(template(paid("one"), paid("two", "one")), input={"order": "A-1"})
    for payload in (1, 2):
        tell(execution, payload=payload)
        deliver_all()
        look(execution)
    for epoch in (2, 3):
        restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="two"))
        drain(execution)
        look(execution)
        two = execution.blocks.get(block_id="two", epoch=epoch)
        assert (two.status, two.output) == ("completed", 2)


def test_one_event_reaches_every_run_that_waits_for_it(run: Start, author: Any) -> None:
    first = run(template(paid()), input={"order": "A-1"})
    second = starting.start(version=first.template_version, by=author, input={"order": "A-1"})
    drain(second)
    tell(first)
    deliver_all()
    assert statuses(first) == statuses(second) == {"paid": "completed"}


def test_a_run_that_cannot_be_looked_at_keeps_the_event_from_no_other(
    run: Start, author: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = run(template(paid()), input={"order": "A-1"})
    sound = starting.start(version=broken.template_version, by=author, input={"order": "A-1"})
    drain(sound)
    tell(broken)
    look_well = reconcile.look

    def look_badly(execution_id: Any) -> None:
        if execution_id == broken.pk:
            raise ValueError("its definition is no longer understood")
        look_well(execution_id)

    monkeypatch.setattr(reconcile, "look", look_badly)
    deliver_all()
    assert statuses(sound) == {"paid": "completed"}
    monkeypatch.undo()
    look(broken)
    assert statuses(broken) == {"paid": "completed"}


def test_two_events_at_once_move_the_block_once(run: Start) -> None:
    execution = run(template(paid(), block("b", "paid")), input={"order": "A-1"})
    both = [tell(execution, payload=n) for n in (1, 2)]
    rows = list(ReceivedEvent.objects.values_list("pk", flat=True))
    assert len(both) == len(rows) == 2
    at_once([partial(signals.deliver, pk) for pk in rows])
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "b").attempt == 1
    assert EventWait.objects.get().received in rows


@pytest.mark.parametrize("round", range(8))
def test_a_wait_and_its_event_that_cross_always_meet(start: Start, round: int) -> None:
    """Whichever commits second sees the first, with nothing but what the rows make somebody do."""
    execution = start(template(paid()), input={"order": "A-1"})
    at_once([lambda: walk(execution.pk), lambda: tell(execution)])
    look(execution)  # the wait left a timer that is due
    deliver_all()  # the event left itself undelivered
    assert statuses(execution) == {"paid": "completed"}


def test_a_wait_leaves_a_look_that_is_due_at_once(run: Start) -> None:
    execution = run(template(paid()), input={"order": "A-1"})
    assert execution.timers.filter(kind="check", due_at__lte=Now()).exists()


def test_an_event_whose_hint_was_lost_is_delivered_by_the_clock(run: Start) -> None:
    execution = run(template(paid()), input={"order": "A-1"})
    tell(execution)
    assert signals.deliver_late() == 0, "its hint may still be on its way"
    age = timedelta(seconds=signals.UNDELIVERED_S + 1)
    Execution.objects.update(created_at=F("created_at") - age)
    ReceivedEvent.objects.update(at=F("at") - age)
    assert signals.deliver_late() == 1
    assert statuses(execution) == {"paid": "completed"}
    assert signals.deliver_late() == 0


def test_a_timeout_ends_the_wait(run: Start) -> None:
    execution = run(template(paid(timeout=60_000)), input={"order": "A-1"})
    look(execution)
    assert statuses(execution) == {"paid": "waiting_external"}
    make_due(execution)
    look(execution)
    assert statuses(execution) == {"paid": "failed"}
    assert row(execution, "paid").error["code"] == "event_timeout"  # type: ignore[index]
    tell(execution)
    deliver_all()
    assert statuses(execution) == {"paid": "failed"}


def test_a_wait_without_a_timeout_is_not_bounded(run: Start) -> None:
    execution = run(template(paid()), input={"order": "A-1"})
    assert row(execution, "paid").available_at is None


def test_a_cancelled_run_takes_no_event(run: Start, author: Any) -> None:
    execution = run(template(paid()), input={"order": "A-1"})
    control.cancel(execution_id=execution.pk, by=author)
    tell(execution)
    deliver_all()
    assert statuses(execution) == {"paid": "cancelled"}


def test_a_paused_run_takes_its_event_when_it_goes_on(run: Start, author: Any) -> None:
    execution = run(template(paid()), input={"order": "A-1"})
    control.pause(execution_id=execution.pk, by=author)
    tell(execution)
    deliver_all()
    assert statuses(execution) == {"paid": "waiting_external"}
    control.resume(execution_id=execution.pk, by=author)
    look(execution)
    assert statuses(execution) == {"paid": "completed"}


def test_a_repeated_event_counts_once_and_another_under_its_id_is_refused(run: Start) -> None:
    execution = run(template(paid("one"), paid("two", "one")), input={"order": "A-1"})
    first = tell(execution, payload=1, event_id="e-1")
    again = tell(execution, payload=1, event_id="e-1")
    assert (first.repeated, again.repeated, again.at) == (False, True, first.at)
    deliver_all()
    look(execution)
    assert statuses(execution) == {"one": "completed", "two": "waiting_external"}
    with pytest.raises(EventIdTaken):
        tell(execution, payload=2, event_id="e-1")


def test_a_simulated_wait_takes_its_scripted_output_at_once(run: Start) -> None:
    execution = run(
        template(paid(), block("b", wait={"event": "x"}, input={"n": "${event.payload.n}"})),
        input={"order": "A-1"},
        simulation={"outputs": {"paid": {"sum": 1}, "b": {"n": 2}}},
    )
    assert execution.status == "completed"
    assert row(execution, "paid").output == {"sum": 1}


def test_events_are_kept_for_a_week(run: Start) -> None:
    execution = run(template(block("a")))
    tell(execution, "new")
    tell(execution, "old")
    deliver_all()
    ReceivedEvent.objects.filter(correlation="old").update(at=Now() - timedelta(days=7, minutes=1))
    assert signals.purge() == 1
    assert [event.correlation for event in ReceivedEvent.objects.all()] == ["new"]


def at_once(acts: list[Callable[[], Any]]) -> None:
    barrier = threading.Barrier(len(acts))
    failed: list[BaseException] = []

    def one(act: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE_S)
            act()
        except BaseException as error:  # noqa: BLE001  # told by the test's thread
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=one, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failed == []
