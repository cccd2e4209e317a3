"""Calls that wait for somebody outside do so in threads of their own, with fewer connections than calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection
from django.db.models.functions import Now

from agentflow.agents.invocation import api_auth
from agentflow.conf import LIMITS
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.engine.callers import Callers, callers
from executions.engine.expecting import Expected
from executions.engine.profile import history
from executions.engine.walker import walk
from executions.engine.watch import watch
from executions.models import BlockExecution, Execution
from executions.services import control
from tests import builtins, work
from tests.agents.test_secrets import keep
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.servers import Exchange, HttpServer, http_server
from tests.waiting import PATIENCE_S, until

from .conftest import Start, block, facts, template

WIDE, SEATS = 24, 2


# What each type needs to be a block; none is called.
WELL: dict[str, JSONObject] = {
    "API": {"configuration": {"url": "https://example.com/"}},
    "MCP": {"configuration": {"server": "files", "tool": "read"}},
    "LLM": {"configuration": {"model": "m", "prompt": "p"}},
    "Script": {"configuration": {"script": "s"}},
    "UseCase": {"configuration": {"templateId": "00000000-0000-4000-8000-000000000000"}},
}


@pytest.fixture
def open_callers() -> Iterator[Callers]:
    history.forget()
    callers.begin(threads=WIDE, seats=SEATS)
    yield callers
    callers.end()
    history.forget()


class Held:
    """Answers once the test lets it."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.gate = threading.Event()
        server.on("/", self.answer)

    def answer(self, exchange: Exchange) -> None:
        self.gate.wait(PATIENCE_S)
        exchange.json({"n": 1})

    @property
    def calls(self) -> int:
        return len(self.server.seen)


@pytest.fixture
def held() -> Iterator[Held]:
    with http_server() as running:
        held = Held(running)
        yield held
        held.gate.set()


def call(held: Held, name: str, *dependencies: str, **fields: object) -> JSONObject:
    """Unless it says otherwise, one that is not to be repeated: what is slow is known of its kind alone."""
    configuration = {"method": "POST", "url": held.server.url("/")}
    return {
        "blockId": name,
        "toolType": "API",
        "configuration": configuration,
        "dependencies": list(dependencies),
        **fields,
    }


@pytest.fixture
def begin(start: Start, held: Held) -> Callable[..., Execution]:
    def make(*blocks: JSONObject) -> Execution:
        execution = start(template(*blocks, maxParallelBlocks=50))
        execution.workspace.egress_allow = [held.server.allowed]
        execution.workspace.save()
        go_on(execution)
        return execution

    return make


def go_on(execution: Execution) -> None:
    while walk(execution.pk):  # returns while the calls wait
        pass


def ended(execution: Execution) -> bool:
    execution.refresh_from_db()
    return execution.completed_at is not None


def connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return int(cursor.fetchone()[0])


def test_one_thread_begins_many_calls_that_wait_without_connections(
    begin: Callable[..., Execution], held: Held, open_callers: Callers, start: Start
) -> None:
    before = connections()
    calls = [call(held, f"call{number}") for number in range(WIDE)]
    execution = begin(block("first"), *calls, block("last", *(each["blockId"] for each in calls)))
    until(lambda: held.calls == WIDE, why="all calls at once")
    assert connections() <= before + SEATS + 2  # and the heartbeat's, and one that is being closed
    beside = start(template(block("a"), block("b", "a")))
    go_on(beside)
    assert statuses(beside) == {"a": "completed", "b": "completed"}
    held.gate.set()
    until(lambda: ended(execution) or walk(execution.pk), why="the end of the execution")
    until(lambda: ended(execution), why="the end of the execution")
    assert set(statuses(execution).values()) == {"completed"}
    assert held.calls == WIDE


def test_calls_that_wait_stop_when_their_execution_is_cancelled(
    begin: Callable[..., Execution], held: Held, open_callers: Callers, author: User
) -> None:
    execution = begin(*[call(held, f"call{number}") for number in range(6)])
    until(lambda: held.calls == 6, why="all calls")
    control.cancel(execution_id=execution.pk, by=author)
    until(lambda: ended(execution), 10, why="the end of the execution")
    assert execution.status == "cancelled"
    assert not held.gate.is_set()


