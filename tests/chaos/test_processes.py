"""Processes killed and stopped on purpose, at real leases: `make chaos PLAN=named`, about six minutes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from agentflow.conf import LIMITS
from executions.models import DaySpending
from tests.factories.agents import AgentFactory
from tests.outside import TERMINAL, Client
from tests.scenarios.agents import Held, calling, echo, template
from tests.servers import Exchange, HttpServer
from tests.service import Service
from tests.waiting import until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(180),
    pytest.mark.skipif(settings.TEST_ENGINES is None, reason="only on engines of our own"),
]

RECOVERY_S = 60.0  # from the last fault to the end of everything
LEASE_OVER_S = LIMITS.lease_s + 20


@pytest.fixture(autouse=True)
def all_parts(service: Service) -> Iterator[None]:
    """Each test finds one worker and the clock, and leaves what it likes."""
    for name in service.workers[1:]:
        service.kill_worker(name)
    if not service.workers:
        service.start_worker()
    if not service.children["clock"].alive():
        service.start_clock()
    yield
    service.kill_worker()  # a stopped one too


class Ledger:
    """An agent that honours keys: it writes an effect once, however often it is asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked: Counter[str] = Counter()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.asked[exchange.headers["idempotency-key"]] += 1
        exchange.json({"booked": True})


def layers(
    server: HttpServer, *, effect: str, depth: int = 6, width: int = 4, **fields: Any
) -> dict[str, Any]:
    """Layers of calls with a join between them: plenty of moments to be killed at."""
    blocks: list[dict[str, Any]] = []
    before: list[str] = []
    for level in range(depth):
        names = [f"l{level}c{n}" for n in range(width)]
        blocks += [
            {**calling(server, name, *before, path="/book", method="POST", effect=effect), **fields}
            for name in names
        ]
        blocks.append(echo(f"join{level}", *names))
        before = [f"join{level}"]
    return template(*blocks, maxParallelBlocks=width)


