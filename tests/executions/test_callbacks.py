"""Agents that answer 202 and bring the result later: it is lost on nobody and counts once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from rest_framework.test import APIClient

from agentflow.agents import registry
from agentflow.events.models import Event, Level
from agentflow.governance.models import User, Workspace
from agentflow.types import JSONObject, JSONValue
from approvals.models import Approval
from executions import callbacks, explain
from executions.engine import profile
from executions.models import BlockAttempt, BlockExecution, CallbackAnswer, Execution
from executions.narration import sentence
from executions.services import control, reconcile, repairing, restarting
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.servers import Exchange, HttpServer, http_server
from tests.waiting import until

from .conftest import Start, block, claim, drain, lose_worker, make_due, row, template
from .test_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)
BASE = "https://flow.example.com"
Begin = Callable[..., Execution]


@pytest.fixture(autouse=True)
def _base_url(settings: Any) -> None:
    settings.AGENTFLOW_BASE_URL = BASE


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """Takes on whatever it is asked."""
    with http_server() as running:
        running.on("/job", lambda exchange: exchange.reply(status=202))
        yield running


@pytest.fixture
def begin(start: Start, server: HttpServer) -> Begin:
    """A run whose agents may call the server, walked until it waits."""

    def make(*blocks: JSONObject, walked: bool = True, **options: Any) -> Execution:
        execution = start(template(*blocks), **options)
        Workspace.objects.filter(pk=execution.workspace_id).update(egress_allow=[server.allowed])
        registry.forget()
        if walked:
            drain(execution)
        return execution

    return make


def job(server: HttpServer, block_id: str = "a", *dependencies: str, **fields: Any) -> JSONObject:
    configuration = {
        "url": server.url("/job"),
        "method": "POST",
        "callback": {},
        **fields.pop("configuration", {}),
    }
    return {
        "blockId": block_id,
        "toolType": "API",
        "dependencies": list(dependencies),
        "configuration": configuration,
        "effect": "keyed",
        **fields,
    }


def address(execution: Execution, block_id: str = "a", attempt: int | None = None, iteration: int = 0) -> str:
    found = BlockExecution.objects.filter(execution=execution, block_id=block_id, iteration=iteration)
    one = found.order_by("epoch").last()
    assert one is not None
    return callbacks.url(one.pk, one.attempt if attempt is None else attempt)


def bring(url: str, body: JSONValue) -> tuple[int, str]:
    """The status and the code of the answer."""
    reply = APIClient().post(url.removeprefix(BASE), body, format="json")
    said = reply.json()
    return reply.status_code, "" if said == {"success": True} else said["code"]


def look(execution: Execution) -> None:
    reconcile.look(execution.pk)
    drain(execution)


def outcomes(execution: Execution, block_id: str = "a") -> list[str]:
    return list(
        BlockAttempt.objects.filter(block__execution=execution, block__block_id=block_id)
        .order_by("block_id", "attempt")
        .values_list("outcome", flat=True)
    )


# -- the wait ------------------------------------------------------------------


def test_a_block_that_was_answered_202_waits_for_its_callback(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server), block("b", "a"))
    assert statuses(execution) == {"a": "waiting_external", "b": "blocked"}
    (seen,) = server.seen
    url = seen.headers["callback-url"]
    assert url == address(execution)
    assert bring(url, {"output": {"n": 1}}) == (200, "")
    assert row(execution, "a").output == {"n": 1}
    drain(execution)
    assert execution.status == "completed"
    assert row(execution, "b").output == {"a": {"n": 1}}
    assert outcomes(execution) == ["ok"]
    assert Event.objects.filter(execution_id=execution.pk, type="callback_received").count() == 1


def test_only_one_who_is_asked_to_call_back_is_waited_for(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server, configuration={"callback": None}))
    assert "callback-url" not in server.seen[0].headers
    assert statuses(execution) == {"a": "completed"}


def test_an_answer_other_than_202_counts_at_once(begin: Begin, server: HttpServer) -> None:
    server.on("/job", lambda exchange: exchange.json({"n": 1}, 201))
    execution = begin(job(server))
    assert row(execution, "a").output == {"n": 1}


def test_the_address_can_be_told_in_query_and_body(begin: Begin, server: HttpServer) -> None:
    told = {"query": {"to": "{callbackUrl}"}, "body": {"hooks": [{"url": "{callbackUrl}?x=1"}]}}
    execution = begin(job(server, configuration=told))
    (seen,) = server.seen
    assert seen.path.startswith("/job?to=https%3A%2F%2Fflow.example.com%2Fapi%2Fv1%2Fcallbacks%2F")
    assert json.loads(seen.body) == {"hooks": [{"url": address(execution) + "?x=1"}]}


def test_the_wait_is_explained(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server))
    said = explain.explain(execution)
    assert said["reason"]["code"] == said["blocks"][0]["reason"]["code"] == "waiting_callback"
    assert said["blocks"][0]["reason"]["until"] == row(execution, "a").available_at


def test_a_simulated_block_waits_for_nobody(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server), simulation={"outputs": {"a": 1}})
    assert execution.status == "completed"
    assert server.seen == []


def test_a_call_that_may_be_answered_later_is_not_made_ahead_of_its_claim(
    begin: Begin, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known to be fast, and behind one that is fast too: without a row nobody could bring the result."""
    monkeypatch.setattr(profile.history, "expect", lambda likeness: 0.1)
    execution = begin(block("first"), job(server, "a", "first"))
    assert statuses(execution) == {"first": "completed", "a": "waiting_external"}
    (seen,) = server.seen
    assert bring(seen.headers["callback-url"], {"output": 1}) == (200, "")
    drain(execution)
    assert execution.status == "completed"


