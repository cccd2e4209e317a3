"""`make bench-incidents`: 10,000 failures of one kind, from the first failed row to what people see.

1. Executions of one block that fails, as many as asked for, started while workers and clock are at work:
   how long after the first failed row the incident can be seen, until all are counted.
2. The incident's list, page and REST answers with that many blocks: time and queries, in this process.
3. Classification by ten rules, fingerprint and decision by a written ladder, in this process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .measuring import percentile
from .processes import machine, stage
from .report import ms, row, where
from .service import Agentflow

OPENS_MS, DECIDES_MS, SHOWN_MS = 300, 1.0, 500  # the aims
LOOK_S = 0.002
COUNTED_S = 600.0
SHOWN_TIMES = 9
DECIDED_TIMES = 2_000
RULES = 10

BODY = {
    "name": "failing",
    "blocks": [
        {
            "blockId": "half",
            "input": {"half": "${10 / input.n}"},
            "retryPolicy": {"maxRetries": 0},
        }
    ],
}


@dataclass(slots=True)
class Incidents:
    failures: int

    def measure(self, folder: Path, block_log: Path) -> dict[str, Any]:
        results: dict[str, Any] = {"machine": machine(), "failures": self.failures}
        with stage(folder, block_log) as (_, fleet):
            ours = Agentflow()
            version = ours.store("failing", BODY)
            fleet.ours()
            fleet.ready()
            results["opening"] = self._open(ours, version)
            print(f"opened: {results['opening']}", file=sys.stderr, flush=True)
            results["shown"] = shown(ours)
            results["decided_us"] = decided_us()
        results["machine"]["load_after"] = machine()["load"]
        return {**results, "problems": missed(results)}

    def _open(self, ours: Agentflow, version: Any) -> dict[str, float]:
        from executions.services import starting

        watcher = Watcher()
        watcher.start()
        began = time.monotonic()
        for _ in range(self.failures):
            starting.start(version=version, by=ours.user, input={"n": 0})
        started_s = time.monotonic() - began
        return {"started_s": started_s, **_lags(watcher.seen(), self.failures)}


class Watcher(threading.Thread):
    """Looks for the first incident, with a connection of its own, by the database's clock."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen: Any = None

    def run(self) -> None:
        from django.db import connection

        until = time.monotonic() + COUNTED_S
        with connection.cursor() as cursor:
            while self._seen is None and time.monotonic() < until:
                cursor.execute("SELECT clock_timestamp() WHERE EXISTS (SELECT 1 FROM executions_incident)")
                found = cursor.fetchone()
                self._seen = found[0] if found else None
                time.sleep(LOOK_S)
        connection.close()

    def seen(self) -> Any:
        self.join(COUNTED_S)
        if self._seen is None:
            raise TimeoutError(f"no incident within {COUNTED_S:.0f} s")
        return self._seen


def _lags(seen: Any, failures: int) -> dict[str, float]:
    from django.db.models import Max, Min

    from executions.incidents.models import Incident, IncidentBlock

    until = time.monotonic() + COUNTED_S
    while (incident := Incident.objects.get()).count < failures:
        if time.monotonic() > until:
            raise TimeoutError(f"{incident.count} of {failures} counted within {COUNTED_S:.0f} s")
        time.sleep(LOOK_S)
    failed = IncidentBlock.objects.aggregate(first=Min("first_at"), last=Max("last_at"))
    return {
        "opens_ms": (seen - failed["first"]).total_seconds() * 1000,
        "failed_s": (failed["last"] - failed["first"]).total_seconds(),
        "incidents": Incident.objects.count(),
    }


# -- how long people wait ----------------------------------------------------------