def test_a_claim_that_waits_for_a_seat_keeps_its_lease(
    begin: Callable[..., Execution], held: Held, open_callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executions.engine.watch.LIMITS", replace(LIMITS, heartbeat_s=0.0))
    monkeypatch.setattr(watch, "_last_beat", watch._last_beat)
    seats = open_callers._seats
    taken = [seats._free.pop() for _ in range(SEATS)]
    execution = begin(call(held, "call"))
    soon = Now() + timedelta(seconds=2)
    rows = BlockExecution.objects.filter(execution=execution, status="running")
    assert rows.update(lease_expires_at=soon) == 1
    until(lambda: rows.filter(lease_expires_at__gt=Now() + timedelta(seconds=5)).exists(), why="a heartbeat")
    assert held.calls == 0
    held.gate.set()
    seats._free.extend(taken[1:])
    waiting = seats._new.popleft()
    waiting.put(taken[0])
    until(lambda: ended(execution), why="the end of the execution")
    assert execution.status == "completed"


def test_who_waits_for_a_token_leaves_the_seats_to_others(
    begin: Callable[..., Execution], held: Held, open_callers: Callers, start: Start
) -> None:
    """One fetches it and the others wait: with all seats taken by those it could not come back."""
    api_auth.forget_tokens()
    arrived, fetch = threading.Event(), threading.Event()

    def token(exchange: Exchange) -> None:
        arrived.set()
        fetch.wait(PATIENCE_S)
        exchange.json({"access_token": "t", "expires_in": 3600})

    held.server.on("/token", token)
    held.gate.set()
    workspace = start(template(block("a"))).workspace
    keep(workspace, value="s3cret/of-the-test")
    auth = {"type": "oauth2", "clientId": "me", "clientSecret": "${secrets.KEY}"}
    configuration = {"url": held.server.url("/"), "auth": {**auth, "tokenUrl": held.server.url("/token")}}
    AgentFactory.create(workspace=workspace, agent_id="api", configuration=configuration)
    execution = begin(*[{"blockId": f"call{n}", "agentId": "api"} for n in range(6)])
    until(arrived.is_set, why="the token to be asked for")
    until(lambda: len(open_callers._seats._free) == SEATS, why="all to wait outside")
    fetch.set()
    until(lambda: ended(execution), why="the end of the execution")
    assert execution.status == "completed"


def test_what_comes_after_a_call_goes_on_in_its_thread_if_it_is_quick(
    begin: Callable[..., Execution], held: Held, open_callers: Callers
) -> None:
    held.gate.set()
    after = block("after", "call", agentId="test.record", configuration={"name": "after"})

    def thread_of_the_next() -> str:
        found: list[str] = []
        builtins.on_call["after"] = lambda: found.append(threading.current_thread().name)
        execution = begin(call(held, "call"), after)
        until(lambda: walk(execution.pk) or ended(execution), why="the end of the execution")
        until(lambda: ended(execution), why="the end of the execution")
        assert execution.status == "completed"
        (likeness,) = [p.likeness for p in facts(execution).plan.blocks if p.block_id == "call"]
        history.note_wait(likeness, 10_000.0, answered=True)
        return found[0]

    assert thread_of_the_next() == threading.current_thread().name  # nothing is known of it
    assert thread_of_the_next().startswith("caller")


def test_only_what_waits_for_others_is_worth_a_thread(start: Start) -> None:
    """Unless it is known of such blocks how long they wait: a quick server is asked in place."""
    history.forget()
    kinds = [block("Builtin"), *({"blockId": kind, "toolType": kind, **WELL[kind]} for kind in WELL)]
    execution = start(template(*kinds), simulation=None)
    expected = Expected(facts(execution))
    worth = {p.block_id for p in facts(execution).plan.blocks if expected.waits(p)}
    assert worth == {"API", "MCP", "LLM"}
    (api,) = [p for p in facts(execution).plan.blocks if p.block_id == "API"]
    for _ in range(3):
        history.note_wait(api.likeness, 2.0, answered=True)
    assert not expected.waits(api)
    history.note_wait(api.likeness, 900.0, answered=False)
    history.note_wait(api.likeness, 1.0, answered=False)
    assert expected.waits(api)
    simulated = facts(start(template(*kinds), simulation={}))
    assert not any(map(Expected(simulated).waits, simulated.plan.blocks))


def test_short_steps_cost_no_more_where_calls_are_handed_on(
    start: Start, open_callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step at a time, for how many share a turn is a matter of time."""
    monkeypatch.setattr("executions.engine.walker.SLICE_S", PATIENCE_S)
    chain = template(*[block(f"b{n}", *([f"b{n - 1}"] if n else [])) for n in range(5)])
    costs = []
    for opened in (True, False, True):
        open_callers.open = opened
        history.forget()
        execution = start(chain, durability="strict")
        facts(execution)
        costs.append(work.times(partial(go_on, execution), "execute", "_commit", "submit", "hand_on"))
    assert costs[1] == costs[2]
    assert costs[1]["execute"] > 0 < costs[1]["_commit"]


def test_with_all_threads_taken_the_call_is_made_where_the_walker_is(
    begin: Callable[..., Execution], held: Held, open_callers: Callers
) -> None:
    while open_callers._idle.acquire(blocking=False):
        pass
    held.gate.set()
    assert statuses(begin(call(held, "call"))) == {"call": "completed"}
