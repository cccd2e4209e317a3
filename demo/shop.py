"""A small shop that the demo's agents call: orders and sales to read, refunds and messages to write, parcels.

A real HTTP service with a ledger in SQLite.  A POST with an `Idempotency-Key` it has seen gives the
first answer again and writes nothing; the same key with another body is refused.  Loopback only, and
without a login: nothing in it is worth protecting.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .couriers import couriers

BODY_BYTES = 256 * 1024
LEDGERS = {"refunds": "REF", "messages": "MSG"}  # collection -> how its numbers begin

ORDERS: dict[str, dict[str, Any]] = {
    "A-1042": {
        "orderId": "A-1042",
        "customer": {
            "name": "Lena Hartmann",
            "email": "lena.hartmann@example.com",
            "orders": 7,
            "refunds": 0,
        },
        "product": "Espresso machine Duo",
        "category": "appliances",
        "total": 640.0,
        "currency": "EUR",
        "daysSinceDelivery": 9,
    },
    "A-1043": {
        "orderId": "A-1043",
        "customer": {"name": "Pavel Novak", "email": "pavel.novak@example.com", "orders": 2, "refunds": 1},
        "product": "Wool blanket",
        "category": "home",
        "total": 79.5,
        "currency": "EUR",
        "daysSinceDelivery": 4,
    },
    "A-1044": {
        "orderId": "A-1044",
        "customer": {"name": "Aiko Tanaka", "email": "aiko.tanaka@example.com", "orders": 3, "refunds": 3},
        "product": "Wireless headphones",
        "category": "electronics",
        "total": 329.0,
        "currency": "EUR",
        "daysSinceDelivery": 41,
    },
}
SALES = {
    "berlin": 18240.5,
    "hamburg": 15110.0,
    "munich": 21904.75,
    "cologne": 12350.0,
    "vienna": 17420.25,
    "graz": 6120.0,
    "zurich": 24310.0,
    "basel": 9875.5,
    "prague": 13240.0,
    "brno": 5410.25,
    "warsaw": 16780.0,
    "krakow": 8890.0,
}


class Refused(Exception):
    """A request that the shop answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Ledger:
    """What was paid and sent, each key once, also over a restart."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, collection TEXT NOT NULL,"
            " key TEXT UNIQUE, asked TEXT NOT NULL, entry TEXT NOT NULL)"
        )

    def add(self, collection: str, facts: dict[str, Any], key: str | None) -> tuple[dict[str, Any], bool]:
        """The entry, and whether this call made it.

        Raises:
            Refused: the key was used for something else.
        """
        asked = json.dumps(facts, sort_keys=True)
        with self._lock:
            known = (
                self._db.execute(
                    "SELECT collection, asked, entry FROM entries WHERE key = ?", (key,)
                ).fetchone()
                if key
                else None
            )
            if known:
                if known[:2] != (collection, asked):
                    raise Refused(409, "This Idempotency-Key was used for another request.")
                return json.loads(known[2]), False
            (number,) = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM entries").fetchone()
            entry = {"number": f"{LEDGERS[collection]}-{number:04d}", **facts}
            self._db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
                (number, collection, key, asked, json.dumps(entry)),
            )
            return entry, True

    def entries(self, collection: str) -> list[dict[str, Any]]:
        with self._lock:
            rows = self._db.execute(
                "SELECT entry FROM entries WHERE collection = ? ORDER BY number", (collection,)
            ).fetchall()
        return [json.loads(entry) for (entry,) in rows]

    def close(self) -> None:
        with self._lock:
            self._db.close()


class Shop:
    """Answers by method and path; knows nothing of HTTP's wire."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.couriers = couriers()

    def get(self, path: str) -> Any:
        match path.strip("/").split("/"):
            case [""]:
                return {
                    "service": "agentflow demo shop",
                    "paths": [
                        "/orders/{id}",
                        "/sales/{city}",
                        "/couriers/{name}/quotes/{weight}",
                        *(f"/{name}" for name in LEDGERS),
                    ],
                }
            case ["orders", order_id] if order_id in ORDERS:
                return ORDERS[order_id]
            case ["sales", city] if city in SALES:
                return {"city": city, "revenue": SALES[city], "currency": "EUR"}
            case ["couriers", name, "quotes", weight] if name in self.couriers:
                return self._quote(name, weight)
            case [collection] if collection in LEDGERS:
                return {collection: self.ledger.entries(collection)}
        raise Refused(404, f"There is nothing at {path[:100]}.")

    def post(self, path: str, body: Any, key: str | None) -> tuple[Any, bool]:
        match path.strip("/").split("/"):
            case ["couriers", name] if name in self.couriers:
                return self._set_courier(name, body), False
        collection = path.strip("/")
        if collection not in LEDGERS:
            raise Refused(404, f"There is nothing at {path[:100]}.")
        if not isinstance(body, dict):
            raise Refused(400, "The body must be a JSON object.")
        if collection == "refunds":
            _check_refund(body)
        return self.ledger.add(collection, body, key)

    def _quote(self, name: str, weight: str) -> Any:
        if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", weight):
            raise Refused(400, "The weight is a number of kilograms.")
        found = self.couriers[name].quote(name, float(weight))
        if found is None:
            raise Refused(503, f"The courier {name} does not answer just now.")
        return found

    def _set_courier(self, name: str, body: Any) -> Any:
        wanted = body.get("open") if isinstance(body, dict) else None
        if not isinstance(wanted, bool):
            raise Refused(400, 'Say {"open": true} or {"open": false}.')
        self.couriers[name].open = wanted
        return {"courier": name, "open": wanted}


def _check_refund(body: dict[str, Any]) -> None:
    order = ORDERS.get(str(body.get("orderId")))
    amount = body.get("amount")
    if order is None:
        raise Refused(404, "There is no such order.")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
        raise Refused(400, "amount must be a number above 0.")
    if amount > order["total"]:
        raise Refused(422, f"The order was {order['total']:.2f} {order['currency']}; more is not refunded.")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        with self._answering():
            self._reply(200, self.server.shop.get(self.path.partition("?")[0]))

    def do_POST(self) -> None:
        with self._answering():
            entry, made = self.server.shop.post(self.path, self._body(), self.headers.get("Idempotency-Key"))
            self._reply(201 if made else 200, entry)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except Refused as refused:
            self._reply(refused.status, {"error": str(refused)})

    def _body(self) -> Any:
        given = self.headers.get("Content-Length") or ""
        if not re.fullmatch("[0-9]{1,9}", given) or int(given) > BODY_BYTES:
            self.close_connection = True  # what it goes on to send is not read
            raise Refused(413 if given.isdigit() else 411, f"A body has 0 to {BODY_BYTES} bytes.")
        try:
            return json.loads(self.rfile.read(int(given)))
        except (ValueError, RecursionError) as error:
            raise Refused(400, "The body is not JSON.") from error

    def _reply(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, shop: Shop) -> None:
        self.shop = shop
        super().__init__(("127.0.0.1", port), Handler)