def shown(ours: Agentflow) -> dict[str, dict[str, float]]:
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from executions.incidents.models import Incident

    type(ours.user).objects.filter(pk=ours.user.pk).update(is_staff=True)
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(ours.user)
    pk = Incident.objects.get().pk
    found = {}
    for name, path in {
        "list": "/admin/executions/incident/",
        "page": f"/admin/executions/incident/{pk}/change/",
        "GET /incidents": "/api/v1/incidents",
        "GET /incidents/{id}": f"/api/v1/incidents/{pk}",
        "GET /incidents/{id}/blocks": f"/api/v1/incidents/{pk}/blocks",
    }.items():

        def look(path: str = path) -> None:
            reply = client.get(path)
            assert reply.status_code == 200, (path, reply.status_code)

        look()
        with CaptureQueriesContext(connection) as captured:
            look()
        queries = len(captured)  # before the next request empties the record
        took = [_seconds(look) * 1000 for _ in range(SHOWN_TIMES)]
        found[name] = {"p50_ms": percentile(took, 50), "most_ms": max(took), "queries": queries}
    return found


def _seconds(do: Callable[[], None]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def decided_us() -> dict[str, float]:
    """Classification, fingerprint and decision of one failure, each by itself."""
    from agentflow.workflow.definition import Recovery, RetryPolicy
    from agentflow.workflow.failures import Failure, FailureKind
    from executions.incidents.fingerprint import fingerprint
    from executions.recovery.decision import Candidates, History, Policy, decide
    from executions.recovery.rules import Rule, classify

    failure = Failure(FailureKind.TRANSIENT, "http_503", "Order 4711 of 10.0.0.2:80 is not there.")
    rules = [Rule(f"rule {n}", f"failure.code == 'code_{n}'", "agent") for n in range(RULES)]
    recovery = Recovery.model_validate({"transient": ["retry", "reassign", "ask"]})
    policy = Policy(retry=RetryPolicy(max_retries=2), recovery=recovery)
    history, candidates = History(effect="pure"), Candidates(agents=("b",), reassigned=True)
    parts: dict[str, Callable[[], object]] = {
        "classify": lambda: classify(failure, rules, block="a", template="t", agent="x"),
        "decide": lambda: decide(failure, policy, history, candidates),
        "fingerprint": lambda: fingerprint("t", "a", failure.code, failure.message),
    }
    found = {}
    for name, do in parts.items():
        do()
        began = time.thread_time()
        for _ in range(DECIDED_TIMES):
            do()
        found[name] = (time.thread_time() - began) / DECIDED_TIMES * 1e6
    return found


# -- what is said of it ------------------------------------------------------------


def missed(results: dict[str, Any]) -> list[str]:
    opening, found = results["opening"], []
    if opening["opens_ms"] > OPENS_MS:
        found.append(f"the incident opened after {opening['opens_ms']:.0f} ms, not {OPENS_MS}")
    if opening["incidents"] != 1:
        found.append(f"{opening['incidents']} incidents instead of one")
    if sum(results["decided_us"].values()) > DECIDES_MS * 1000:
        found.append(f"classification and decision take more than {DECIDES_MS:.0f} ms")
    for name, took in results["shown"].items():
        if took["p50_ms"] > SHOWN_MS:
            found.append(f"{name} takes {took['p50_ms']:.0f} ms")
    return found


def table(results: dict[str, Any]) -> str:
    opening = results["opening"]
    opened = f"{opening['incidents']} incident, seen {opening['opens_ms']:.0f} ms after the first failed row"
    lines = [
        where(results["machine"]),
        "",
        f"{results['failures']:,} failures of one kind in {opening['failed_s']:.1f} s: {opened}",
        "",
        row("shown", "p50", "most", "queries"),
        row("---", "---", "---", "---"),
    ]
    for name, took in results["shown"].items():
        lines.append(row(name, ms(took["p50_ms"]), ms(took["most_ms"]), str(took["queries"])))
    said = ", ".join(f"{name} {took:.0f} µs" for name, took in results["decided_us"].items())
    lines += ["", f"of a failure, by {RULES} rules: {said}", ""]
    return "\n".join([*lines, *(f"MISSED: {problem}" for problem in results["problems"])])
