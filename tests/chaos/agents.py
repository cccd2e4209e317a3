"""Agents of the rig: addresses on loopback that do effects, and write each down before they answer.

What an agent does to a call follows from the call's key and number, so that a run can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.llm import completion, wants
from tests.servers import Exchange, HttpServer, http_server

QUICK_S = (0.002, 0.04)
LONG_S = (0.5, 2.5)


class Ledger:
    """Every call and every effect, in memory and line by line in a file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a")
        self.calls: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.at: dict[str, list[float]] = defaultdict(list)  # when each effect happened
        self.answers: Counter[str] = Counter()

    def called(self, key: str) -> int:
        """Which call of this key it is, from 1."""
        with self._lock:
            self.calls[key] += 1
            return self.calls[key]

    def effect(self, key: str, *, once: bool) -> None:
        """Do it; `once`: unless it was done under this key."""
        with self._lock:
            if once and self.effects[key]:
                return
            self.effects[key] += 1
            self.at[key].append(time.time())
            self._write({"key": key, "effect": True})

    def answered(self, key: str, how: str) -> None:
        with self._lock:
            self.answers[how] += 1
            self._write({"key": key, "answer": how})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps({"at": time.time(), **line}) + "\n")
        self._file.flush()


def chance(*of: object) -> float:
    """From 0 to 1, always the same for the same things."""
    digest = hashlib.sha256(repr(of).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def take_time(key: str, call: int, *, long: float = 0.1) -> None:
    low, high = LONG_S if chance("long", key, call) < long else QUICK_S
    time.sleep(low + (high - low) * chance("time", key, call))


def post_until_answered(address: str, body: Any, patience_s: float = 120.0) -> int:
    """The status of the first answer that is one; 0: there was none."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        request = urllib.request.Request(
            address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=15) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code < 500 and refused.code != 429:
                return refused.code
        except (OSError, HTTPException):
            pass
        time.sleep(0.5)
    return 0


class Agents:
    def __init__(self, ledger: Ledger, server: HttpServer) -> None:
        self.ledger = ledger
        self.server = server
        server.on("/keyed", self.keyed)
        server.on("/flaky", self.flaky)
        server.on("/once", self.once)
        server.on("/slow", self.slow)
        server.on("/broken", self.broken)
        server.on("/sulky", self.sulky)
        server.on("/later", self.later)
        server.on("/v1/chat/completions", self.model)

    def keyed(self, exchange: Exchange) -> None:
        """Honours keys.  Now and then the effect happens and no answer comes."""
        key, call = self._begin(exchange)
        take_time(key, call)
        self.ledger.effect(key, once=True)
        if call == 1 and chance("drop", key) < 0.03:
            self._drop(exchange, key)
        else:
            self._done(exchange, key, call)

    def slow(self, exchange: Exchange) -> None:
        """As `keyed`, and always in somebody's hands."""
        key, call = self._begin(exchange)
        take_time(key, call, long=1.0)
        self.ledger.effect(key, once=True)
        self._done(exchange, key, call)

    def flaky(self, exchange: Exchange) -> None:
        """One or two failures of a kind, then as it should be."""
        key, call = self._begin(exchange)
        kind = int(chance("kind", key) * 5)
        if call > 1 + int(chance("times", key) * 2):
            kind = -1
        if kind >= 0:
            self._fail(exchange, key, kind)
            return
        self.ledger.effect(key, once=True)
        self._done(exchange, key, call)

    def _fail(self, exchange: Exchange, key: str, kind: int) -> None:
        match kind:
            case 0:
                exchange.reply(b"busy", 503)
            case 1:
                self._drop(exchange, key)
                return
            case 2:
                exchange.reply(b"slow down", 429, Retry_After="1")
            case 3:
                exchange.reply(b"\x00 garbage }{", content_type="application/json")
            case _:
                exchange.reply(b"oh", 500)
        self.ledger.answered(key, ("503", "", "429", "garbage", "500")[kind])

    def once(self, exchange: Exchange) -> None:
        """Knows no keys: every call is an effect.  One in three answers is lost."""
        key, call = self._begin(exchange)
        take_time(key, call, long=0.3)
        self.ledger.effect(key, once=False)
        if chance("drop", key, call) < 0.33:
            self._drop(exchange, key)
        else:
            self._done(exchange, key, call)

    def broken(self, exchange: Exchange) -> None:
        key, _ = self._begin(exchange)
        exchange.reply(b"no such thing", 422)
        self.ledger.answered(key, "422")

    def sulky(self, exchange: Exchange) -> None:
        """Wants to be asked twice; a retry does not help, for it says that it never will."""
        key, call = self._begin(exchange)
        if call == 1:
            exchange.reply(b"not now", 422)
            self.ledger.answered(key, "422")
            return
        self.ledger.effect(key, once=True)
        self._done(exchange, key, call)

    def later(self, exchange: Exchange) -> None:
        """Accepts, works, and brings the result to the address it was given; now and then twice."""
        key, call = self._begin(exchange)
        address = exchange.headers["callback-url"]
        exchange.reply(b"", 202)
        self.ledger.answered(key, "202")
        threading.Thread(target=self._bring, args=(key, call, address), daemon=True).start()

    def _bring(self, key: str, call: int, address: str) -> None:
        take_time(key, call, long=0.3)
        self.ledger.effect(key, once=True)
        for _ in range(2 if chance("twice", key) < 0.3 else 1):
            self.ledger.answered(key, f"callback {post_until_answered(address, {'output': {'done': True}})}")

    def model(self, exchange: Exchange) -> None:
        """A language model that uses the tools that its prompt names, one in each of its answers."""
        key, call = self._begin(exchange)
        if call == 1 and chance("model", key) < 0.15:
            self._fail(exchange, key, int(chance("model", key) * 100) % 2)
            return
        messages = json.loads(exchange.body)["messages"]
        turn = sum(message["role"] == "assistant" for message in messages)
        wanted = next((w.split() for m in messages if (w := _after(str(m["content"]), "Use: "))), [])
        exchange.json(wants((wanted[turn], {"turn": turn})) if turn < len(wanted) else completion("Well."))
        self.ledger.answered(key, "said")

    def _begin(self, exchange: Exchange) -> tuple[str, int]:
        key = exchange.headers.get("idempotency-key", "")
        self.server.seen.clear()  # hours of calls are not kept
        return key, self.ledger.called(key)

    def _done(self, exchange: Exchange, key: str, call: int) -> None:
        exchange.json(
            {"done": True, "call": call, "amount": int(chance("amount", key.split(":")[1:2]) * 100)}
        )
        self.ledger.answered(key, "ok")

    def _drop(self, exchange: Exchange, key: str) -> None:
        exchange.drop()
        self.ledger.answered(key, "dropped")


def _after(text: str, mark: str) -> str:
    return text.partition(mark)[2]


@contextmanager
def agents(ledger_path: Path) -> Iterator[Agents]:
    with http_server() as server:
        yield Agents(Ledger(ledger_path), server)
