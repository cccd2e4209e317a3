"""One run of the rig: load, faults, the wait for the end, and the verdict."""

from __future__ import annotations

import random
import time
from pathlib import Path

from agentflow.governance.roles import Role
from tests.factories.governance import WorkspaceFactory, member

from . import report, verdict
from .agents import Agents, agents
from .approvers import Approvers
from .assisted import registered
from .blocks import Case
from .corpus import Corpus
from .faults import Faults, schedule
from .mcp_agent import mcp_agent
from .people import Clients, History, Person
from .plans import RECOVERY_S, Plan
from .rig import Rig

DOUBLE = "import json, sys\nprint(json.dumps({'twice': 2}))\n"


def run(rig: Rig, plan: Plan, *, name: str, seed: int, folder: Path) -> int:
    began = time.time()
    with agents(folder / "ledger.jsonl") as served, mcp_agent(served.server.url("/keyed")) as mcp:
        rig.start_machines(served.server.url("/v1"))
        _say(f"machines ready after {time.time() - began:.0f} s")
        history = History(folder / "history.jsonl")
        people, agent_ids, cases = _prepare(rig, served, mcp)
        clients = Clients(people[0], history, _load(plan, cases, random.Random(seed)), agent_ids)
        approvers = Approvers([Person(p.username, p.bases) for p in people], served.ledger, history)
        faults = Faults(rig, random.Random(seed + 1))
        clients.start()
        approvers.start()
        _fault(faults, plan, random.Random(seed + 2))
        while not clients.done() and time.time() - began < 2 * plan.load_s + 120:
            _care(faults)
        last = max([fault.over for fault in faults.done] + [time.time()])
        ended = verdict.await_end(until=last + RECOVERY_S + verdict.SLACK_S, care=lambda: _care(faults))
        clients.end(10)
        approvers.end()
        wire = rig.wire()
        found = verdict.reach(
            name=name, plan=plan, seed=seed, began=began, last=last, ended=ended, told=history,
            ledger=served.ledger, approvers=approvers, faults=faults, wire=wire, rig=rig,
        )  # fmt: skip
    report.write(found, folder)
    print(report.as_text(found))
    return 0 if found.holds else 1


def _prepare(
    rig: Rig, served: Agents, mcp: str
) -> tuple[list[Person], dict[str, str], list[tuple[Case, str]]]:
    """The people, of whom the first also starts; the ids of the agents; the cases with their templates."""
    workspace = WorkspaceFactory.create(egress_allow=[served.server.allowed, mcp])
    users = [member(workspace, Role.ADMIN, Role.APPROVER), *(member(workspace, Role.APPROVER) for _ in "bc")]
    people = [Person(user.username, [machine.base_url for machine in rig.machines]) for user in users]
    own = {"workspaceId": str(workspace.pk)}
    people[0].post("/scripts", {"name": "double", "source": DOUBLE, **own})
    corpus = Corpus(served.server.url, f"http://{mcp}/mcp")

    def create(case: Case) -> str:
        return str(people[0].post("/templates", {**case.definition, **own})["templateId"])

    child = create(corpus.child())
    agent_ids = {
        agent["agentId"]: str(people[0].post("/agents", {**agent, **own})["id"])
        for agent in registered(corpus, child)
    }
    return people, agent_ids, [(case, create(case)) for case in corpus.cases(child)]


def _load(plan: Plan, cases: list[tuple[Case, str]], chance: random.Random) -> list[tuple[float, Case, str]]:
    """Every case at least once, the others by weight, at an even pace; the widest early."""
    drawn = [(case, template) for case, template in cases if case.weight]
    weights = [case.weight for case, _ in drawn]
    rest = chance.choices(drawn, weights, k=max(0, plan.executions - len(drawn) - plan.wide))
    order = [*drawn, *rest]
    chance.shuffle(order)
    (widest,) = [found for found in cases if not found[0].weight]
    for number in range(plan.wide):
        order.insert(round(len(order) * (number + 0.2) / plan.wide), widest)
    return [(plan.load_s * n / len(order), case, template) for n, (case, template) in enumerate(order)]


def _fault(faults: Faults, plan: Plan, chance: random.Random) -> None:
    began = time.monotonic()
    if not plan.faults:
        while time.monotonic() - began < plan.load_s:
            _care(faults)
        return
    count = len(faults.kinds()) if plan.faults == 15 else plan.faults
    first = min(15.0, plan.load_s / 10)
    for at, kind in schedule(
        faults.kinds(), first_s=first, last_s=plan.load_s - 5, count=count, chance=chance
    ):
        while time.monotonic() - began < at:
            _care(faults)
        fault = faults.begin(kind)
        _say(f"{kind}  {fault.what}".rstrip())
    while faults.lasting():
        _care(faults)


def _care(faults: Faults) -> None:
    faults.tick()
    faults.mend()
    time.sleep(0.1)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)
