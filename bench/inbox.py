"""`make load-approvals`: what the inbox costs with 100,000 open questions and thousands who watch.

1. Open questions, 1,000 for each person, copied from one that the engine asked.
2. Each person's list, as page and over REST: how long it takes, and how many queries.
3. Sockets of `/ws/approvals` while people decide: from commit to client; in the middle the channel
   layer is emptied, and every client has to have what the database has within 35 s.

All on this machine, on engines of its own; nothing is asked of any other host.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from .measuring import percentile
from .processes import ROOT, Fleet, machine, stage
from .report import ms, row, where

PER_PERSON = 1000
LISTS_EACH = 5  # times that each of SAMPLE people looks
SAMPLE = 40
LIST_MS, QUERIES, COMMIT_S, SETTLED_S = 200, 8, 1.0, 35.0  # the aims
LATEST_S = SETTLED_S + 25  # waited for at most
DECIDERS = 4


@dataclass(frozen=True, slots=True)
class Person:
    pk: int
    workspace: UUID
    session: str


@dataclass(slots=True)
class Load:
    pending: int
    sockets: int
    rate: float
    seconds: float

    def measure(self, folder: Path, block_log: Path) -> dict[str, Any]:
        results: dict[str, Any] = {"machine": machine(), "problems": []}
        with stage(folder, block_log) as (_, fleet):
            port = fleet.web()
            fleet.worker(0)
            fleet.ready()
            began = time.monotonic()
            people = crowd(max(self.pending // PER_PERSON, 1))
            fleet.stop("ours")
            results["pending"], results["seed_s"] = _open_questions(), time.monotonic() - began
            _say(f"{results['pending']} open questions of {len(people)} people in {results['seed_s']:.0f} s")
            results["lists"] = lists(port, people[:SAMPLE])
            results["queries"] = queries(people[0])
            if self.sockets:
                results["sockets"] = self._watch(fleet, folder, port, people)
        results["machine"]["load_after"] = machine()["load"]
        results["problems"] = missed(results)
        return results

    def _watch(self, fleet: Fleet, folder: Path, port: int, people: list[Person]) -> dict[str, Any]:
        watchers = Watchers(folder, port, people, self.sockets)
        connect_s = watchers.connect()
        _say(f"{self.sockets} sockets open after {connect_s:.0f} s")
        committed, emptied_at = self._decide(people)
        waited_s = watchers.settle({str(pk): who for pk, (who, _) in committed.items()})
        heard = watchers.heard()
        delays: list[float] = []
        settled: list[float] = []
        lost = 0
        for at, person in enumerate(watchers.places):
            for pk, (who, moment) in committed.items():
                if who != person:
                    continue
                got = heard[at].get(str(pk))
                if got is None:
                    lost += 1
                elif moment < emptied_at - COMMIT_S:
                    delays.append(got - moment)
                else:
                    settled.append(got - moment)
        return {
            "sockets": self.sockets,
            "connect_s": connect_s,
            "events": len(committed),
            "rate": len(committed) / self.seconds,
            "messages": len(delays) + len(settled),
            "commit_to_client_s": delays,
            "after_emptying_s": settled,
            "lost": lost,
            "waited_s": waited_s,
        }

    def _decide(self, people: list[Person]) -> tuple[dict[UUID, tuple[int, float]], float]:
        """Decisions at the wanted rate.

        Gives each question's person and moment, and when the channel layer was emptied.
        """
        from approvals.models import Approval

        total = int(self.rate * self.seconds)
        turns = [people[at % len(people)] for at in range(total)]
        each = -(-total // len(people))
        stock = {
            person.pk: iter(
                Approval.objects.filter(workspace=person.workspace, status="pending")
                .order_by("rank")
                .values_list("pk", flat=True)[:each]
            )
            for person in people
        }
        committed: dict[UUID, tuple[int, float]] = {}
        began, emptied_at = time.time(), float("inf")
        with ThreadPoolExecutor(DECIDERS) as pool:
            for number, person in enumerate(turns):
                time.sleep(max(0.0, began + number / self.rate - time.time()))
                if number == total // 2:
                    _empty_channel_layer()
                    emptied_at = time.time()
                pool.submit(_decide_one, next(stock[person.pk]), person.pk, committed)
        return committed, emptied_at


def _decide_one(pk: UUID, user: int, committed: dict[UUID, tuple[int, float]]) -> None:
    from agentflow.governance.models import User
    from approvals.services.responding import respond

    respond(approval_id=pk, by=User.objects.get(pk=user), approved=True)
    committed[pk] = (user, time.time())


def _empty_channel_layer() -> None:
    import redis
    from django.conf import settings

    hosts: Any = settings.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"]  # type: ignore[index]
    with redis.Redis.from_url(hosts[0]["address"]) as layer:
        layer.flushdb()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- the crowd ---------------------------------------------------------------------


def crowd(count: int) -> list[Person]:
    """People with a workspace and PER_PERSON open questions each."""
    from django.contrib.sessions.backends.db import SessionStore
    from django.test import Client

    from agentflow.governance.models import User
    from agentflow.governance.roles import Role
    from agentflow.governance.services.workspaces import create_workspace, grant

    root = User.objects.create_user("bench", is_superuser=True)
    people = []
    for number in range(count):
        user = User.objects.create_user(f"approver-{number}")
        workspace = create_workspace(slug=f"w{number}", name=f"Workspace {number}", by=root)
        grant(user=user, role=Role.APPROVER, workspace=workspace, by=root)
        client = Client()
        client.force_login(user)
        session = client.session
        assert isinstance(session, SessionStore)
        people.append(Person(user.pk, workspace.pk, str(session.session_key)))
        _ask(workspace, root)
    _analyse()
    return people


def _ask(workspace: Any, by: Any) -> None:
    """One question asked by the engine, and copies of its rows."""
    from agentflow.workflow.definition import parse
    from approvals.models import Approval
    from executions.services import starting
    from templates_app.services import authoring

    body = {
        "name": "Refund request",
        "blocks": [
            {"blockId": "look", "name": "Look up", "agentId": "builtin.echo"},
            {
                "blockId": "ask",
                "name": "Approve refund",
                "agentId": "builtin.echo",
                "dependencies": ["look"],
                "humanInLoop": {"type": "approval", "title": "Pay back?"},
            },
            {"blockId": "pay", "name": "Pay", "agentId": "builtin.echo", "dependencies": ["ask"]},
        ],
    }
    version = authoring.create_template(workspace_id=workspace.pk, by=by, definition=parse(body))
    execution = starting.start(version=version, by=by, input={})
    until = time.monotonic() + 60
    while not (asked := Approval.objects.filter(execution=execution.pk).first()):
        if time.monotonic() > until:
            raise RuntimeError("the engine did not ask")
        time.sleep(0.05)
    _copy(asked.pk, execution.pk, PER_PERSON - 1)


def _copy(approval: UUID, execution: UUID, count: int) -> None:
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        runs = "executions_execution"
        cursor.execute(
            "CREATE TEMP TABLE copies ON COMMIT DROP AS SELECT n, gen_random_uuid() AS run"
            " FROM generate_series(1, %s) n",
            [count],
        )
        cursor.execute(
            f"INSERT INTO {runs} (id, {_columns(runs)}) SELECT c.run, {_columns(runs, 'e.')}"
            f" FROM {runs} e, copies c WHERE e.id = %s",
            [execution],
        )
        blocks = "executions_blockexecution"
        others = _columns(blocks, but=("execution_id",))
        cursor.execute(
            f"INSERT INTO {blocks} (execution_id, {others})"
            f" SELECT c.run, {_columns(blocks, 'b.', but=('execution_id',))} FROM {blocks} b, copies c"
            " WHERE b.execution_id = %s",
            [execution],
        )
        asked, own = "approvals_approval", ("execution_id", "block_execution_id", "respond_by", "request")
        cursor.execute(
            f"INSERT INTO {asked} (id, {', '.join(own)}, {_columns(asked, but=own)})"
            " SELECT gen_random_uuid(), c.run, b.id, a.respond_by + c.n * interval '1 minute',"
            " json_build_object('title', 'Pay back ' || c.n || '?'),"
            f" {_columns(asked, 'a.', but=own)} FROM {asked} a, copies c"
            f" JOIN {blocks} b ON b.execution_id = c.run AND b.block_id = 'ask' WHERE a.id = %s",
            [approval],
        )


def _columns(table: str, alias: str = "", but: Iterable[str] = ()) -> str:
    """A table's columns that are neither its key nor computed."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = %s AND is_generated = 'NEVER' AND column_name <> 'id'"
            " ORDER BY ordinal_position",
            [table],
        )
        return ", ".join(f'{alias}"{name}"' for (name,) in cursor.fetchall() if name not in but)


