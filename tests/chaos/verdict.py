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
from typing import Any, TypeVar

from django.db import DatabaseError, connection

from executions.states import BLOCK, EXECUTION
from tests import history

from .agents import Ledger
from .approvers import Approvers
from .coverage import EXERCISED
from .faults import Fault, Faults
from .people import History
from .plans import RECOVERY_S, Plan
from .rig import Rig

SLACK_S = 60.0  # what is not over in time is watched a little longer, to tell late from lost
T = TypeVar("T")
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
    """The connection may have been cut meanwhile."""

    def ask() -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    return patiently(ask)


def patiently(ask: Callable[[], T]) -> T:
    for _ in range(40):
        try:
            return ask()
        except DatabaseError:
            connection.close()
            time.sleep(0.5)
    raise RuntimeError("the database did not come back")


def await_end(*, until: float, care: Callable[[], None]) -> float | None:
    """When no execution was open any more, or about to go back by itself; None if some still are."""
    while time.time() < until:
        (open_now,) = rows(
            "SELECT (SELECT count(*) FROM executions_execution WHERE completed_at IS NULL)"
            " + (SELECT count(*) FROM executions_timer WHERE kind = 'recovery')"
        )[0]
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
    told: History,
    ledger: Ledger,
    approvers: Approvers,
    faults: Faults,
    wire: dict[str, int],
    rig: Rig,
) -> Found:
    found = Found(name, seed, _machine(), round(time.time() - began, 1))
    found.faults = dict(Counter(fault.kind for fault in faults.done))
    figures = found.figures
    figures["executions"] = len(told.started)
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
    figures["steps of models"] = rows("SELECT count(*) FROM executions_agentstep")[0][0]
    figures["questions"] = dict(rows("SELECT kind, count(*) FROM approvals_approval GROUP BY 1 ORDER BY 1"))
    figures["went back by themselves"] = rows(
        "SELECT count(*) FROM events_event WHERE type = 'recovery_restarted'"
    )[0][0]
    figures["incidents"] = rows(
        "SELECT count(*) || ' of ' || coalesce(sum(count), 0) || ' failures' FROM executions_incident"
    )[0][0]
    figures["calls"] = sum(ledger.calls.values())
    figures["effects"] = sum(ledger.effects.values())
    figures["answers of agents"] = dict(ledger.answers)
    figures["questions answered"] = dict(approvers.answered)
    figures["hints"] = wire
    figures["answers clients missed"] = dict(approvers.unanswered())
    figures["seconds to the end after the last fault"] = None if ended is None else round(ended - last, 1)
    _lost(found, told, ended, last)
    _effects(found, ledger)
    _history(found, ledger)
    _edges(found)
    _calm(found, plan)
    found.recovery = recovery(faults.done)
    found.broken += [f"a client could not go on: {problem}" for problem in told.problems]
    if len(told.started) < plan.executions:
        found.broken.append(f"only {len(told.started)} of {plan.executions} executions were started")
    return found


def _lost(found: Found, told: History, ended: float | None, last: float) -> None:
    present = {str(pk): status for pk, status in rows("SELECT id, status FROM executions_execution")}
    missing = [run for run in told.started if run not in present]
    open_runs = [run for run, status in present.items() if status not in EXECUTION.final]
    found.figures["lost"] = len(missing)
    found.figures["not terminal"] = len(open_runs)
    found.broken += [f"lost: {run} was answered 201 and is not there" for run in missing]
    found.broken += [
        f"not terminal: {run} ({told.started.get(run, 'child')}) is {present[run]}" for run in open_runs
    ]
    found.notes += [_standing(run, last) for run in open_runs[:10]]
    if ended is not None and ended - last > RECOVERY_S:
        found.broken.append(f"the end came {ended - last:.0f} s after the last fault")


def _standing(run: str, last: float) -> str:
    """What the rows say of a run that did not end, to be looked up in the logs."""
    said = rows(
        "SELECT json_build_object('began', e.created_at, 'changed', (SELECT max(v.at) FROM events_event v"
        " WHERE v.execution_id = e.id), 'blocks', (SELECT json_object_agg(b.status, b.n) FROM (SELECT status,"
        " count(*) n FROM executions_blockexecution WHERE execution_id = e.id GROUP BY 1) b), 'timers',"
        " (SELECT json_agg(t) FROM executions_timer t WHERE t.execution_id = e.id), 'now', now())::text"
        " FROM executions_execution e WHERE e.id = %s",
        run,
    )[0][0]
    return f"stands: {run}, last fault over at {time.strftime('%H:%M:%S', time.gmtime(last))}: {said}"


def _effects(found: Found, ledger: Ledger) -> None:
    """Figures only: the history checker says which effects were one too many."""
    done_once = rows(
        "SELECT DISTINCT execution_id || ':' || block_id || ':' FROM executions_blockexecution"
        " WHERE effect = 'once' UNION SELECT operation || ':step:' || number FROM executions_agentstep"
        " WHERE request->>'effect' = 'once'"
    )
    once = tuple(prefix for (prefix,) in done_once)
    repeated = [key for key, times in ledger.effects.items() if times > 1]
    asked_for = [key for key in repeated if key.startswith(once)] if once else []
    found.figures["duplicate effects per key"] = len(repeated) - len(asked_for)
    found.figures["once effects repeated by a person's decision"] = len(asked_for)


def _history(found: Found, ledger: Ledger) -> None:
    """Every invariant, of every execution there is, children too."""
    violations = patiently(lambda: history.check(ledger=ledger, at_rest=True))
    found.figures["violations of an invariant"] = len(violations)
    found.figures["of these, by invariant"] = dict(
        sorted(Counter(each.invariant for each in violations).items())
    )
    found.broken += [str(violation) for violation in violations]


def _edges(found: Found) -> None:
    """Which changes of blocks came to pass at all, of those the table allows."""
    seen: set[tuple[str, str]] = set()
    now: dict[tuple[str, ...], str] = {}
    for run, block, item, status in rows(
        "SELECT execution_id::text, block_id, coalesce(payload->>'item', '0'), payload->>'status'"
        " FROM events_event WHERE type = 'block_changed' AND payload ? 'status' ORDER BY execution_id, id"
    ):
        seen.add((now.get((run, block, item), "blocked"), status))
        now[run, block, item] = status
    allowed = {(str(before), str(after)) for before, nexts in BLOCK.table.items() for after in nexts}
    found.figures["changes of blocks seen"] = f"{len(allowed & seen)} of {len(allowed)} that the table allows"
    unseen = EXERCISED["block changes"] - {f"{before} -> {after}" for before, after in seen}
    found.notes.append("of the corpus's changes not seen: " + (", ".join(sorted(unseen)) or "none"))


def _calm(found: Found, plan: Plan) -> None:
    """Without faults nobody is rescued and nothing is late, or leases are too tight."""
    if plan.faults:
        return
    # What a race or a cancel has stopped may bring a result all the same.
    found.figures["late results of rescued attempts"] = rows(
        "SELECT count(*) FROM executions_lateresult l JOIN executions_blockattempt a"
        " ON a.block_id = l.block_id AND a.attempt = l.attempt AND a.outcome = 'rescued'"
    )[0][0]
    for name in ("rescues", "late results of rescued attempts"):
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
