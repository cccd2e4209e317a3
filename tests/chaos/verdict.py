"""What came of a run: everything that must hold, and the figures behind it.

Read from the rows, the agents' ledger and the clients' history after the load is over.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, connection

from executions.states import BLOCK, EXECUTION

from .agents import Ledger
from .faults import Fault, Faults
from .people import Approver, History
from .plans import RECOVERY_S, Plan
from .rig import Rig

SLACK_S = 60.0  # what is not over in time is watched a little longer, to tell late from lost
MOVING = ("ready", "running")
RESTED = ("completed", "failed", "skipped", "cancelled", "waiting_human", "waiting_external")


@dataclass
class Found:
    name: str
    seed: int
    machine: str
    took_s: float
    figures: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    recovery: dict[str, dict[str, float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.broken


def rows(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Patiently: the connection may have been cut."""
    for _ in range(40):
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return list(cursor.fetchall())
        except DatabaseError:
            connection.close()
            time.sleep(0.5)
    raise RuntimeError("the database did not come back")


def await_end(*, until: float, care: Callable[[], None]) -> float | None:
    """When no execution was open any more; None if some still are."""
    while time.time() < until:
        (open_now,) = rows("SELECT count(*) FROM executions_execution WHERE completed_at IS NULL")[0]
        if not open_now:
            return time.time()
        care()
    return None


def reach(
    *,
    name: str,
    plan: Plan,
    seed: int,
    began: float,
    last: float,
    ended: float | None,
    history: History,
    ledger: Ledger,
    approver: Approver,
    faults: Faults,
    wire: dict[str, int],
    rig: Rig,
) -> Found:
    found = Found(name, seed, _machine(), round(time.time() - began, 1))
    found.faults = dict(Counter(fault.kind for fault in faults.done))
    figures = found.figures
    figures["executions"] = len(history.started)
    figures["children"] = rows("SELECT count(*) FROM executions_execution WHERE parent_block_id IS NOT NULL")[
        0
    ][0]
    figures["statuses"] = dict(
        rows("SELECT status, count(*) FROM executions_execution GROUP BY 1 ORDER BY 1")
    )
    figures["attempts"] = rows("SELECT count(*) FROM executions_blockattempt")[0][0]
    outcomes = dict(rows("SELECT outcome, count(*) FROM executions_blockattempt GROUP BY 1 ORDER BY 1"))
    figures["outcomes"] = outcomes
    figures["rescues"] = outcomes.get("rescued", 0)
    figures["late results"] = rows("SELECT count(*) FROM executions_lateresult")[0][0]
    figures["calls"] = sum(ledger.calls.values())
    figures["effects"] = sum(ledger.effects.values())
    figures["answers of agents"] = dict(ledger.answers)
    figures["questions answered"] = dict(approver.answered)
    figures["hints"] = wire
    figures["answers clients missed"] = dict(approver.person.unanswered)
    figures["seconds to the end after the last fault"] = None if ended is None else round(ended - last, 1)
    _lost(found, history, ended, last)
    _effects(found, ledger, approver)
    _changes(found)
    _attempts(found)
    _calm(found, plan)
    found.recovery = recovery(faults.done)
    found.broken += [f"a client could not go on: {problem}" for problem in history.problems]
    if len(history.started) < plan.executions:
        found.broken.append(f"only {len(history.started)} of {plan.executions} executions were started")
    return found


def _lost(found: Found, history: History, ended: float | None, last: float) -> None:
    present = {str(pk): status for pk, status in rows("SELECT id, status FROM executions_execution")}
    missing = [run for run in history.started if run not in present]
    open_runs = [run for run, status in present.items() if status not in EXECUTION.final]
    found.figures["lost"] = len(missing)
    found.figures["not terminal"] = len(open_runs)
    found.broken += [f"lost: {run} was answered 201 and is not there" for run in missing]
    found.broken += [
        f"not terminal: {run} ({history.started.get(run, 'child')}) is {present[run]}" for run in open_runs
    ]
    if ended is not None and ended - last > RECOVERY_S:
        found.broken.append(f"the end came {ended - last:.0f} s after the last fault")


def _effects(found: Found, ledger: Ledger, approver: Approver) -> None:
    """One effect per key; of agents that know no keys, one more for each time a person said so."""
    allowed = approver.repeats
    duplicates = {key: n for key, n in ledger.effects.items() if n > 1 + allowed[operation(key)]}
    found.figures["duplicate effects"] = len(duplicates)
    found.figures["repeated by a person's decision"] = sum(allowed.values())
    found.broken += [f"duplicate effect: {key}, {n} times" for key, n in duplicates.items()]
    done = rows(
        "SELECT b.execution_id || ':' || b.block_id || ':' || b.iteration || ':' || b.effect_seq"
        " FROM executions_blockexecution b"
        " JOIN executions_blockattempt a ON a.block_id = b.id AND a.outcome = 'ok'"
        " WHERE b.status = 'completed' AND b.effect <> 'pure' AND b.attempt = a.attempt"
    )
    without = [key for (key,) in done if not ledger.effects[key]]
    found.figures["completed without their effect"] = len(without)
    found.broken += [f"no effect: {key} is completed and not in the ledger" for key in without]