def check_attempts(client: Client, execution_id: str) -> int:
    """Attempts of a block are 1..n, the last of them accepted, all others lost with their worker.

    Returns how many were lost.
    """
    lost = 0
    for name, block in client.blocks(execution_id).items():
        assert block["status"] == "completed", (name, block)
        attempts = client.block(execution_id, name)["attempts"]
        assert [attempt["attempt"] for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert [a["outcome"] for a in attempts] == ["rescued"] * (len(attempts) - 1) + ["ok"], name
        lost += len(attempts) - 1
    return lost


def test_runs_survive_workers_that_are_killed_again_and_again(
    client: Client, server: HttpServer, service: Service
) -> None:
    ledger = Ledger()
    server.on("/book", ledger)
    service.start_worker()
    _count_spending(client)
    template_id = client.create(layers(server, effect="keyed", agentId="booker"))
    chance = random.Random(7)
    runs: list[str] = []
    for _ in range(5):
        runs += [client.start(template_id) for _ in range(3)]
        _work_for(chance.randrange(5, 40), client, ledger, runs)
        service.kill_worker(chance.choice(service.workers))
        service.start_worker()
    began = time.monotonic()
    lost = 0
    for execution_id in runs:
        assert client.ended(execution_id, RECOVERY_S)["status"] == "completed"
        lost += check_attempts(client, execution_id)
    print(f"\n{len(runs)} runs, 5 kills, {lost} attempts lost, over {time.monotonic() - began:.1f} s later")
    assert len(ledger.asked) == len(runs) * 6 * 4  # one key per block, and no block without
    (counted,) = DaySpending.objects.filter(workspace_id=client.workspace.pk)
    assert (counted.agent_id, int(counted.amount)) == (
        "booker",
        len(ledger.asked),
    )  # nothing lost, nothing twice


def _count_spending(client: Client) -> None:
    """Let an agent of the workspace cost something, and the workspace count it."""
    AgentFactory.create(
        workspace=client.workspace,
        agent_id="booker",
        tool_type="API",
        configuration={},
        cost={"perCall": 1},
    )
    client.workspace.budget = {"cost": 1_000_000, "currency": "USD"}
    client.workspace.save(update_fields=["budget"])


def _work_for(calls: int, client: Client, ledger: Ledger, runs: list[str]) -> None:
    """Let so many more calls be made, or all runs end."""
    goal = sum(ledger.asked.values()) + calls
    until(
        lambda: (
            sum(ledger.asked.values()) >= goal
            or all(client.status(execution_id) in TERMINAL for execution_id in runs)
        ),
        30,
        why=f"{calls} calls",
    )


def test_a_run_waits_for_a_worker_when_all_are_gone(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    service.start_worker()
    names = [f"call{n}" for n in range(12)]
    calls = [calling(server, name, path="/held", effect="pure") for name in names]
    execution_id = client.run(template(*calls, echo("join", *names), maxParallelBlocks=12))
    until(lambda: held.count() >= 8, why="both workers to be busy")
    service.kill_worker()
    held.release()
    # The leases run out while nobody is there to take the blocks.
    until(lambda: "running" not in client.statuses(execution_id).values(), LEASE_OVER_S)
    assert client.status(execution_id) == "running"
    service.start_worker()
    assert client.ended(execution_id, RECOVERY_S)["status"] == "completed"
    assert check_attempts(client, execution_id) >= 8


@pytest.mark.timeout(300)
def test_what_takes_its_worker_with_it_three_times_waits_for_a_person(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    execution_id = client.run(template(calling(server, "a", path="/held", effect="pure")))
    for calls in (1, 2, 3):
        until(lambda calls=calls: held.count() == calls, LEASE_OVER_S, why=f"call {calls}")  # type: ignore[misc]
        service.kill_worker()
        service.start_worker()
    client.until_block(execution_id, "a", "waiting_human", LEASE_OVER_S)
    assert client.outcomes(execution_id, "a") == ["rescued"] * 3
    assert client.block(execution_id, "a")["reason"] == "poison"
    question = client.asked(execution_id)
    assert (question["type"], held.count()) == ("fix", 3)
    held.release()
    assert client.answer(question, response={"action": "retry"}).status == 200
    assert client.ended(execution_id, RECOVERY_S)["status"] == "completed"


def test_a_worker_told_to_end_waits_for_all_calls_it_has_made(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    names = [f"call{n}" for n in range(12)]
    calls = [calling(server, name, path="/held", effect="once", method="POST") for name in names]
    execution_id = client.run(template(*calls, echo("join", *names), maxParallelBlocks=12))
    until(lambda: held.count() == 12, why="three times as many calls as the worker has threads")
    (name,) = service.workers
    child = service.children[name]
    child.process.terminate()
    until(lambda: child.said("Warm shutdown"), why="the worker to hear of it")
    held.release()
    until(lambda: not child.alive(), why="its end")
    assert child.process.returncode == 0
    assert {client.statuses(execution_id)[each] for each in names} == {"completed"}
    service.start_worker()
    assert client.ended(execution_id, RECOVERY_S)["status"] == "completed"
    assert check_attempts(client, execution_id) == 0
    assert held.count() == 12


def test_a_worker_that_slept_past_its_lease_changes_nothing(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    execution_id = client.run(
        template(
            calling(server, "pure", path="/held", effect="pure"),
            calling(server, "once", path="/held", effect="once", method="POST"),
            echo("after", "pure"),
        )
    )
    until(lambda: held.count("pure") and held.count("once"), why="both calls")
    (sleeper,) = service.workers
    service.freeze(sleeper)
    service.start_worker()
    until(lambda: held.count("pure") == 2, LEASE_OVER_S, why="the call to be made again")
    client.until_block(execution_id, "once", "waiting_human")
    held.release()
    client.until_block(execution_id, "after", "completed")
    settled = client.block(execution_id, "pure")
    service.thaw(sleeper)
    until(lambda: client.block(execution_id, "pure")["lateResults"], why="the late result of one")
    until(lambda: client.block(execution_id, "once")["lateResults"], why="the late result of the other")
    pure, once = client.block(execution_id, "pure"), client.block(execution_id, "once")
    assert [pure[key] for key in ("status", "output", "completedAt", "attempt")] == [
        settled[key] for key in ("status", "output", "completedAt", "attempt")
    ]
    assert [late["attempt"] for late in pure["lateResults"]] == [1]
    assert [attempt["outcome"] for attempt in pure["attempts"]] == ["rescued", "ok"]
    assert (once["status"], once["reason"], held.count("once")) == ("waiting_human", "unknown_outcome", 1)
    assert client.block(execution_id, "after")["attempt"] == 1
    done = {"action": "complete", "output": 1}
    assert client.answer(client.asked(execution_id), response=done).status == 200
    assert client.ended(execution_id)["status"] == "completed"
    # It has come to itself and works on.
    service.kill_worker(service.workers[-1])
    assert client.ended(client.run(template(echo("a"))))["status"] == "completed"


def test_what_fell_due_while_the_clock_was_dead_is_done_when_it_is_back(
    client: Client, server: HttpServer, service: Service
) -> None:
    calls = 0

    def busy_once(exchange: Exchange) -> None:
        nonlocal calls
        calls += 1
        exchange.reply(b"busy", 503) if calls == 1 else exchange.json({})

    server.on("/busy", busy_once)
    policy = {"maxRetries": 1, "backoffStrategy": "fixed", "initialDelay": 300, "jitter": False}
    service.kill("clock")
    retried = client.run(template(calling(server, "a", path="/busy", retryPolicy=policy)))
    ask = {"blockId": "ask", "humanInLoop": {"type": "approval", "timeout": 300}}
    asking = client.run(template(ask))
    client.until_block(retried, "a", "ready")
    client.until_block(asking, "ask", "waiting_human")
    until(lambda: _overdue() >= 2, why="both to be overdue")
    assert (client.statuses(retried), client.statuses(asking)) == ({"a": "ready"}, {"ask": "waiting_human"})
    service.start_clock()
    assert client.ended(retried)["status"] == "completed"
    run = client.ended(asking)
    assert (run["status"], run["error"]["code"]) == ("failed", "approval_timeout")
    assert calls == 2


def _overdue() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM executions_timer WHERE due_at < clock_timestamp()")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("fault", ["valkey", "connections"])
def test_runs_survive_the_loss_of_an_engine(
    client: Client, server: HttpServer, service: Service, fault: str
) -> None:
    """Valkey killed, coming back empty; every connection to PostgreSQL cut.  Each three times."""
    ledger = Ledger()
    server.on("/book", ledger)
    template_id = client.create(layers(server, effect="keyed"))
    runs: list[str] = []
    for _ in range(3):
        runs += [client.start(template_id) for _ in range(3)]
        _work_for(10, client, ledger, runs)
        if fault == "valkey":
            _restart_valkey()
        else:
            _cut_connections()
    began = time.monotonic()
    lost = 0
    for execution_id in runs:
        assert client.ended(execution_id, RECOVERY_S)["status"] == "completed"
        lost += check_attempts(client, execution_id)
    print(f"\n{fault}: {len(runs)} runs, {lost} attempts lost, over {time.monotonic() - began:.1f} s later")
    assert len(ledger.asked) == len(runs) * 6 * 4


def _restart_valkey() -> None:
    engines = settings.TEST_ENGINES
    assert engines is not None
    os.kill(engines.pid("valkey"), signal.SIGKILL)
    engines.restart("valkey")


def _cut_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
