"""A workspace with thousands of executions under way does not hold up one with a single one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from celery import current_app

from executions.lanes import CALM_S, LANES, MANY, QUEUE, Lanes, Turns
from executions.models import Execution
from executions.services import starting
from templates_app.models import TemplateVersion
from tests.outside import Client, make_client
from tests.service import Service

WORK_S = 0.4
CROWD = 150  # a quarter of a minute's work for four threads

STEP = {"blockId": "a", "toolType": "Script", "configuration": {"simulate": {"runtimeSeconds": WORK_S}}}
FOR_REAL_TIME = {"scale": 1}


@pytest.fixture
def crowd(service: Service) -> Iterator[Client]:
    client = make_client(service)
    yield client
    filter = {"workspaceId": str(client.workspace.pk)}
    client.post("/executions/batch", {"command": "cancel", "filter": filter})


def test_one_execution_beside_a_crowd_of_another_workspace_is_done_soon(
    service: Service, crowd: Client
) -> None:
    other = make_client(service)
    one = other.create({"name": "one", "blocks": [STEP, {**STEP, "blockId": "b", "dependencies": ["a"]}]})
    template_id = UUID(crowd.create({"name": "many", "blocks": [STEP]}))
    many = TemplateVersion.objects.get(template=template_id)
    by = many.template.created_by
    assert by is not None
    for _ in range(CROWD):
        starting.start(version=many, by=by, input={}, simulation=FOR_REAL_TIME)
    left = Execution.objects.filter(workspace=crowd.workspace, completed_at=None)
    before = left.count()
    assert before > CROWD / 2
    execution = other.start(one, simulation=FOR_REAL_TIME)
    assert other.ended(execution, timeout_s=60)["status"] == "completed"
    # Told by what the crowd did meanwhile, not by the time, which is the machine's: in one queue it is all.
    assert before - left.count() < CROWD / 3


def test_a_workspace_that_sends_many_hints_leaves_the_common_queue_until_it_is_quiet() -> None:
    now = [0.0]
    lanes = Lanes(clock=lambda: now[0])
    many, few = UUID(int=1), UUID(int=2)
    assert [lanes.queue(many) for _ in range(MANY)] == [QUEUE] * MANY
    assert lanes.queue(many) in LANES
    assert lanes.queue(few) == QUEUE
    assert lanes.queue(None) == QUEUE
    now[0] += CALM_S - 1  # the clock repeats its hints: none of them goes before others again
    assert lanes.queue(many) in LANES
    now[0] += CALM_S + 1
    assert lanes.queue(many) == QUEUE


def test_hints_for_several_walkers_count_as_several() -> None:
    lanes = Lanes(clock=lambda: 0.0)
    assert lanes.queue(UUID(int=1), MANY) == QUEUE
    assert lanes.queue(UUID(int=1)) in LANES


def test_a_lone_hint_waits_for_few_of_a_crowd_though_it_fills_all_lanes() -> None:
    """Six processes send for a crowd, which comes to use every lane; then one hint of a small workspace."""
    senders, crowd, small = 6, UUID(int=1), UUID(int=2)
    waiting: dict[str, list[UUID]] = {queue: [] for queue in (*LANES, QUEUE, "control")}
    for _ in range(senders):
        now = [0.0]
        lanes = Lanes(clock=lambda now=now: now[0])  # type: ignore[misc]
        for repeated in range(200):  # with the pauses of a clock that repeats what nobody took
            now[0] = 60.0 * (repeated // 20)
            waiting[lanes.queue(crowd)].append(crowd)
    assert all(waiting[lane] for lane in LANES)
    waiting[Lanes().queue(small)].append(small)
    turns = Turns()
    turns.update(waiting)
    taken = []
    while small not in taken:
        queue = next(queue for queue in turns.consume(len(waiting)) if waiting[queue])
        taken.append(waiting[queue].pop(0))
        turns.rotate(queue)
    assert len(taken) <= 2 * (senders * MANY + 1)


def test_a_worker_takes_its_queues_in_that_order() -> None:
    channel: Any = current_app.connection_for_read().channel()
    try:
        assert isinstance(channel._queue_cycle, Turns)
    finally:
        channel.close()


def test_who_shares_a_lane_changes() -> None:
    now = [0.0]
    lanes = Lanes(clock=lambda: now[0])
    shared = set()
    for minute in range(60):
        now[0] = minute * 60.0
        shared.add(lanes.lane(UUID(int=1)) == lanes.lane(UUID(int=2)))
    assert shared == {True, False}