def operation(key: str) -> str:
    """`execution:block` of a key."""
    return ":".join(key.split(":")[:2])


def _changes(found: Found) -> None:
    """Every recorded change is one that the tables allow."""
    seen: Counter[tuple[str, str]] = Counter()
    illegal: list[str] = []
    statuses: dict[Any, str] = {}
    for run, block, item, status in rows(
        "SELECT execution_id::text, block_id, coalesce(payload->>'item', '0'), payload->>'status'"
        " FROM events_event WHERE type IN ('block_changed', 'execution_changed') AND payload ? 'status'"
        " ORDER BY execution_id, id"
    ):
        place = (run, block, item)
        before = statuses.get(place, "blocked" if block else "pending")
        statuses[place] = status
        if not block and status == "running" and before in EXECUTION.final:
            statuses = {other: now for other, now in statuses.items() if other[0] != run}
            statuses[place] = status
            continue
        if before == status:
            continue
        seen[before, status] += 1
        table: Any = BLOCK if block else EXECUTION
        if status not in {str(to) for to in table.table.get(before, ())}:
            illegal.append(f"illegal: {run} {block or ''} {before} -> {status}")
    found.figures["illegal changes"] = len(illegal)
    found.broken += illegal[:20]
    of_blocks = {(str(a), str(b)) for a, targets in BLOCK.table.items() for b in targets if a != b}
    found.figures["edges of blocks seen"] = f"{len(of_blocks & set(seen))} of {len(of_blocks)}"
    unseen = sorted(f"{a} -> {b}" for a, b in of_blocks - set(seen))
    if unseen:
        found.notes.append("edges not gone: " + ", ".join(unseen))


def _attempts(found: Found) -> None:
    """Attempts of a row are 1..n without a gap; at most the last was accepted."""
    wrong = rows(
        "SELECT b.execution_id::text, b.block_id FROM executions_blockattempt a"
        " JOIN executions_blockexecution b ON b.id = a.block_id GROUP BY b.id"
        " HAVING max(a.attempt) <> count(*) OR min(a.attempt) <> 1 OR max(a.attempt) <> b.attempt"
    )
    found.figures["rows with wrong attempts"] = len(wrong)
    found.broken += [f"attempts: {run} {block} are not 1..n" for run, block in wrong[:20]]


def _calm(found: Found, plan: Plan) -> None:
    """Without faults nobody is rescued and nothing is late, or leases are too tight."""
    if plan.faults:
        return
    for name in ("rescues", "late results"):
        if found.figures[name]:
            found.broken.append(f"{found.figures[name]} {name} without a fault")


def recovery(faults: list[Fault]) -> dict[str, dict[str, float]]:
    """For each kind: how long after the fault was over the work that it found under way took to go on.

    Work under way is a block that was ready or running when the fault began; it goes on when it is
    settled, or waits for something outside.  The thousand-wide runs are left out, whose blocks wait in line.
    """
    when: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for run, block, item, status, at in rows(
        "SELECT v.execution_id::text, v.block_id, coalesce(v.payload->>'item', '0'), v.payload->>'status',"
        " extract(epoch FROM v.at)::float8 FROM events_event v"
        " WHERE v.type = 'block_changed' AND v.payload ? 'status'"
        " AND (SELECT count(*) FROM executions_blockexecution b WHERE b.execution_id = v.execution_id) < 500"
        " ORDER BY v.id"
    ):
        when.setdefault((run, block, item), []).append((at, status))
    times: dict[str, list[float]] = {}
    for fault in faults:
        found = times.setdefault(fault.kind, [])
        for changes in when.values():
            before = [status for at, status in changes if at <= fault.at]
            if not before or before[-1] not in MOVING:
                continue
            rested = next((at for at, status in changes if at > fault.at and status in RESTED), None)
            if rested is not None:
                found.append(max(0.0, rested - fault.over))
    return {kind: _spread(found) for kind, found in times.items()}


def _spread(found: list[float]) -> dict[str, float]:
    if not found:
        return {"blocks": 0}
    ordered = sorted(found)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {"blocks": len(ordered), "p50": at(0.5), "p99": at(0.99), "max": round(ordered[-1], 2)}


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {system}; load {load:.1f} at the end"
