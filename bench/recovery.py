"""`make bench-recovery`: executions that meet faults, with recovery policies and without, by the same seed.

Faults come from the workspace's fault injection where it has them, begun by REST.  An agent and workers are
really killed (`kill -9`, only those that were started here) and started again.  What needs a person is
decided by an operator of the bench through the REST interface: it repairs incidents of configuration failures
at once, and where it is not known whether an effect happened it looks at the agent and says so.  Without
recovery nobody is asked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .fault_plan import (
    AGENT,
    KILL_SHARE,
    RULES,
    SPARE,
    WORKER_KILLED,
    Attempt,
    History,
    recovered,
    success,
    table,
    violations,
    workflows,
)
from .processes import PROCESSES, START_TIMEOUT_S, Fleet, NotStarted, machine, stage
from .report import where
from .service import Agentflow, AgentflowHttp

OPEN_AT_ONCE = 80
KILL_WORKER_S, KILL_AGENT_S = 4.0, 30.0  # between two
FIRST_AGENT_S = 5.0
OPERATOR_S = 2.0
DOWN_S = 1.0


class Part:
    """All executions, with recovery or without."""

    def __init__(self, bench: Bench, *, recovers: bool) -> None:
        self.bench, self.recovers = bench, recovers
        self.effects = bench.folder / f"effects-{'with' if recovers else 'without'}"
        self.versions = [
            bench.ours.store(body["name"], body) for body in workflows(recovers=recovers).values()
        ]
        self.http = AgentflowHttp(bench.ours, bench.web)
        self.operator = AgentflowHttp(bench.ours, bench.web)
        self.by_hand = 0
        self.over = threading.Event()
        self.kill_worker_at = 0.0
        self.kill_agent_at = time.monotonic() + FIRST_AGENT_S
        self.start_agent_at = float("inf")
        self.workers = itertools.cycle(range(PROCESSES))

    def run(self) -> History:
        self._start_agent()
        self.http.refresh()
        faults = f"/api/v1/workspaces/{self.bench.ours.workspace.pk}/faults"
        body = {"minutes": self.bench.minutes + 5, "seed": self.bench.seed, "rules": list(RULES)}
        self.http.call("POST", faults, body)
        operator = threading.Thread(target=self._operate, daemon=True)
        if self.recovers:
            operator.start()
        try:
            ids = self._work()
        finally:
            self.over.set()
            if self.recovers:
                operator.join()
        self.http.refresh()
        self.http.call("POST", f"{faults}/stop", {})
        history = self._history(ids)
        self.bench.fleet.stop("agent")
        return history

    def _work(self) -> list[Any]:
        """Start them as others end, and wait for the last; what has not ended in time stays as it is."""
        from executions.services import starting

        ids: list[Any] = []
        until = time.monotonic() + self.bench.minutes * 60
        numbers = iter(range(self.bench.executions))
        while time.monotonic() < until:
            open_ = self.bench.ours._open(ids)
            for number in itertools.islice(numbers, max(OPEN_AT_ONCE - open_, 0)):
                version = self.versions[number % len(self.versions)]
                made = starting.start(
                    version=version, by=self.bench.ours.user, input={}, business_key=f"bench-{number}"
                )
                ids.append(made.pk)
                open_ += 1
            if not open_ and len(ids) == self.bench.executions:
                break
            self._kill()
            time.sleep(0.2)
        return ids

    # -- what goes wrong for real, and who mends it -------------------------------

    def _kill(self) -> None:
        """Workers in turn, while the agent holds calls of theirs, and the agent.

        In this thread alone: who starts a process and ends takes it along.
        """
        fleet, now = self.bench.fleet, time.monotonic()
        if now > self.start_agent_at:
            self.start_agent_at = float("inf")
            self._start_agent()
        if now > self.kill_agent_at:
            self.kill_agent_at, self.start_agent_at = now + KILL_AGENT_S, now + DOWN_S
            fleet.kill("agent")
            self.bench.killed_agents += 1
        elif now > self.kill_worker_at and self._held():
            self.kill_worker_at = now + KILL_WORKER_S
            number = next(self.workers)
            fleet.kill(f"ours-{number}")
            fleet.worker(number)
            self.bench.killed_workers += 1

    def _start_agent(self) -> None:
        bench = self.bench
        command = [
            "-m",
            "bench.faulty_agent",
            str(bench.port),
            str(self.effects),
            bench.seed,
            str(KILL_SHARE),
        ]
        bench.fleet.start("agent", command)
        until = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            if time.monotonic() > until:
                raise NotStarted("the agent did not start")
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.bench.port), 1).close()
        except OSError:
            return False
        return True

    def _held(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.bench.port}/held", timeout=5) as reply:
                return int(json.load(reply)["held"])
        except OSError:
            return 0  # it is down

    def _operate(self) -> None:
        while not self.over.wait(OPERATOR_S):
            self.operator.refresh()
            with contextlib.suppress(RuntimeError):  # decided by somebody else meanwhile: looked at again
                self._repair_incidents()
            with contextlib.suppress(RuntimeError):
                self._answer_questions()

    def _repair_incidents(self) -> None:
        for incident in self.operator.call("GET", "/api/v1/incidents?state=open&limit=100")["incidents"]:
            if incident["kind"] != "configuration":
                continue
            body = {"fix": {"action": "retry"}, "reason": "It is configured now.", "canary": False}
            with contextlib.suppress(RuntimeError):  # one is under way, or it holds nothing
                self.operator.call("POST", f"/api/v1/incidents/{incident['incidentId']}/repairs", body)

    def _answer_questions(self) -> None:
        """Those that no incident's repair answers; whether an effect happened, the agent's file says."""
        asked = self.operator.call("GET", "/api/v1/approvals/pending?type=fix&limit=100")["approvals"]
        if not asked:
            return
        done = {key.rpartition(":")[0] for key in self.effects.read_text().splitlines()}
        for each in asked:
            error = each["request"].get("error") or {}
            if error.get("kind") == "configuration":
                continue
            known = f"{each['executionId']}:{each['blockId']}:0" in done
            response = {"action": "complete", "output": {"n": 0}} if known else {"action": "retry"}
            answer = {"approved": True, "response": response}
            with contextlib.suppress(RuntimeError):
                self.operator.call("POST", f"/api/v1/approvals/{each['approvalId']}/respond", answer)
                self.by_hand += 1

    # -- what came of it ----------------------------------------------------------

    def _history(self, ids: list[Any]) -> History:
        from executions.incidents.repair_models import RepairItem
        from executions.models import BlockAttempt, BlockExecution, Execution

        history = History(effects=self.effects.read_text().splitlines())
        history.statuses = {
            str(pk): str(status)
            for pk, status in Execution.objects.filter(pk__in=ids).values_list("pk", "status")
        }
        rows = BlockExecution.objects.filter(execution__in=ids, status="completed", attempt__gt=0)
        history.completed = {
            f"{execution}:{block_id}:{item}"
            for execution, block_id, item in rows.values_list("execution_id", "block_id", "iteration")
        }
        attempts = BlockAttempt.objects.filter(block__execution__in=ids).select_related("block")
        history.attempts = [
            Attempt(
                execution=str(each.block.execution_id),
                step=f"{each.block.block_id}:{each.block.iteration}",
                number=each.attempt,
                cause=_cause(each),
                began=each.started_at.timestamp(),
                ended=each.ended_at.timestamp(),
            )
            for each in attempts.iterator()
        ]
        repaired = RepairItem.objects.filter(execution__in=ids).count()
        history.by_hand = self.by_hand + repaired
        return history


def _cause(attempt: Any) -> str:
    """What was wrong with an attempt; an agent that was killed shows as a connection lost or refused."""
    if attempt.outcome == "rescued":
        return WORKER_KILLED
    if attempt.injected:
        return f"injected: {attempt.injected['fault']}"
    if attempt.outcome != "error":
        return ""
    code = str((attempt.failure or {}).get("code", ""))
    return "agent killed" if code.startswith("connect") else code


class Bench:
    def __init__(self, fleet: Fleet, folder: Path, options: argparse.Namespace) -> None:
        from agentflow.agents.models import Agent
        from agentflow.governance.roles import Role
        from agentflow.governance.services.workspaces import grant

        self.fleet, self.folder = fleet, folder
        self.executions, self.minutes, self.seed = options.executions, options.minutes, options.seed
        self.port = _port()
        self.killed_workers = self.killed_agents = 0
        self.ours = Agentflow()
        self.ours.workspace.egress_allow = [f"127.0.0.1:{self.port}"]
        self.ours.workspace.save()
        grant(user=self.ours.user, role=Role.ADMIN, workspace=self.ours.workspace, by=None)
        for agent_id in (AGENT, SPARE):
            Agent.objects.create(
                workspace=self.ours.workspace,
                agent_id=agent_id,
                name=agent_id,
                tool_type="API",
                configuration={"method": "POST", "url": f"http://127.0.0.1:{self.port}/do"},
                output_schema={"type": "object", "required": ["n"]},
            )
        self.web = fleet.web()
        fleet.ours()
        fleet.ready()


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery")
    parser.add_argument("--executions", type=int, default=1000, help="with recovery, and as many without")
    parser.add_argument("--minutes", type=int, default=30, help="that each half may take")
    parser.add_argument("--seed", default="recovery")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as name:
        folder = Path(name)
        with stage(folder, folder / "blocks.log") as (_, fleet):
            bench = Bench(fleet, folder, options)
            at = machine()
            histories = [Part(bench, recovers=recovers).run() for recovers in (True, False)]
            print(where(at), "\n")
            print(table(*histories))
            killed = f"{bench.killed_workers} workers and {bench.killed_agents} times the agent"
            print(f"Killed: {killed}, in both halves together.")
            problems = [problem for history in histories for problem in violations(history)]
            print("\n".join(problems[:50]))
    if options.json:
        figures = {"machine": at, "success": [success(each) for each in histories], "problems": problems}
        figures["recovered"] = {name: asdict(each) for name, each in recovered(histories[0].attempts).items()}
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    if problems or success(histories[0]) < 0.95:
        sys.exit("a check failed")


if __name__ == "__main__":
    main()