# -- before the wait -----------------------------------------------------------


def test_a_result_that_is_faster_than_the_202_is_not_lost(begin: Begin, server: HttpServer) -> None:
    said = []

    def hurry(exchange: Exchange) -> None:
        said.append(bring(exchange.headers["callback-url"], {"output": "fast"}))
        connection.close()
        exchange.reply(status=202)

    server.on("/job", hurry)
    execution = begin(job(server), block("b", "a"))
    assert said == [(200, "")]
    assert execution.status == "completed"
    assert row(execution, "a").output == "fast"


@pytest.mark.parametrize(
    "brought", [{"output": "brought"}, {"error": {"kind": "agent", "code": "broken", "message": "Broken."}}]
)
def test_a_result_that_was_taken_counts_whatever_the_open_call_answers(
    begin: Begin, server: HttpServer, brought: JSONObject
) -> None:
    said = []

    def both(exchange: Exchange) -> None:
        said.append(bring(exchange.headers["callback-url"], brought))
        connection.close()
        exchange.json("answered")

    server.on("/job", both)
    fails = "error" in brought
    execution = begin(job(server, onError="continue", retryPolicy={"maxRetries": 0, "onExhausted": "fail"}))
    assert said == [(200, "")]
    assert execution.status == "completed"
    assert (row(execution, "a").output, outcomes(execution)) == (
        (None, ["error"]) if fails else ("brought", ["ok"])
    )
    assert [late.output for late in row(execution, "a").late_results.all()] == ["answered"]
    ((level, words),) = told_late(execution, "block_late")
    assert (level, "brought to its callback URL" in words) == (Level.WARNING, True)


def test_what_follows_sees_the_result_that_was_taken_and_not_the_answer(
    begin: Begin, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile.history, "expect", lambda likeness: 0.1)  # else nothing is done ahead

    def both(exchange: Exchange) -> None:
        bring(exchange.headers["callback-url"], {"output": {"n": 1}})
        connection.close()
        exchange.json({"n": 2})

    server.on("/job", both)
    execution = begin(job(server), block("b", "a"), block("c", "b"))
    assert row(execution, "c").output == {"b": {"a": {"n": 1}}}


