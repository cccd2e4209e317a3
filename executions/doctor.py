"""Is everything there that runs depend on, and does work get done?  Findings in words, with remedies.

For people who wonder why nothing moves, and for probes that want an exit code.  It only reads, apart
from one message per queue that asks whether anybody serves it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from celery import current_app
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from agentflow.conf import MB
from agentflow.integrations import blobs as objects
from agentflow.types import JSONObject
from executions import dispatch, lanes, processes, tallies
from executions.ports import human_gate
from executions.processes import Seen
from executions.tallies import Tally

QUEUES = (dispatch.QUEUE, dispatch.CONTROL)
PROBE_S = 5.0
PAGE_PROBE_S = 2.0  # somebody looks at an empty page meanwhile
STATEMENT_MS = 5000
CLOCK_LATE_S = 30.0
READY_LATE_S, READY_STUCK_S = 60.0, 600.0
LEASE_LATE_S = 30.0
TIMER_LATE_S = 60.0
LONG_TRANSACTION_S = 600.0
DISK_LOW, DISK_OUT = 0.15, 0.05  # share of the disk that is free
DISK_OUT_BYTES = 500 * MB
CONNECTIONS_HIGH = 0.8
IDS_HIGH, IDS_OUT = 0.5, 0.8  # share of PostgreSQL's transaction ids that are used up
REPAIRED_MANY, REPAIRED_SHARE = 100, 0.1  # of the deliveries: more is no accident any more


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"  # worth a look; work still gets done
    PROBLEM = "problem"  # somebody must do something


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.  `figures` has the numbers behind the words."""

    check: str
    verdict: Verdict
    message: str
    remedy: str = ""
    figures: JSONObject = field(default_factory=dict)

    def as_json(self) -> JSONObject:
        return asdict(self)


def healthy(findings: list[Finding]) -> bool:
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)


def examine(*, probe_s: float = PROBE_S) -> list[Finding]:
    """Every check, the most basic first.  Without a database nothing else can be told."""
    database = _try("database", _database)
    if database.verdict is Verdict.PROBLEM:
        return [database, *_try_all("broker", lambda: _broker(probe_s, None))]
    migrations = _try("migrations", _migrations)
    found = [database, migrations]
    if migrations.verdict is not Verdict.OK:  # the tables below may not be there
        return [*found, *_try_all("broker", lambda: _broker(probe_s, None))]
    return [
        *found,
        _try("storage", _storage),
        _try("blob storage", _blobs),
        *_try_all("workers", lambda: _processes(processes.listed())),
        *_try_all("broker", lambda: _broker(probe_s, processes.listed())),
        _try("ready blocks", _ready),
        _try("leases", _leases),
        _try("timers", _timers),
        _try("stuck executions", _stuck),
        _try("questions", _questions),
        _try("repairs", _repairs),
    ]


def _try(name: str, check: Callable[[], Finding]) -> Finding:
    return _try_all(name, lambda: [check()])[0]