def _analyse() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _open_questions() -> int:
    from approvals.models import Approval

    return Approval.objects.filter(status="pending").count()


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


class Watchers:
    """The sockets' other ends, in a process of their own; person by person, round and round."""

    def __init__(self, folder: Path, port: int, people: list[Person], count: int) -> None:
        self.places = [people[at % len(people)].pk for at in range(count)]
        self.out = folder / "heard.jsonl"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.watching", str(port), str(self.out)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def connect(self) -> float:
        began = time.monotonic()
        self._tell(json.dumps(self.places))
        self._hear("connected")
        return time.monotonic() - began

    def settle(self, wanted: dict[str, int]) -> float:
        """Wait until each socket has heard of its person's questions, LATEST_S at most; gives the seconds."""
        began = time.monotonic()
        self._tell(json.dumps({"wanted": wanted, "latest_s": LATEST_S}))
        self._hear("done")
        return time.monotonic() - began

    def heard(self) -> list[dict[str, float]]:
        """By socket: when it heard of which question."""
        self._process.wait(30)
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self, word: str) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line != word:
            raise RuntimeError(f"the watchers said {line!r} instead of {word!r}")


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
        if watched["lost"] or max(watched["after_emptying_s"], default=0) > SETTLED_S:
            latest = max(watched["after_emptying_s"], default=0)
            found.append(f"after emptying: {watched['lost']} never heard, the latest after {latest:.1f} s")
    return found


def table(results: dict[str, Any]) -> str:
    lines = [where(results["machine"]), "", f"{results['pending']:,} open questions, {PER_PERSON} a person"]
    lines += ["", row("list", "p50", "p99", "queries"), row("---", "---", "---", "---")]
    for name, took in results["lists"].items():
        shown = [ms(percentile(took, percent) * 1000) for percent in (50, 99)]
        lines.append(row(name, *shown, str(results["queries"][name])))
    if watched := results.get("sockets"):
        half, most = (percentile(watched["commit_to_client_s"], at) * 1000 for at in (50, 99))
        sent = f"{watched['messages']:,} messages to clients, {watched['lost']} lost"
        latest = max(watched["after_emptying_s"], default=0)
        lines += ["", f"{watched['sockets']:,} sockets, {watched['rate']:.0f} decisions a second, {sent}"]
        lines += [f"commit to client: p50 {half:.0f} ms, p99 {most:.0f} ms"]
        lines += [f"channel layer emptied: every client equals the database {latest:.1f} s after a commit"]
    lines += ["", *(f"MISSED: {problem}" for problem in results["problems"])]
    return "\n".join(lines)
