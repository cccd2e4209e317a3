from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.shop import BODY_BYTES, Ledger, Server, Shop
from tests.waiting import PATIENCE_S

REFUND = {"orderId": "A-1042", "amount": 320.0, "currency": "EUR"}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def shop(ledger: Path) -> Iterator[Server]:
    server = Server(0, Shop(Ledger(ledger)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
    server.shop.ledger.close()


def ask(
    shop: Server, method: str, path: str, body: Any = None, *, key: str = "", raw: bytes | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", shop.server_port, timeout=PATIENCE_S)
    content = raw if raw is not None else None if body is None else json.dumps(body).encode()
    connection.request(method, path, content, {"Idempotency-Key": key} if key else {})
    reply = connection.getresponse()
    return reply.status, json.load(reply)


def test_a_refund_is_paid_once_per_key(shop: Server) -> None:
    first = ask(shop, "POST", "/refunds", REFUND, key="k")
    again = ask(shop, "POST", "/refunds", REFUND, key="k")
    assert (first[0], again[0]) == (201, 200)
    assert first[1] == again[1]
    assert ask(shop, "GET", "/refunds")[1]["refunds"] == [first[1]]


def test_a_key_stands_for_one_request(shop: Server) -> None:
    ask(shop, "POST", "/refunds", REFUND, key="k")
    assert ask(shop, "POST", "/refunds", REFUND | {"amount": 1}, key="k")[0] == 409
    assert ask(shop, "POST", "/messages", REFUND, key="k")[0] == 409


def test_without_a_key_each_request_counts(shop: Server) -> None:
    for _ in range(2):
        assert ask(shop, "POST", "/messages", {"text": "Hello"})[0] == 201
    assert len(ask(shop, "GET", "/messages")[1]["messages"]) == 2


def test_the_ledger_outlives_the_shop(shop: Server, ledger: Path) -> None:
    entry = ask(shop, "POST", "/refunds", REFUND, key="k")[1]
    assert Shop(Ledger(ledger)).post("/refunds", REFUND, "k") == (entry, False)


def test_racing_calls_with_one_key_pay_once(shop: Server) -> None:
    threads = [
        threading.Thread(target=ask, args=(shop, "POST", "/refunds", REFUND), kwargs={"key": "k"})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ask(shop, "GET", "/refunds")[1]["refunds"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"orderId": "A-1", "amount": 1}, 404),
        ({"orderId": "A-1042", "amount": 0}, 400),
        ({"orderId": "A-1042", "amount": True}, 400),
        ({"orderId": "A-1042", "amount": 640.01}, 422),
        ([], 400),
    ],
)
def test_it_refuses_what_it_cannot_pay(shop: Server, body: Any, status: int) -> None:
    assert ask(shop, "POST", "/refunds", body)[0] == status
    assert ask(shop, "GET", "/refunds")[1]["refunds"] == []


def test_bad_requests_are_refused_with_a_reason(shop: Server) -> None:
    assert ask(shop, "POST", "/refunds", raw=b"{")[0] == 400
    assert ask(shop, "POST", "/refunds", raw=b"1" * (BODY_BYTES + 1))[0] == 413
    assert ask(shop, "POST", "/orders", {})[0] == 404
    status, said = ask(shop, "GET", "/orders/none")
    assert (status, said) == (404, {"error": "There is nothing at /orders/none."})


def test_couriers_quote_fail_and_close_as_they_are_told(shop: Server) -> None:
    assert ask(shop, "GET", "/couriers/swift/quotes/2.5")[1]["price"] == 6.9
    assert [ask(shop, "GET", "/couriers/shaky/quotes/1")[0] for _ in range(3)] == [200, 200, 503]
    assert ask(shop, "POST", "/couriers/swift", {"open": False})[1] == {"courier": "swift", "open": False}
    assert ask(shop, "GET", "/couriers/swift/quotes/2")[0] == 503
    ask(shop, "POST", "/couriers/swift", {"open": True})
    assert ask(shop, "GET", "/couriers/swift/quotes/2")[0] == 200
    for method, path, body in (
        ("GET", "/couriers/swift/quotes/heavy", None),
        ("POST", "/couriers/swift", {"open": 1}),
        ("POST", "/couriers/nobody", {"open": True}),
    ):
        assert ask(shop, method, path, body)[0] in (400, 404)
