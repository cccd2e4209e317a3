"""Messages lost, doubled or never read, and workers that are killed: the rows decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import redis
from django.conf import settings
from django.db import connection

from executions import dispatch
from tests.llm import ScriptedModel, completion, wants
from tests.outside import Client
from tests.reference import interpret
from tests.scenarios.agents import Held, calling, echo, template
from tests.servers import Exchange, HttpServer
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.skipif(settings.TEST_ENGINES is None, reason="only on a Valkey of our own")

RECOVERY_S = 60.0  # from wiped messages to the end of what waited for them


@pytest.fixture(autouse=True)
def one_worker(service: Service) -> Iterator[None]:
    """Each test finds one worker, and leaves what it likes."""
    while len(service.workers) > 1:
        service.kill_worker(service.workers[0])
    if not service.workers:
        service.start_worker()
    yield
    if len(service.workers) != 1:
        service.kill_worker()


def valkey(database: str = "broker") -> redis.Redis:
    assert settings.TEST_ENGINES is not None
    path = str(settings.TEST_ENGINES.valkey_socket)
    return redis.Redis(unix_socket_path=path, db=settings.REDIS_DATABASES[database])


def wide(server: HttpServer, width: int, **settings_: Any) -> dict[str, Any]:
    """A root, `width` calls side by side, and a join."""
    names = [f"call{n}" for n in range(width)]
    return template(
        echo("root"),
        *(calling(server, name, "root", path="/held") for name in names),
        echo("join", *names),
        **settings_,
    )


def test_wiping_valkey_in_mid_run_loses_nothing(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    execution_id = client.run(wide(server, 30, maxParallelBlocks=30))
    until(lambda: held.count() >= 4, why="calls to be under way")
    # A worker that hears nothing, so that what was hinted is still in Valkey when it is wiped.
    (worker,) = service.workers
    service.freeze(worker)
    others = [client.run(template(echo("a"), echo("b", "a"))) for _ in range(5)]
    valkey().flushall()
    service.thaw(worker)
    held.release()
    for waiting in [execution_id, *others]:
        assert client.ended(waiting, RECOVERY_S)["status"] == "completed"
    assert all(held.count(f"call{n}") == 1 for n in range(30))
    # Not only recovered: hints arrive again, for without a clock nobody repeats one.
    service.freeze("clock")
    try:
        assert client.ended(client.run(template(echo("a"))), RECOVERY_S)["status"] == "completed"
    finally:
        service.thaw("clock")


def test_cut_database_connections_are_made_anew(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    execution_id = client.run(wide(server, 6, maxParallelBlocks=6))
    until(lambda: held.count() >= 4, why="the worker's threads to be busy")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    held.release()
    assert client.ended(execution_id, RECOVERY_S)["status"] == "completed"
    assert {block["attempt"] for block in client.blocks(execution_id).values()} == {1}
    asking = {"blockId": "ask", "humanInLoop": {"type": "approval", "timeout": 100}}
    assert client.ended(client.run(template(asking)))["error"]["code"] == "approval_timeout"  # by the clock
    assert all(child.alive() for name, child in service.children.items() if not name.startswith("worker"))


def test_doubled_hints_start_each_block_once(client: Client, server: HttpServer, service: Service) -> None:
    server.on("/quick", lambda exchange: exchange.json({}))
    service.start_worker()
    names = [f"call{n}" for n in range(20)]
    layered = template(
        *(calling(server, name, path="/quick") for name in names),
        echo("join", *names),
        *(calling(server, f"{name}'", "join", path="/quick") for name in names),
        maxParallelBlocks=8,
    )
    template_id = client.create(layered)
    runs = [client.start(template_id) for _ in range(3)]
    for execution_id in runs:
        for _ in range(5):
            dispatch.hint(UUID(execution_id))
            dispatch.hint(UUID(execution_id), walkers=3)
    for execution_id in runs:
        assert client.ended(execution_id, 30)["status"] == "completed"
        assert {block["attempt"] for block in client.blocks(execution_id).values()} == {1}
    keys = [exchange.headers["idempotency-key"] for exchange in server.seen]
    assert len(keys) == len(set(keys)) == 3 * 40


def test_forks_whose_join_never_runs_end_with_the_same_rows(
    client: Client, server: HttpServer, service: Service
) -> None:
    service.kill_worker()
    valkey().flushall()
    service.start_worker(queues="blocks")
    slow = {"simulate": {"runtimeSeconds": 0.1}}
    first = [echo(f"a{n}", configuration=slow) for n in range(6)]
    second = [echo(f"b{n}", "mid", configuration=slow) for n in range(6)]
    mid = echo("mid", *(block["blockId"] for block in first))
    end = echo("end", *(block["blockId"] for block in second), when="input.go")
    definition = template(*first, mid, *second, end, maxParallelBlocks=6)
    execution_id = client.run(definition, input={"go": True}, simulation={"scale": 1})
    client.ended(execution_id, RECOVERY_S)
    assert client.statuses(execution_id) == interpret(definition, run_input={"go": True})
    assert {block["attempt"] for block in client.blocks(execution_id).values()} == {1}
    # The bodies were sent, and nobody read them.
    until(lambda: valkey().llen("control"), why="a join in its queue")


class Ledger:
    """What a model and a refund that must happen once have done, by idempotency key.

    The model is asked for the second time when its worker is killed: it has not answered that.
    """

    def __init__(self, client: Client, server: HttpServer) -> None:
        self.paid: Counter[str] = Counter()
        self.waits = False
        self._server = server
        answers = [wants(("refund", {"n": 1})), wants(("refund", {"n": 2})), completion("Done.")]
        self.model = ScriptedModel(server, [partial(self._say, each) for each in answers])
        server.on("/refund", lambda exchange: self._pay(exchange, {"refunded": True}))
        refund = {"url": server.url("/refund"), "method": "POST"}
        for agent in (
            {"agentId": "refund", "toolType": "API", "effect": "once", "configuration": refund},
            {
                "agentId": "clerk",
                "toolType": "LLM",
                "configuration": {
                    "baseUrl": server.url("/v1"),
                    "model": "small",
                    "prompt": "Refund twice.",
                    "tools": [{"agentId": "refund", "policy": "allow"}],
                },
            },
        ):
            client.post("/agents", {"name": agent["agentId"], **agent})

    def block(self, block_id: str) -> dict[str, Any]:
        return {"blockId": block_id, "agentId": "clerk"}

    def _say(self, answer: dict[str, Any], exchange: Exchange) -> None:
        if not self.waits and b"tool_call_id" in exchange.body:
            self.waits = True
            self._server.hold(exchange)
        else:
            self._pay(exchange, answer)

    def _pay(self, exchange: Exchange, answer: dict[str, Any]) -> None:
        self.paid[exchange.headers["idempotency-key"]] += 1
        exchange.json(answer)


@pytest.mark.slow
def test_blocks_of_a_killed_worker_run_again_or_ask(
    client: Client, server: HttpServer, held: Held, service: Service
) -> None:
    """The lease's thirty seconds have to pass: one kill for both kinds of effect and an agent's steps."""
    ledger = Ledger(client, server)
    execution_id = client.run(
        template(
            calling(server, "pure", path="/held", effect="pure"),
            calling(server, "once", path="/held", effect="once", method="POST"),
            ledger.block("steps"),
            echo("after", "pure", "once"),
        )
    )
    until(lambda: held.count("pure") and held.count("once") and ledger.waits, why="all calls")
    service.kill_worker()
    service.start_worker()
    held.release()
    client.until_block(execution_id, "once", "waiting_human", 50)
    client.until_block(execution_id, "pure", "completed", 20)
    assert client.outcomes(execution_id, "pure") == ["rescued", "ok"]
    assert (held.count("pure"), held.count("once")) == (2, 1)
    block = client.block(execution_id, "once")
    assert (block["reason"], block["error"]["code"]) == ("unknown_outcome", "worker_lost")
    question = client.asked(execution_id)
    assert question["type"] == "fix"
    done = {"action": "complete", "output": {"found": "in the ledger"}}
    assert client.answer(question, response=done).status == 200
    run = client.ended(execution_id)
    assert run["status"] == "completed"
    assert run["globalContext"]["once"] == {"found": "in the ledger"}
    assert held.count("once") == 1
    assert len(held.calls) == 2  # the second call of `pure` carried the key of the first
    assert client.outcomes(execution_id, "steps") == ["rescued", "ok"]
    keys = [f"{execution_id}:steps:0:0:step:{number}" for number in (1, 2, 3, 4, 5)]
    assert ledger.paid == Counter(keys)  # three answers of the model and two refunds, each once
    steps = client.get(f"/executions/{execution_id}/blocks/steps/steps")["steps"]
    assert [(step["kind"], step["attempt"]) for step in steps] == [
        ("model", 1),
        ("tool", 1),
        ("model", 2),
        ("tool", 2),
        ("model", 2),
    ]
    assert run["usage"]["outputTokens"] == 6
