"""`make load-approvals`: what the inbox costs with 100,000 open questions and thousands who watch.

1. Open questions, 1,000 for each person unless told otherwise, copied from one that the engine asked.
2. Each person's list, as page and over REST: how long it takes, and how many queries.
3. Sockets of `/ws/approvals` while people decide, in processes of their own: from commit to client; in the
   middle the channel layer is emptied, and every client has to have what the database has within 35 s.

All on this machine, on engines of its own; nothing is asked of any other host.
"""

from __future__ import annotations

import http.client
import json
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.engines import launched

from .crowd import Person, crowd, open_questions
from .measuring import percentile
from .processes import ROOT, cpu_s, family, machine, memory_mb, stage
from .report import ms, row, where

LISTS_EACH = 5  # times that each of SAMPLE people looks
SAMPLE = 40
LIST_MS, QUERIES, COMMIT_S, SETTLED_S = 200, 8, 1.0, 35.0  # the aims
LATEST_S = SETTLED_S + 25  # waited for at most
DECIDERS = 4  # processes


@dataclass(slots=True)
class Load:
    pending: int
    each: int  # of one person
    sockets: int
    rate: float
    seconds: float

    def measure(self, folder: Path, block_log: Path) -> dict[str, Any]:
        allow_files(self.sockets)
        results: dict[str, Any] = {"machine": machine(), "each": self.each, "problems": []}
        with stage(folder, block_log) as (engines, fleet):
            port = fleet.web()
            fleet.worker(0)
            fleet.ready()
            began = time.monotonic()
            people = crowd(max(self.pending // self.each, 1), self.each)
            fleet.stop("ours")
            results["pending"], results["seed_s"] = open_questions(), time.monotonic() - began
            _say(f"{results['pending']} open questions of {len(people)} people in {results['seed_s']:.0f} s")
            results["lists"] = lists(port, people[:SAMPLE])
            results["queries"] = queries(people[0])
            _say("lists looked at")
            if self.sockets:
                watchers = Watchers(folder, port, people, self.sockets)
                deciders = Deciders(self._turns(people))
                parts = {
                    "web": fleet.pids("web"),
                    "clients": [watchers.pid],
                    "deciders": deciders.pids,
                    "PostgreSQL": family(engines.pid("postgres")),
                    "Valkey": family(engines.pid("valkey")),
                }
                results["sockets"] = self._watch(watchers, deciders, parts)
                results["sockets"]["web_mb"] = memory_mb(fleet.pids("web"))["pss"]
        results["machine"]["load_after"] = machine()["load"]
        results["problems"] = missed(results)
        return results

    def _watch(self, watchers: Watchers, deciders: Deciders, parts: dict[str, list[int]]) -> dict[str, Any]:
        connect_s = watchers.connect()
        _say(f"{self.sockets} sockets open after {connect_s:.0f} s")
        began, before = time.monotonic(), {part: cpu_s(pids) for part, pids in parts.items()}
        committed, emptied_at = deciders.decide()
        decided_s = time.monotonic() - began
        used = {part: cpu_s(pids) - before[part] for part, pids in parts.items()}
        _say(f"{len(committed)} decisions in {decided_s:.0f} s")
        waited_s = watchers.settle({pk: who for pk, (who, _) in committed.items()})
        found = watchers.found()
        delays: list[float] = []
        settled: list[float] = []
        lost = 0
        for person, seen in zip(watchers.places, found, strict=True):
            for pk, (who, moment) in committed.items():
                if who != person:
                    continue
                got = seen["heard"].get(pk)
                if got is None:
                    lost += 1
                elif moment < emptied_at - COMMIT_S:
                    delays.append(got - moment)
                else:
                    settled.append(got - max(moment, emptied_at))
        return {
            "sockets": self.sockets,
            "connect_s": connect_s,
            "events": len(committed),
            "wanted": int(self.rate * self.seconds),
            "rate": len(committed) / decided_s,
            "cpu": {part: seconds / decided_s for part, seconds in used.items()},
            "cpu_each_ms": used["deciders"] / max(len(committed), 1) * 1000,
            "messages": len(delays) + len(settled),
            "commit_to_client_s": delays,
            "after_emptying_s": settled,
            "lost": lost,
            "wrong": sum(seen["wrong"] for seen in found),
            "came_back": sum(seen["came_back"] for seen in found),
            "waited_s": waited_s,
        }

    def _turns(self, people: list[Person]) -> list[dict[str, Any]]:
        """Which question is decided by whom in which second, at the wanted rate; people take turns."""
        from approvals.models import Approval

        total = int(self.rate * self.seconds)
        each = -(-total // len(people))
        stock = {
            person.pk: iter(
                Approval.objects.filter(workspace=person.workspace, status="pending")
                .order_by("rank")
                .values_list("pk", flat=True)[:each]
            )
            for person in people
        }
        turns = ((number, people[number % len(people)].pk) for number in range(total))
        return [
            {"id": str(next(stock[person])), "person": person, "at": number / self.rate}
            for number, person in turns
        ]


class Deciders:
    """Processes that answer questions, each every so manieth."""

    def __init__(self, turns: list[dict[str, Any]]) -> None:
        self._people = {turn["id"]: turn["person"] for turn in turns}
        self._last_s = turns[-1]["at"]
        self._helpers = [Helper("bench.deciding") for _ in range(DECIDERS)]
        for number, helper in enumerate(self._helpers):
            helper.tell(turns[number::DECIDERS])
        for helper in self._helpers:
            helper.hear("ready")

    @property
    def pids(self) -> list[int]:
        return [helper.pid for helper in self._helpers]

    def decide(self) -> tuple[dict[str, tuple[int, float]], float]:
        """Gives each question's person and moment, and when the channel layer was emptied, in the middle."""
        began = time.time()
        for helper in self._helpers:
            helper.tell({"began": began})
        time.sleep(max(0.0, began + self._last_s / 2 - time.time()))
        _empty_channel_layer()
        emptied_at = time.time()
        found = [json.loads(helper.listen()) for helper in self._helpers]
        committed = {pk: (self._people[pk], at) for each in found for pk, at in each.items()}
        return committed, emptied_at


def _empty_channel_layer() -> None:
    import redis
    from django.conf import settings

    hosts: Any = settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"]  # type: ignore[index]
    with redis.Redis.from_url(hosts[0]["address"]) as layer:
        layer.flushdb()


def allow_files(sockets: int) -> None:
    """Each socket is an open file at both ends; the children inherit what is allowed here."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sockets + 500
    if most != resource.RLIM_INFINITY and most < needed:
        raise SystemExit(f"{sockets} sockets need {needed} open files; ulimit -Hn allows {most}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- lists -------------------------------------------------------------------------

PLACES = {
    "page": "/inbox/rows",
    "search": "/inbox/rows?q=back+77",
    "REST": "/api/v1/approvals/pending?limit=50",
}


def lists(port: int, people: list[Person]) -> dict[str, list[float]]:
    """Seconds of each look, by way; one client, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(LISTS_EACH + 1):
        for person in people:
            for name, path in PLACES.items():
                began = time.perf_counter()
                connection.request("GET", path, headers={"Cookie": f"sessionid={person.session}"})
                reply = connection.getresponse()
                body = reply.read()
                took = time.perf_counter() - began
                if reply.status != 200:
                    raise RuntimeError(f"{path} answered {reply.status}: {body[:200]!r}")
                if turn:  # the first warms up
                    found[name].append(took)
    connection.close()
    return found


def queries(person: Person) -> dict[str, int]:
    """How many queries each way takes, counted in this process."""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client, found = Client(), {}
    client.cookies["sessionid"] = person.session
    for name, path in PLACES.items():
        client.get(path, headers={"host": "127.0.0.1"})
        with CaptureQueriesContext(connection) as captured:
            assert client.get(path, headers={"host": "127.0.0.1"}).status_code == 200
        found[name] = len(captured)
    return found


# -- sockets -----------------------------------------------------------------------


class Helper:
    """A process of this benchmark, told what to do line by line."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            launched([sys.executable, "-m", module, *arguments], death_signal=signal.SIGKILL),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def listen(self) -> str:
        assert self._process.stdout is not None
        return str(self._process.stdout.readline()).strip()

    def hear(self, word: str) -> None:
        if (line := self.listen()) != word:
            raise RuntimeError(f"{self._module} said {line!r} instead of {word!r}")

    def ended(self) -> None:
        self._process.wait(30)


class Watchers(Helper):
    """The sockets' other ends, in a process of their own; person by person, round and round."""

    def __init__(self, folder: Path, port: int, people: list[Person], count: int) -> None:
        self.places = [people[at % len(people)].pk for at in range(count)]
        self.out = folder / "heard.jsonl"
        super().__init__("bench.watching", str(port), str(self.out))

    def connect(self) -> float:
        began = time.monotonic()
        self.tell(self.places)
        self.hear("connected")
        return time.monotonic() - began

    def settle(self, wanted: dict[str, int]) -> float:
        """Wait until each socket has heard of its person's questions, LATEST_S at most; gives the seconds."""
        began = time.monotonic()
        self.tell({"wanted": wanted, "latest_s": LATEST_S})
        self.hear("done")
        return time.monotonic() - began

    def found(self) -> list[dict[str, Any]]:
        """By socket, as `bench.watching` says it."""
        self.ended()
        return [json.loads(line) for line in self.out.read_text().splitlines()]


# -- words -------------------------------------------------------------------------


def missed(results: dict[str, Any]) -> list[str]:
    found = []
    for name, took in results["lists"].items():
        if percentile(took, 99) * 1000 > LIST_MS:
            found.append(f"list, {name}: p99 {percentile(took, 99) * 1000:.0f} ms, aim {LIST_MS} ms")
    found += [
        f"list, {name}: {count} queries, aim {QUERIES}"
        for name, count in results["queries"].items()
        if count > QUERIES
    ]
    if watched := results.get("sockets"):
        slow = percentile(watched["commit_to_client_s"], 99)
        if slow > COMMIT_S:
            found.append(f"commit to client: p99 {slow:.2f} s, aim {COMMIT_S} s")
        if watched["wrong"]:
            found.append(f"{watched['wrong']} messages came twice or out of order")
        if watched["events"] < watched["wanted"]:
            found.append(f"{watched['wanted'] - watched['events']} decisions failed")
        if watched["lost"] or max(watched["after_emptying_s"], default=0) > SETTLED_S:
            latest = max(watched["after_emptying_s"], default=0)
            found.append(f"after emptying: {watched['lost']} never heard, the latest after {latest:.1f} s")
    return found


def table(results: dict[str, Any]) -> str:
    lines = [
        where(results["machine"]),
        "",
        f"{results['pending']:,} open questions, {results['each']} a person",
    ]
    lines += ["", row("list", "p50", "p99", "queries"), row("---", "---", "---", "---")]
    for name, took in results["lists"].items():
        shown = [ms(percentile(took, percent) * 1000) for percent in (50, 99)]
        lines.append(row(name, *shown, str(results["queries"][name])))
    if watched := results.get("sockets"):
        half, most = (percentile(watched["commit_to_client_s"], at) * 1000 for at in (50, 99))
        sent = (
            f"{watched['messages']:,} messages to clients, {watched['lost']} lost, {watched['wrong']} wrong"
        )
        latest = max(watched["after_emptying_s"], default=0)
        busy = ", ".join(f"{part} {100 * share:.0f} %" for part, share in watched["cpu"].items())
        lines += ["", f"{watched['sockets']:,} sockets, {watched['rate']:.1f} decisions a second, {sent}"]
        lines += [f"commit to client: p50 {half:.0f} ms, p99 {most:.0f} ms"]
        lines += [f"channel layer emptied: every client equals the database within {latest:.1f} s"]
        lines += [f"sockets opened in {watched['connect_s']:.0f} s; {watched['came_back']} came back"]
        lines += [f"of one processor: {busy}; web {watched['web_mb']:.0f} MB"]
        lines += [f"a decision takes {watched['cpu_each_ms']:.1f} ms of the processor of who decides"]
    lines += ["", *(f"MISSED: {problem}" for problem in results["problems"])]
    return "\n".join(lines)