def test_a_result_counts_though_the_call_that_asked_for_it_broke_off(
    begin: Begin, server: HttpServer
) -> None:
    def hurry(exchange: Exchange) -> None:
        bring(exchange.headers["callback-url"], {"output": "fast"})
        connection.close()
        exchange.drop()

    server.on("/job", hurry)
    execution = begin(job(server, effect="once"))
    look(execution)
    assert execution.status == "completed"
    assert (row(execution, "a").output, outcomes(execution)) == ("fast", ["ok"])


@pytest.mark.parametrize("effect", ["keyed", "once"])
def test_a_result_outlives_the_worker_that_did_not_live_to_wait_for_it(
    begin: Begin, server: HttpServer, effect: str
) -> None:
    execution = begin(job(server, effect=effect), walked=False)
    claim(execution)
    assert bring(address(execution), {"output": 1}) == (200, "")
    lose_worker(execution, "a")
    look(execution)
    assert execution.status == "completed"
    assert (row(execution, "a").output, outcomes(execution)) == (1, ["ok"])


def test_a_result_for_an_attempt_whose_worker_vanished_answers_the_next(
    begin: Begin, server: HttpServer
) -> None:
    """The same idempotency key: the other side may not call back a second time."""
    execution = begin(job(server), walked=False)
    claim(execution)
    lose_worker(execution, "a")
    look(execution)
    assert (row(execution, "a").attempt, row(execution, "a").status) == (2, "waiting_external")
    assert bring(address(execution, attempt=1), {"output": 1}) == (200, "")
    assert row(execution, "a").output == 1
    assert outcomes(execution) == ["rescued", "ok"]
    assert bring(address(execution, attempt=2), {"output": 2}) == (409, "callback_withdrawn")


def test_a_result_that_was_taken_from_one_agent_counts_though_another_was_called_since(
    begin: Begin, server: HttpServer
) -> None:
    said: list[tuple[int, str]] = []

    def other(exchange: Exchange) -> None:
        said.append(bring(address(execution, attempt=1), {"output": "first"}))
        connection.close()
        exchange.json("second")

    server.on("/job", Exchange.drop)
    server.on("/other", other)
    asks = {"blockId": "a", "toolType": "API", "capabilities": ["scan"], "effect": "pure"}
    execution = begin(asks, walked=False)
    for agent_id, cost, given in (
        ("one", {}, {"url": server.url("/job"), "method": "POST", "callback": {}}),
        ("two", {"perCall": 1}, {"url": server.url("/other")}),
    ):
        AgentFactory.create(
            workspace=execution.workspace,
            agent_id=agent_id,
            tool_type="API",
            capabilities=[{"name": "scan"}],
            cost=cost,
            configuration=given,
        )
    registry.forget()
    drain(execution)
    make_due(execution)
    look(execution)
    assert said == [(200, "")]
    assert (execution.status, row(execution, "a").output) == ("completed", "first")
    assert [late.output for late in row(execution, "a").late_results.all()] == ["second"]
    made = row(execution, "a").attempts.order_by("attempt").values_list("agent_id", "outcome")
    assert list(made) == [("one", "error"), ("one", "ok")]


def test_a_result_between_a_rescue_and_the_next_attempt_is_kept(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server), walked=False)
    claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    assert row(execution, "a").status == "ready"
    assert bring(address(execution), {"output": 1}) == (200, "")
    look(execution)
    look(execution)
    assert row(execution, "a").output == 1


# -- failures ------------------------------------------------------------------


def failure(kind: str = "transient", code: str = "overloaded") -> JSONObject:
    return {"error": {"kind": kind, "code": code, "message": "Not today."}}


