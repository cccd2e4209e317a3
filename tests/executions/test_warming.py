"""What a worker's thread has planned before its first run is what its runs use."""

from __future__ import annotations

from collections import defaultdict
from threading import Thread

from django.db import connection

from agentflow.events.models import Event
from executions.engine.walker import walk
from executions.engine.warming import WarmUp, plan_statements
from executions.models import Execution

from .conftest import Start, block, template

Planned = dict[str, set[tuple[str, ...]]]  # the types of the parameters it was planned with, by statement


def test_a_warm_connection_plans_nothing_again(start: Start) -> None:
    wide = template(block("a"), *(block(f"b{n}", "a") for n in range(3)), block("c", "b0", "b1", "b2"))
    runs = [start(wide) for _ in range(3)]
    connection.close()
    plan_statements()
    warm = _planned()
    for run in runs:
        walk(run.pk)
    assert {Execution.objects.get(pk=run.pk).status for run in runs} == {"completed"}
    used = _planned()
    assert {text: used[text] for text in warm} == warm
    assert len(warm) >= 6


def test_warming_up_leaves_no_trace(start: Start) -> None:
    start(template(block("a")))
    before = Event.objects.count()
    plan_statements()
    assert Event.objects.count() == before


def test_every_thread_of_a_pool_warms_up_once(transactional_db: None) -> None:
    warmed: list[int] = []

    def one() -> None:
        warm_up()
        warmed.append(len(_planned()))
        connection.close()

    warm_up = WarmUp(3)
    threads = [Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warmed) == 3
    assert min(warmed) >= 6


def _planned() -> Planned:
    found: Planned = defaultdict(set)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT statement, parameter_types::text[] FROM pg_prepared_statements"
            " WHERE statement NOT LIKE '%%pg_prepared%%'"
        )
        for text, types in cursor.fetchall():
            found[text].add(tuple(types))
    return dict(found)
