"""Clients and approvers of the rig: REST only, patient with servers that die under them."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.factories.governance import PASSWORD

from .assisted import SLEEPS
from .blocks import Case

TERMINAL = ("completed", "failed", "cancelled")
PATIENCE_S = 120.0


class GaveUp(Exception):
    """No server answered for long."""


class Refused(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


class Person:
    """One user.  Every command carries an idempotency key, so that it can be sent until it is answered."""

    def __init__(self, username: str, bases: list[str]) -> None:
        self.username = username
        self.bases = bases
        self._tokens: dict[int, tuple[str, float]] = {}
        self.unanswered: Counter[str] = Counter()

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self._ask("PATCH", path, body)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        key = str(uuid.uuid4())
        until = time.monotonic() + PATIENCE_S
        turn = random.randrange(len(self.bases))
        while time.monotonic() < until:
            turn = (turn + 1) % len(self.bases)
            try:
                return self._once(method, self.bases[turn], path, body, key)
            except Refused as refused:
                busy = refused.status == 409 and refused.body.get("code") == "idempotency_in_progress"
                if refused.status < 500 and refused.status != 429 and not busy:
                    raise
                self.unanswered[str(refused.status)] += 1
            except (OSError, HTTPException, ValueError) as error:
                self.unanswered[type(error).__name__] += 1
            time.sleep(0.3)
        raise GaveUp(f"{method} {path}: {dict(self.unanswered)}")

    def _once(self, method: str, base: str, path: str, body: Any, key: str) -> Any:
        headers = {"Authorization": f"Bearer {self._token(base)}"}
        if method == "POST":
            headers["Idempotency-Key"] = key
        try:
            return _send(method, base + "/api/v1" + path, body, headers)
        except Refused as refused:
            if refused.status != 401:
                raise
            self._tokens.clear()
            return _send(
                method,
                base + "/api/v1" + path,
                body,
                {**headers, "Authorization": f"Bearer {self._token(base)}"},
            )

    def _token(self, base: str) -> str:
        me = threading.get_ident()
        token, until = self._tokens.get(me, ("", 0.0))
        if time.monotonic() > until:
            signed_in = {"username": self.username, "password": PASSWORD}
            token = _send("POST", base + "/api/v1/auth/token", signed_in, {})["access"]
            self._tokens[me] = token, time.monotonic() + 240
        return token


def _send(method: str, url: str, body: Any, headers: dict[str, str]) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=15) as reply:
            return json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as refused:
        with refused:
            text = refused.read()
        try:
            found = json.loads(text)
        except ValueError:
            found = {"text": text[:200].decode(errors="replace")}
        raise Refused(refused.code, found if isinstance(found, dict) else {}) from None


class History:
    """What clients were told, in the order they were told it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a")
        self.started: dict[str, str] = {}  # execution -> case
        self.problems: list[str] = []

    def accepted(self, execution_id: str, case: str) -> None:
        with self._lock:
            self.started[execution_id] = case
            self._file.write(json.dumps({"at": time.time(), "accepted": execution_id, "case": case}) + "\n")
            self._file.flush()

    def problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)
            self._file.write(json.dumps({"at": time.time(), "problem": text}) + "\n")
            self._file.flush()


class Scripts:
    """What clients do to runs of their own."""

    def __init__(self, person: Person, stop: threading.Event, agents: dict[str, str]) -> None:
        """`agents` are the ids of the registered ones."""
        self.person = person
        self.stop = stop
        self.agents = agents

    def tell(self, run: str, number: int) -> None:
        body = {
            "type": "chaos.told",
            "correlation": str(number),
            "payload": {"n": number},
            "eventId": f"told-{run}",
        }
        self.person.post("/events", body)

    def pause(self, run: str, number: int) -> None:
        self._try(run, "pause")
        self.stop.wait(1.0)
        if number % 3 == 0:
            self._try(run, "cancel")
        else:
            self._try(run, "resume")

    def restart(self, run: str, number: int) -> None:
        self._try(run, "cancel")
        if self._until(run, lambda status: status in TERMINAL):
            self._try(run, "restart", {"resetState": number % 2 == 0})

    def undo(self, run: str, number: int) -> None:
        """Stop it somewhere on its way, or at its end, and have it undone."""
        self.stop.wait(number % 4)
        self._try(run, "cancel", {"compensate": True})

    def go_back(self, run: str, number: int) -> None:
        if not self._until(run, lambda status: status in TERMINAL):
            return
        points = self.person.get(f"/executions/{run}/recovery-points")["recoveryPoints"]
        if points:
            point = points[number % len(points)]["recoveryPointId"]
            self._try(run, f"recovery-points/{point}/restore")

    def repair(self, run: str, number: int) -> None:
        """What hangs is settled by hand."""
        because = {"reason": "chaos"}
        self._until(run, lambda status: status != "pending")
        self.stop.wait(1.0)
        self._try(run, "blocks/nap/skip", because)
        if number % 2:
            self._try(run, "blocks/stuck/complete", {"output": {"by": "hand"}, **because})
        else:
            self._try(run, "blocks/stuck/skip", because)
        self._try(run, "blocks/bad/complete", {"output": {"by": "hand"}, **because})

    def switch_off(self, run: str, number: int) -> None:
        """Its agent is not there when the block wants it, and comes back."""
        path = f"/agents/{self.agents[SLEEPS]}"
        self.person.patch(path, {"enabled": False})
        self.stop.wait(3.0)
        self.person.patch(path, {"enabled": True})

    def _try(self, run: str, command: str, body: Any = None) -> None:
        """A refusal is an answer: the run may have gone on meanwhile."""
        try:
            self.person.post(f"/executions/{run}/{command}", body or {})
        except Refused as refused:
            if refused.status not in (400, 409):
                raise

    def _until(self, run: str, wanted: Callable[[str], bool], timeout_s: float = 90.0) -> bool:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if wanted(self.person.get(f"/executions/{run}?fields=status")["status"]):
                return True
            self.stop.wait(0.5)
        return False


class Clients:
    """Start `count` executions at an even pace, several at once."""

    def __init__(
        self,
        person: Person,
        history: History,
        schedule: list[tuple[float, Case, str]],
        agents: dict[str, str],
    ) -> None:
        self.person = person
        self.history = history
        self.stop = threading.Event()
        self.scripts = Scripts(person, self.stop, agents)
        self._alone = threading.Lock()
        self._next = iter(enumerate(schedule))
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"client {n}") for n in range(8)
        ]

    def start(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def end(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.1))
        self.stop.set()

    def _work(self) -> None:
        while not self.stop.is_set():
            with self._lock:
                found = next(self._next, None)
            if found is None:
                return
            number, (at, case, template_id) = found
            self.stop.wait(max(0.0, self._began + at - time.monotonic()))
            try:
                with self._alone if case.alone else nullcontext():
                    self._run(number, case, template_id)
            except Exception as error:  # noqa: BLE001  # the verdict is told all of them
                self.history.problem(f"client of {case.name}: {error!r}")

    def _run(self, number: int, case: Case, template_id: str) -> None:
        body = {"templateId": template_id, "input": {"number": number, **case.input}}
        run = str(self.person.post("/executions", body)["executionId"])
        self.history.accepted(run, case.name)
        if case.script:
            getattr(self.scripts, case.script)(run, number)