def test_a_transient_failure_is_tried_again_under_a_new_address(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server, retryPolicy={"initialDelay": 0, "maxRetries": 1}))
    first = address(execution)
    assert bring(first, failure()) == (200, "")
    make_due(execution)
    drain(execution)
    assert (row(execution, "a").attempt, row(execution, "a").status) == (2, "waiting_external")
    assert bring(first, {"output": 1}) == (409, "callback_used")
    assert bring(first, failure()) == (200, "")
    assert bring(address(execution), {"output": 2}) == (200, "")
    assert row(execution, "a").output == 2
    assert outcomes(execution) == ["error", "ok"]


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("configuration", {}, "waiting_human"),
        ("agent", {"retryPolicy": {"maxRetries": 0, "onExhausted": "fail"}}, "failed"),
        ("critical", {"onError": "continue"}, "failed"),
        ("transient", {"effect": "once", "retryPolicy": {"maxRetries": 0}}, "waiting_human"),
    ],
)
def test_a_failure_is_judged_as_that_of_a_call(
    begin: Begin, server: HttpServer, kind: str, fields: JSONObject, status: str
) -> None:
    execution = begin(job(server, **fields))
    assert bring(address(execution), failure(kind)) == (200, "")
    found = row(execution, "a")
    assert (found.status, found.error["code"]) == (status, "overloaded")  # type: ignore[index]
    assert Approval.objects.filter(execution=execution, kind="fix").count() == (status == "waiting_human")


def test_an_output_that_is_not_what_the_agent_promised_is_its_failure(
    begin: Begin, server: HttpServer, start: Start
) -> None:
    fields: JSONObject = {"toolType": None, "agentId": "slow", "configuration": {}}
    execution = begin({**job(server), **fields, "retryPolicy": {"maxRetries": 0}}, walked=False)
    AgentFactory.create(
        workspace=execution.workspace,
        agent_id="slow",
        configuration={"url": server.url("/job"), "method": "POST", "callback": {"timeout": 60_000}},
        output_schema={"type": "object"},
    )
    registry.forget()
    drain(execution)
    assert bring(address(execution), {"output": 7}) == (200, "")
    assert row(execution, "a").error["code"] == "output_schema_mismatch"  # type: ignore[index]


def test_a_call_that_breaks_off_does_not_wait_for_what_an_earlier_one_brought(
    begin: Begin, server: HttpServer
) -> None:
    execution = begin(job(server, retryPolicy={"initialDelay": 0, "maxRetries": 1}))
    bring(address(execution), failure())
    server.on("/job", lambda exchange: exchange.drop())
    make_due(execution)
    drain(execution)
    assert (row(execution, "a").attempt, row(execution, "a").status) == (2, "waiting_human")
    assert outcomes(execution) == ["error", "error"]


# -- time ----------------------------------------------------------------------


def test_a_callback_that_does_not_come_is_a_failure_of_the_attempt(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server, retryPolicy={"initialDelay": 0, "maxRetries": 1}))
    first = address(execution)
    make_due(execution)
    look(execution)
    make_due(execution)
    drain(execution)
    assert (row(execution, "a").attempt, row(execution, "a").status) == (2, "waiting_external")
    failed = BlockAttempt.objects.get(block__execution=execution).failure
    assert failed is not None
    assert (failed["kind"], failed["code"]) == ("transient", "callback_timeout")
    assert bring(first, {"output": 1}) == (410, "callback_expired")
    assert bring(first, {"output": 1}) == (410, "callback_expired")
    assert row(execution, "a").late_results.count() == 1
    assert row(execution, "a").status == "waiting_external"


@pytest.mark.parametrize(("policy", "status"), [("ask", "waiting_human"), ("fail", "failed")])
def test_what_may_have_happened_and_must_not_twice_asks(
    begin: Begin, server: HttpServer, policy: str, status: str
) -> None:
    execution = begin(job(server, effect="once", onUnknownOutcome=policy))
    make_due(execution)
    look(execution)
    assert (row(execution, "a").status, row(execution, "a").reason) == (status, "unknown_outcome")


def test_the_clock_takes_a_result_rather_than_end_the_wait(
    begin: Begin, server: HttpServer, author: User
) -> None:
    execution = begin(job(server))
    control.pause(execution_id=execution.pk, by=author)
    assert bring(address(execution), {"output": 1}) == (200, "")
    assert statuses(execution) == {"a": "waiting_external"}
    make_due(execution)
    control.resume(execution_id=execution.pk, by=author)
    look(execution)
    assert (execution.status, row(execution, "a").output) == ("completed", 1)


def test_a_result_after_the_deadline_that_nobody_enforced_yet_counts(
    begin: Begin, server: HttpServer
) -> None:
    execution = begin(job(server))
    make_due(execution)
    assert bring(address(execution), {"output": 1}) == (200, "")
    look(execution)
    assert execution.status == "completed"


