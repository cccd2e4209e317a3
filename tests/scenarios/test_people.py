"""Runs that wait: for a person, for a child, for time.  Nothing is simulated."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.outside import Client, heard
from tests.scenarios.agents import Held, calling, echo, template
from tests.servers import Exchange, HttpServer
from tests.waiting import PATIENCE_S, until

FORM = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"type": "integer", "minimum": 0}, "note": {"type": "string"}},
    "additionalProperties": False,
}


def asking(block_id: str, *dependencies: str, **human: Any) -> dict[str, Any]:
    return {"blockId": block_id, "dependencies": list(dependencies), "humanInLoop": human}


def test_a_run_goes_on_when_it_is_approved(client: Client, server: HttpServer) -> None:
    server.on("/order", lambda exchange: exchange.json({"amount": 640}))
    execution_id = client.run(
        template(
            calling(server, "fetch", path="/order"),
            asking("approve", "fetch", type="approval"),
            echo("pay", "approve", input={"amount": "${blocks.fetch.output.amount}"}),
        )
    )
    question = client.asked(execution_id)
    assert client.statuses(execution_id) == {
        "fetch": "completed",
        "approve": "waiting_human",
        "pay": "blocked",
    }
    assert client.answer(question).status == 200
    run = client.ended(execution_id)
    assert run["status"] == "completed"
    assert run["globalContext"]["pay"] == {"amount": 640}
    (decided,) = client.blocks(execution_id)["approve"]["humanInteractions"]
    assert (decided["status"], decided["approved"]) == ("approved", True)


@pytest.mark.parametrize(
    ("rule", "status", "blocks"),
    [
        ("fail", "failed", {"ask": "failed", "after": "skipped"}),
        ("skip", "completed", {"ask": "skipped", "after": "skipped"}),
        ("continue", "completed", {"ask": "completed", "after": "completed"}),
    ],
)
def test_a_refusal_goes_as_the_author_said(
    client: Client, rule: str, status: str, blocks: dict[str, str]
) -> None:
    execution_id = client.run(template(asking("ask", type="approval", onReject=rule), echo("after", "ask")))
    assert client.answer(client.asked(execution_id), approved=False, comments="Not this one.").status == 200
    assert client.ended(execution_id)["status"] == status
    assert client.statuses(execution_id) == blocks


def test_an_unanswered_question_expires_once(client: Client) -> None:
    with client.socket("/ws/approvals") as inbox:
        heard(inbox, "hello")
        execution_id = client.run(template(asking("ask", type="approval", timeout=200), echo("after", "ask")))
        asked = heard(inbox, "approval_requested")
        assert heard(inbox, "approval_timeout")["approvalId"] == asked["approvalId"]
    run = client.ended(execution_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "approval_timeout")
    assert client.statuses(execution_id) == {"ask": "failed", "after": "skipped"}
    logs = client.get(f"/executions/{execution_id}/logs?limit=500")["logs"]
    assert [line["type"] for line in logs].count("approval_timeout") == 1
    late = client.call("POST", f"/approvals/{asked['approvalId']}/respond", {"approved": True})
    assert late.status == 409
    assert client.status(execution_id) == "failed"


def test_a_form_is_asked_until_the_answer_fits(client: Client) -> None:
    execution_id = client.run(
        template(
            asking("form", type="input", inputSchema=FORM),
            echo("use", "form", input={"twice": "${blocks.form.output.amount * 2}"}),
        )
    )
    question = client.asked(execution_id)
    for wrong in ({"amount": "many"}, {}, {"amount": 5, "colour": "red"}):
        refused = client.answer(question, response=wrong)
        assert refused.status in (400, 422), refused.body
        assert refused.body["issues"][0]["pointer"].startswith("/response")
    assert client.status(execution_id) == "running"
    assert client.answer(question, response={"amount": 21}).status == 200
    assert client.ended(execution_id)["globalContext"]["use"] == {"twice": 42}


def test_pausing_lets_the_call_end_and_opens_nothing_until_resumed(
    client: Client, server: HttpServer, held: Held
) -> None:
    execution_id = client.run(template(calling(server, "slow", path="/held"), echo("next", "slow")))
    until(held.count, why="the call")
    client.post(f"/executions/{execution_id}/pause", {})
    held.release()
    client.until_block(execution_id, "slow", "completed")
    assert client.statuses(execution_id)["next"] == "blocked"
    assert client.status(execution_id) == "paused"
    client.post(f"/executions/{execution_id}/resume", {})
    assert client.ended(execution_id)["status"] == "completed"
    assert held.count() == 1


def test_cancelling_stops_a_call_in_flight(client: Client, server: HttpServer, held: Held) -> None:
    execution_id = client.run(template(calling(server, "slow", path="/held"), echo("next", "slow")))
    until(held.count, why="the call")
    client.post(f"/executions/{execution_id}/cancel", {"reason": "Not needed."})
    run = client.ended(execution_id, timeout_s=10)  # the agent never answered
    assert (run["status"], run["error"]["message"]) == ("cancelled", "Not needed.")
    assert client.statuses(execution_id) == {"slow": "cancelled", "next": "cancelled"}
    assert client.call("POST", f"/executions/{execution_id}/resume", {}).status == 409


def test_a_parent_waits_for_its_child_and_takes_its_output(client: Client) -> None:
    child = client.create(
        template(asking("confirm", type="approval"), echo("told", "confirm", input={"n": 7}))
    )
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": child}}
    execution_id = client.run(template(sub, echo("after", "sub")))
    client.until_block(execution_id, "sub", "waiting_external")
    question = until(lambda: client.get("/approvals/pending")["approvals"], why="the child's question")[0]
    assert question["executionId"] != execution_id
    assert client.answer(question).status == 200
    run = client.ended(execution_id)
    assert run["status"] == "completed"
    assert run["globalContext"]["sub"] == {"told": {"n": 7}}
    assert client.ended(question["executionId"])["parentExecutionId"] == execution_id


def test_a_failing_agent_is_tried_again_after_its_backoff(client: Client, server: HttpServer) -> None:
    def busy_twice(exchange: Exchange) -> None:
        if len(server.seen) <= 2:
            exchange.reply(b"busy", 503)
        else:
            exchange.json({"ok": True})

    server.on("/busy", busy_twice)
    policy = {"maxRetries": 3, "backoffStrategy": "fixed", "initialDelay": 400, "jitter": False}
    execution_id = client.run(template(calling(server, "a", path="/busy", retryPolicy=policy)))
    assert client.ended(execution_id)["status"] == "completed"
    attempts = client.block(execution_id, "a")["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["error", "error", "ok"]
    assert attempts[0]["error"]["code"] == "http_503"
    for before, after in itertools.pairwise(attempts):
        pause = datetime.fromisoformat(after["startedAt"]) - datetime.fromisoformat(before["completedAt"])
        assert timedelta(milliseconds=400) <= pause < timedelta(seconds=10)
    assert len({exchange.headers["idempotency-key"] for exchange in server.seen}) == 1


def test_a_socket_that_broke_off_goes_on_from_its_cursor(client: Client) -> None:
    chain = [echo("a"), asking("b", "a", type="approval"), echo("c", "b"), echo("d", "c")]
    with client.socket("/ws/approvals") as inbox:
        inbox_cursor = heard(inbox, "hello")["cursor"]
    execution_id = client.run(template(*chain))
    question = client.asked(execution_id)
    path = f"/ws/executions/{execution_id}"
    with client.socket(path, "0-0") as socket:
        first = [heard(socket, "execution_changed"), heard(socket, "execution_changed")]
    assert client.answer(question).status == 200
    client.ended(execution_id)
    with client.socket(path, first[-1]["cursor"]) as socket:
        rest = _until_completed(socket)
    with client.socket(path, "0-0") as socket:
        everything = _until_completed(socket)
    seen = [message["id"] for message in rest]
    behind = everything[[m["id"] for m in everything].index(first[-1]["id"]) + 1 :]
    assert seen == [message["id"] for message in behind]
    assert len(set(seen)) == len(seen)
    settled = [m["blockId"] for m in rest if m["type"] == "block_changed" and m["status"] == "completed"]
    assert settled[-2:] == ["c", "d"]
    with client.socket("/ws/approvals", inbox_cursor) as inbox:
        assert heard(inbox, "approval_requested")["approvalId"] == question["approvalId"]
        assert heard(inbox, "approval_responded")["approvalId"] == question["approvalId"]


def _until_completed(socket: ClientConnection) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    while True:
        message = json.loads(socket.recv(timeout=PATIENCE_S))
        if "id" in message:
            messages.append(message)
        if message["type"] == "execution_changed" and message["status"] == "completed":
            return messages