def _try_all(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except DatabaseError as error:
        reason = str(error).strip().partition("\n")[0]
        remedy = "See whether PostgreSQL runs and AGENTFLOW_DATABASE_URL is right."
        return [Finding(name, Verdict.PROBLEM, f"The database did not answer: {reason}", remedy)]


def _row(statement: str, *parameters: Any) -> tuple[Any, ...]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
        cursor.execute(statement, parameters or None)
        row: tuple[Any, ...] = cursor.fetchone()
        return row


# -- the database -----------------------------------------------------------------


def _database() -> Finding:
    began = time.monotonic()
    _row("SELECT 1")
    ms = (time.monotonic() - began) * 1000
    used, most, oldest_s, ids = _row(
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int,"
        " current_setting('max_connections')::int,"
        " coalesce((SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity"
        "   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)::float8,"
        " (SELECT max(age(datfrozenxid)) / 2147483648.0 FROM pg_database)::float8"
    )
    figures: JSONObject = {
        "roundTripMs": round(ms, 1),
        "connections": used,
        "maxConnections": most,
        "oldestTransactionS": round(oldest_s, 1),
        "transactionIdsUsed": round(ids, 3),
    }
    if ids > IDS_HIGH:
        message = f"{ids:.0%} of the transaction ids are used; at the end PostgreSQL takes no more writes."
        remedy = "See why vacuum does not get through: long transactions, replication slots, autovacuum off."
        verdict = Verdict.PROBLEM if ids > IDS_OUT else Verdict.WARNING
        return Finding("database", verdict, message, remedy, figures)
    if used > CONNECTIONS_HIGH * most:
        message = f"{used} of {most} connections are in use."
        remedy = "Raise max_connections, or run fewer workers (docs/running.md has the budget)."
        return Finding("database", Verdict.WARNING, message, remedy, figures)
    if oldest_s > LONG_TRANSACTION_S:
        message = f"A transaction has been open for {_span(oldest_s)}: dead rows pile up behind it."
        remedy = "Find it in pg_stat_activity by xact_start, and end it."
        return Finding("database", Verdict.WARNING, message, remedy, figures)
    message = f"answers in {ms:.0f} ms; {used} of {most} connections in use"
    return Finding("database", Verdict.OK, message, figures=figures)


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    missing = [str(migration) for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    if not missing:
        return Finding("migrations", Verdict.OK, "the schema is this version's")
    message = f"{len(missing)} migrations are not applied, the first is {missing[0]}."
    return Finding(
        "migrations",
        Verdict.PROBLEM,
        message,
        "Run `manage.py migrate` before web, worker and clock.",
        {"missing": missing},
    )


def _storage() -> Finding:
    (size,) = _row("SELECT pg_database_size(current_database())")
    figures: JSONObject = {"databaseBytes": size}
    disk = _disk()
    if disk is None:
        message = f"the database has {_bytes(size)}; its disk cannot be seen from here"
        return Finding("storage", Verdict.OK, message, figures=figures)
    total, free = disk
    figures |= {"diskBytes": total, "freeBytes": free}
    message = f"The database has {_bytes(size)}; {_bytes(free)} of {_bytes(total)} on its disk are free."
    remedy = "Make room: when the disk is full PostgreSQL stops, and all runs with it."
    if free < max(DISK_OUT * total, min(DISK_OUT_BYTES, 0.5 * total)):
        return Finding("storage", Verdict.PROBLEM, message, remedy, figures)
    verdict = Verdict.WARNING if free < DISK_LOW * total else Verdict.OK
    return Finding("storage", verdict, message, remedy if verdict is Verdict.WARNING else "", figures)


def _blobs() -> Finding:
    in_database, in_s3 = _row(
        "SELECT coalesce(sum(bytes) FILTER (WHERE place = 'database'), 0)::bigint,"
        " coalesce(sum(bytes) FILTER (WHERE place = 's3'), 0)::bigint FROM executions_blob WHERE NOT removed"
    )
    figures: JSONObject = {"databaseBytes": in_database, "s3Bytes": in_s3}
    said = f"Large outputs: {_bytes(in_database)} in the database, {_bytes(in_s3)} in the object store."
    store = objects.configured()
    if store is None and in_s3:
        remedy = "Set AGENTFLOW_S3_BUCKET and its keys again: those outputs cannot be read without it."
        return Finding("blob storage", Verdict.PROBLEM, said, remedy, figures)
    if store is not None:
        try:
            store.check()
        except objects.BlobStoreError as error:
            remedy = "See whether AGENTFLOW_S3_ENDPOINT, AGENTFLOW_S3_BUCKET and the keys are right."
            return Finding("blob storage", Verdict.PROBLEM, f"{said} {error}", remedy, figures)
    return Finding("blob storage", Verdict.OK, said, figures=figures)


def _disk() -> tuple[int, int] | None:
    """Total and free bytes of the disk under the database, where it is this machine's."""
    try:
        (folder,) = _row("SELECT current_setting('data_directory')")
        local = connection.settings_dict["HOST"] in ("", "localhost", "127.0.0.1", "::1")
        local = local or str(connection.settings_dict["HOST"]).startswith("/")
        if not local or not Path(folder).exists():
            return None
        usage = shutil.disk_usage(folder)
    except (DatabaseError, OSError):  # the role may not ask, or we may not look
        return None
    return usage.total, usage.free


# -- processes and the broker -----------------------------------------------------


def _processes(seen: list[Seen]) -> list[Finding]:
    return [_clock([each for each in seen if each.kind == "clock"]), _workers(seen)]


def _clock(clocks: list[Seen]) -> Finding:
    remedy = (
        "Start `manage.py clock`, and look into its log: without it no timer fires and nothing is rescued."
    )
    if not clocks:
        return Finding("clock", Verdict.PROBLEM, "No clock has ticked.", remedy)
    late_s = min(clock.seen_s for clock in clocks)
    alive = sum(clock.seen_s <= CLOCK_LATE_S for clock in clocks)
    figures: JSONObject = {"lastTickS": round(late_s, 1), "clocks": alive}
    if not alive:
        return Finding(
            "clock", Verdict.PROBLEM, f"The clock last ticked {_span(late_s)} ago.", remedy, figures
        )
    return Finding("clock", Verdict.OK, f"ticked {_span(late_s)} ago", figures=figures)


def _workers(seen: list[Seen]) -> Finding:
    alive = [each for each in seen if each.kind == "worker" and each.alive]
    vanished = [each for each in seen if each.kind == "worker" and not each.alive]
    unserved = [queue for queue in QUEUES if not any(queue in each.queues for each in alive)]
    quiet = [each for each in alive if each.up_s > processes.DEAF_S and _silent_s(each) > processes.DEAF_S]
    figures: JSONObject = {
        "workers": [
            {"name": each.name, "pid": each.pid, "queues": list(each.queues), "heardS": each.heard_s}
            for each in alive
        ],
        "vanished": [each.name for each in vanished],
    }
    if unserved:
        message = f"No worker serves {' and '.join(unserved)}."
        remedy = "Start `celery -A config worker -P threads -Q blocks,control`."
        return Finding("workers", Verdict.PROBLEM, message, remedy, figures)
    if vanished:
        names = ", ".join(each.name for each in vanished)
        message = f"{len(alive)} workers are alive; vanished without a word: {names}."
        remedy = "See their logs. What they held is given to others after its lease, or asks a person."
        return Finding("workers", Verdict.WARNING, message, remedy, figures)
    if quiet:
        names = ", ".join(each.name for each in quiet)
        message = f"Nothing heard from their queues for a minute: {names}."
        remedy = "They are busy with long calls, or deaf; a deaf one ends itself and is started again."
        return Finding("workers", Verdict.WARNING, message, remedy, figures)
    return Finding("workers", Verdict.OK, f"{len(alive)} alive", figures=figures)


def _silent_s(worker: Seen) -> float:
    return worker.up_s if worker.heard_s is None else worker.heard_s


def _broker(probe_s: float, seen: list[Seen] | None) -> list[Finding]:
    """A message through every queue and back."""
    try:
        depths = _depths()
    except Exception as error:  # noqa: BLE001  # whichever family kombu wraps it in
        message = f"The broker did not answer: {error}"
        remedy = "See whether Valkey runs and AGENTFLOW_REDIS_URL is right. Runs go on, slowly, by the clock."
        return [Finding("broker", Verdict.PROBLEM, message, remedy)]
    served = seen is None or any(each.kind == "worker" and each.alive for each in seen)
    began = time.monotonic()
    asked = {
        queue: current_app.send_task(
            "executions.tasks.probe", args=(queue,), queue=queue, expires=probe_s, ignore_result=False
        )
        for queue in QUEUES
    }
    return [
        _answered(queue, result, began + probe_s, began, depths[queue], served)
        for queue, result in asked.items()
    ]


def _depths() -> dict[str, int]:
    with current_app.connection_for_write() as broker:
        channel: Any = broker.default_channel
        depths = {name: channel.queue_declare(queue=name).message_count for name in (*QUEUES, *lanes.LANES)}
    depths[lanes.QUEUE] += sum(depths.pop(lane) for lane in lanes.LANES)
    return depths


def _answered(queue: str, result: Any, until: float, began: float, depth: int, served: bool) -> Finding:
    name = f"queue {queue}"
    figures: JSONObject = {"waiting": depth}
    try:
        result.get(timeout=max(until - time.monotonic(), 0.01), interval=0.02)
    except Exception as error:  # noqa: BLE001  # a timeout, or the broker went away meanwhile
        result.forget()
        message = f"No answer through the queue ({type(error).__name__}); {depth} messages wait in it."
        if served:
            remedy = (
                "All threads may be busy: more workers shorten the wait. If so for minutes, see the logs."
            )
            return Finding(name, Verdict.WARNING, message, remedy, figures)
        return Finding(name, Verdict.PROBLEM, message, "Start a worker.", figures)
    ms = (time.monotonic() - began) * 1000
    return Finding(
        name, Verdict.OK, f"there and back in {ms:.0f} ms", figures=figures | {"roundTripMs": round(ms, 1)}
    )


# -- the work ---------------------------------------------------------------------


def _ready() -> Finding:
    """Of the runs with ready blocks and a free place, the one that has stood still for longest."""
    stuck, oldest_s, repeated = _row(
        "SELECT count(*)::int, coalesce(max(s.waits), 0)::float8, coalesce(max(s.tries), 0)::int FROM ("
        "  SELECT extract(epoch FROM statement_timestamp() - greatest(e.created_at, max(b.started_at),"
        "      max(b.completed_at), max(b.available_at) FILTER (WHERE b.status = 'ready'))) AS waits,"
        "    (SELECT t.tries FROM executions_timer t WHERE t.key = 'check:' || e.id) AS tries"
        "  FROM executions_execution e JOIN executions_blockexecution b"
        "    ON b.execution_id = e.id AND b.epoch = e.epoch"
        "  WHERE e.status IN ('pending', 'running') AND NOT EXISTS (SELECT 1 FROM executions_place p"
        "    WHERE p.execution_id = e.id AND p.block_id IS NULL AND NOT p.held) GROUP BY e.id"
        "  HAVING count(*) FILTER (WHERE b.status = 'ready'"
        "      AND (b.available_at IS NULL OR b.available_at <= statement_timestamp())) > 0"
        "    AND count(DISTINCT b.lease_owner) FILTER (WHERE b.status = 'running') < e.max_parallel) s"
    )
    figures: JSONObject = {"runs": stuck, "oldestS": round(oldest_s, 1), "hintsRepeated": repeated}
    if oldest_s <= READY_LATE_S:
        message = f"the oldest has waited {_span(oldest_s)}" if stuck else "none waits"
        return Finding("ready blocks", Verdict.OK, message, figures=figures)
    message = f"{stuck} runs have blocks that no worker takes, one for {_span(oldest_s)}."
    remedy = "More workers, if the queues are long; else look at clock, broker and workers above."
    verdict = Verdict.PROBLEM if oldest_s > READY_STUCK_S else Verdict.WARNING
    return Finding("ready blocks", verdict, message, remedy, figures)


def _leases() -> Finding:
    expired, late = _row(
        "SELECT count(*)::int,"
        " count(*) FILTER (WHERE b.lease_expires_at < statement_timestamp() - %s * interval '1 second')::int"
        " FROM executions_execution e JOIN executions_blockexecution b"
        "   ON b.execution_id = e.id AND b.epoch = e.epoch"
        " WHERE e.status IN ('pending', 'running', 'paused', 'cancelling') AND b.status = 'running'"
        "   AND b.lease_expires_at < statement_timestamp()",
        LEASE_LATE_S,
    )
    figures: JSONObject = {"expired": expired, "notRescued": late}
    if late:
        message = f"{late} blocks of vanished workers have not been given to others."
        return Finding(
            "leases", Verdict.PROBLEM, message, "The clock does that: see whether it ticks.", figures
        )
    return Finding(
        "leases",
        Verdict.OK,
        f"{expired} expired, about to be rescued" if expired else "none expired",
        figures=figures,
    )


def _timers() -> Finding:
    due, late, oldest_s = _row(
        "SELECT count(*)::int,"
        " count(*) FILTER (WHERE due_at < statement_timestamp() - %s * interval '1 second')::int,"
        " coalesce(extract(epoch FROM statement_timestamp() - min(due_at)), 0)::float8"
        " FROM executions_timer WHERE due_at <= statement_timestamp()",
        TIMER_LATE_S,
    )
    figures: JSONObject = {"due": due, "late": late, "oldestS": round(oldest_s, 1)}
    if late:
        message = f"{late} timers are overdue, one for {_span(oldest_s)}."
        remedy = (
            "One clock may not keep up: start a second, they share the work. Its log names timers that fail."
        )
        return Finding("timers", Verdict.PROBLEM, message, remedy, figures)
    return Finding("timers", Verdict.OK, f"{due} due now" if due else "none due", figures=figures)


def _stuck() -> Finding:
    (stuck,) = _row("SELECT count(*)::int FROM executions_timer WHERE stuck_at IS NOT NULL")
    figures: JSONObject = {"stuck": stuck}
    if not stuck:
        return Finding("stuck executions", Verdict.OK, "none", figures=figures)
    message = f"{stuck} {'execution is' if stuck == 1 else 'executions are'} stuck: nothing moves in time."
    remedy = "See what they wait for: GET /executions?stuck=true, or the filter Stuck of the admin."
    return Finding("stuck executions", Verdict.WARNING, message, remedy, figures)


def _questions() -> Finding:
    """Nothing moves a block on that waits for a person whom nobody asks."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
        unasked = human_gate().unasked()
    figures: JSONObject = {"unasked": unasked}
    if unasked:
        message = f"{unasked} blocks wait for a person, and no question is open."
        remedy = "This is a bug: please report it. Skip or complete such a block by hand, or cancel its run."
        return Finding("questions", Verdict.PROBLEM, message, remedy, figures)
    return Finding("questions", Verdict.OK, "whoever is waited for was asked", figures=figures)


def _repairs() -> Finding:
    """What got lost on the way or came twice, today and yesterday: it costs seconds, never work."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
        counted = tallies.recent()
    lost_joins = max(0, counted[Tally.FORKS] - counted[Tally.JOINS])
    repaired = counted[Tally.REHINTS] + counted[Tally.LATE_EVENTS]
    figures: JSONObject = {
        "deliveries": counted[Tally.WALKS],
        "duplicatesSuppressed": counted[Tally.IDLE_WALKS],
        "dispatchesRepaired": repaired,
        "chordBodiesLost": lost_joins,
        "forks": counted[Tally.FORKS],
    }
    message = (
        f"since yesterday {repaired} hints were sent again, {counted[Tally.IDLE_WALKS]} of"
        f" {counted[Tally.WALKS]} deliveries found nothing to do, and the bodies of {lost_joins} of"
        f" {counted[Tally.FORKS]} forks never came"
    )
    if repaired > REPAIRED_MANY and repaired > REPAIRED_SHARE * counted[Tally.WALKS]:
        remedy = "Hints get lost, or wait for long: see whether Valkey restarts or is full, and the queues."
        return Finding("repairs", Verdict.WARNING, f"S{message[1:]}.", remedy, figures)
    return Finding("repairs", Verdict.OK, message, figures=figures)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