# -- once ----------------------------------------------------------------------


def test_the_same_again_is_the_same_answer_and_another_is_refused(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server))
    url = address(execution)
    assert [bring(url, {"output": {"a": 1, "b": 2}}) for _ in range(2)] == [(200, "")] * 2
    assert bring(url, {"output": {"b": 2, "a": 1}}) == (200, "")
    assert bring(url, {"output": True}) == (409, "callback_used")
    assert bring(url, failure()) == (409, "callback_used")
    look(execution)
    assert execution.status == "completed"
    assert bring(url, {"output": {"a": 1, "b": 2}}) == (200, "")
    assert CallbackAnswer.objects.count() == 1


def test_rounds_and_items_have_addresses_of_their_own(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server, repeat={"until": "blocks.a.output == 1", "maxIterations": 5}))
    first = address(execution)
    assert bring(first, {"output": 0}) == (200, "")
    drain(execution)
    assert (row(execution, "a").round, row(execution, "a").status) == (1, "waiting_external")
    keys = [seen.headers["idempotency-key"] for seen in server.seen]
    assert len(set(keys)) == 2
    assert bring(first, {"output": 1}) == (409, "callback_used")
    assert bring(address(execution), {"output": 1}) == (200, "")
    assert execution.__class__.objects.get(pk=execution.pk).status == "completed"


def test_items_wait_for_their_own_callbacks(begin: Begin, server: HttpServer) -> None:
    execution = begin(
        job(
            server,
            forEach={"items": "input.all", "maxConcurrency": 2},
            retryPolicy={"maxRetries": 0, "onExhausted": "fail"},
        ),
        input={"all": [1, 2, 3]},
    )
    assert len(server.seen) == 2, "a wait keeps its place"
    assert bring(address(execution, iteration=2), {"output": "two"}) == (200, "")
    drain(execution)
    assert bring(address(execution, iteration=1), {"output": "one"}) == (200, "")
    BlockExecution.objects.filter(execution=execution, iteration=3).update(available_at=Now())
    look(execution)
    assert row(execution, "a").output == ["one", "two", None]
    assert row(execution, "a").error["code"] == "items_failed"  # type: ignore[index]


# -- nothing waits any more ----------------------------------------------------


def cancelled(execution: Execution, by: User) -> None:
    control.cancel(execution_id=execution.pk, by=by)


def skipped(execution: Execution, by: User) -> None:
    repairing.skip(execution_id=execution.pk, block_pk=row(execution, "a").pk, by=by, reason="no")


def restarted(execution: Execution, by: User) -> None:
    cancelled(execution, by)
    reconcile.look(execution.pk)
    restarting.restart_failed(execution_id=execution.pk, by=by)
    drain(execution)


@pytest.mark.parametrize("end", [cancelled, skipped, restarted])
def test_what_nothing_waits_for_is_kept_for_people(
    begin: Begin, server: HttpServer, author: User, end: Callable[[Execution, User], None]
) -> None:
    execution = begin(job(server), block("b", "a"))
    old = row(execution, "a")
    end(execution, author)
    before = statuses(execution)
    for _ in range(2):
        assert bring(callbacks.url(old.pk, 1), {"output": 1}) == (409, "callback_withdrawn")
    assert bring(callbacks.url(old.pk, 1), {"output": 2}) == (409, "callback_withdrawn")
    assert [late.output for late in old.late_results.all()] == [1]
    look(execution)
    if end is not skipped:
        assert statuses(execution) == before
    if end is restarted:
        assert bring(address(execution), {"output": 2}) == (200, "")


def told_late(execution: Execution, type: str) -> list[tuple[int, str]]:
    """Level and sentence of what people read about a result that came too late."""
    events = Event.objects.filter(execution_id=execution.pk, type=type)
    return [(each.level, sentence(each.type, each.block_id, each.payload)) for each in events]


def test_a_callback_after_the_answer_is_suppressed_and_told(begin: Begin, server: HttpServer) -> None:
    server.on("/job", lambda exchange: exchange.json({"n": 1}))
    execution = begin(job(server), block("b", "a"))
    assert execution.status == "completed"
    url = server.seen[0].headers["callback-url"]
    assert [bring(url, {"output": {"n": 2}}) for _ in range(2)] == [(409, "callback_withdrawn")] * 2
    look(execution)
    assert row(execution, "a").output == {"n": 1}
    assert row(execution, "b").output == {"a": {"n": 1}}
    assert outcomes(execution) == ["ok"]
    assert [late.output for late in row(execution, "a").late_results.all()] == [{"n": 2}]
    ((level, said),) = told_late(execution, "callback_received")
    assert level == Level.WARNING
    assert "nothing waited for it any more" in said


def test_a_callback_after_its_deadline_is_suppressed_and_told(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server, retryPolicy={"maxRetries": 0, "onExhausted": "fail"}))
    make_due(execution)
    look(execution)
    assert execution.status == "failed"
    assert [bring(address(execution), {"output": 1}) for _ in range(2)] == [(410, "callback_expired")] * 2
    look(execution)
    assert (execution.status, row(execution, "a").output, outcomes(execution)) == ("failed", None, ["error"])
    assert [late.output for late in row(execution, "a").late_results.all()] == [1]
    ((level, said),) = told_late(execution, "callback_received")
    assert level == Level.WARNING
    assert "nothing waited for it any more" in said


def test_a_token_that_was_not_given_is_no_address(begin: Begin, server: HttpServer, settings: Any) -> None:
    execution = begin(job(server))
    pk = row(execution, "a").pk
    gone, later, own = callbacks.url(pk + 1000, 1), callbacks.url(pk, 2), callbacks.url(pk, 1)
    swapped = own.replace(f"/{pk}.1.", f"/{pk}.2.")
    settings.SECRET_KEY = "another-installation-0123456789-0123456789"
    foreign = callbacks.url(pk, 1)
    settings.SECRET_KEY_FALLBACKS = ["test-only-and-never-used-elsewhere-0123456789"]
    others = [f"{BASE}/api/v1/callbacks/{x}" for x in ("x", "1.1", "1.1.x", "é.1.\x7f", "a" * 5000)]
    for url in (gone, later, swapped, *others):
        assert bring(url, {"output": 1}) == (404, "not_found")
    settings.SECRET_KEY = "test-only-and-never-used-elsewhere-0123456789"
    settings.SECRET_KEY_FALLBACKS = []
    assert bring(foreign, {"output": 1}) == (404, "not_found")
    assert statuses(execution) == {"a": "waiting_external"}


def test_an_address_outlives_a_change_of_the_secret_key(
    begin: Begin, server: HttpServer, settings: Any
) -> None:
    execution = begin(job(server))
    url = address(execution)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the-new-secret-key-0123456789-0123456789-01"
    assert bring(url, {"output": 1}) == (200, "")


# -- bad bodies ----------------------------------------------------------------

GOOD_ERROR: JSONObject = {"kind": "agent", "code": "x", "message": "y"}
BAD_ERRORS: list[JSONObject] = [
    *({name: text for name, text in GOOD_ERROR.items() if name != missing} for missing in GOOD_ERROR),
    {**GOOD_ERROR, "kind": "fatal"},
    {**GOOD_ERROR, "code": "Not Stable"},
    {**GOOD_ERROR, "code": "x\n"},
    {**GOOD_ERROR, "code": 7},
    {**GOOD_ERROR, "message": ""},
    {**GOOD_ERROR, "message": "x" * 2001},
    {**GOOD_ERROR, "evidence": {}},
]
BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{}", 400),
    (b"[]", 400),
    (b"{", 400),
    (b'{"output": NaN}', 400),
    (b'{"output": "\\u0000"}', 400),
    (b'{"output": ' + b"[" * 70 + b"]" * 70 + b"}", 400),
    (b'{"output": 1, "output": 2}', 400),
    (b'{"output": 1, "more": 2}', 400),
    (json.dumps({"output": 1, "error": GOOD_ERROR}).encode(), 400),
    (json.dumps({"output": "x" * 300_000}).encode(), 400),
    (b'{"output": "' + b"x" * 1024**2 + b'"}', 413),
    (b'{"error": null}', 400),
    (b'{"error": "broken"}', 400),
    *((json.dumps({"error": error}).encode(), 400) for error in BAD_ERRORS),
]


def test_a_body_that_says_nothing_clear_is_refused_and_the_block_waits_on(
    begin: Begin, server: HttpServer
) -> None:
    execution = begin(job(server))
    url = address(execution).removeprefix(BASE)
    for body, status in BAD_BODIES:
        reply = APIClient().post(url, body, content_type="application/json")
        assert (reply.status_code, reply["Content-Type"]) == (status, "application/problem+json"), body[:80]
    assert statuses(execution) == {"a": "waiting_external"}
    assert CallbackAnswer.objects.count() == 0


def test_null_is_a_result(begin: Begin, server: HttpServer) -> None:
    execution = begin(job(server))
    assert APIClient().get(address(execution).removeprefix(BASE)).status_code == 405
    assert bring(address(execution), {"output": None}) == (200, "")
    assert statuses(execution) == {"a": "completed"}


# -- races ---------------------------------------------------------------------

TIMES = 5


def test_a_result_and_the_deadline_at_once_settle_the_attempt_once(begin: Begin, server: HttpServer) -> None:
    for _ in range(TIMES):
        execution = begin(job(server, retryPolicy={"maxRetries": 0, "onExhausted": "fail"}))
        make_due(execution)
        said, _ = at_once(
            partial(bring, address(execution), {"output": 1}), partial(reconcile.look, execution.pk)
        )
        execution.refresh_from_db()
        late = row(execution, "a").late_results.count()
        assert (said, execution.status, outcomes(execution), late) in [
            ((200, ""), "completed", ["ok"], 0),
            ((410, "callback_expired"), "failed", ["error"], 1),
        ]


def test_a_result_and_the_202_that_cross_always_meet(begin: Begin, server: HttpServer) -> None:
    said: list[tuple[int, str]] = []

    def hurry(exchange: Exchange) -> None:
        exchange.reply(status=202)
        said.append(bring(exchange.headers["callback-url"], {"output": 1}))
        connection.close()

    server.on("/job", hurry)
    for number in range(TIMES):
        execution = begin(job(server))
        until(partial(said.__getitem__, slice(number, None)), every_s=0.005, why="the callback")
        reconcile.look(execution.pk)
        execution.refresh_from_db()
        assert (execution.status, outcomes(execution)) == ("completed", ["ok"])
    assert said == [(200, "")] * TIMES


def test_the_same_result_twice_at_once_counts_once(begin: Begin, server: HttpServer) -> None:
    for _ in range(TIMES):
        execution = begin(job(server), block("b", "a"))
        twice = partial(bring, address(execution), {"output": 1})
        assert at_once(twice, twice) == [(200, ""), (200, "")]
        drain(execution)
        assert (execution.status, outcomes(execution)) == ("completed", ["ok"])


def test_of_two_results_at_once_one_counts(begin: Begin, server: HttpServer) -> None:
    for _ in range(TIMES):
        execution = begin(job(server))
        url = address(execution)
        said = at_once(partial(bring, url, {"output": 1}), partial(bring, url, {"output": 2}))
        assert sorted(said) == [(200, ""), (409, "callback_used")]
        assert row(execution, "a").output == said.index((200, "")) + 1


def test_a_result_and_a_cancel_at_once_leave_one_end(begin: Begin, server: HttpServer, author: User) -> None:
    for _ in range(TIMES):
        execution = begin(job(server), block("b", "a"))
        said, _ = at_once(
            partial(bring, address(execution), {"output": 1}),
            partial(control.cancel, execution_id=execution.pk, by=author),
        )
        execution.refresh_from_db()
        assert execution.status == "cancelled"
        assert (said, row(execution, "a").status) in [
            ((200, ""), "completed"),
            ((409, "callback_withdrawn"), "cancelled"),
        ]
