"""One run of the rig: load, faults, the wait for the end, and the verdict."""

from __future__ import annotations

import random
import time
from pathlib import Path

from agentflow.governance.roles import Role
from tests.factories.governance import WorkspaceFactory, member

from . import report, verdict
from .agents import Agents, agents
from .corpus import Case, Corpus
from .faults import Faults, schedule
from .people import Approver, Clients, History, Person
from .plans import RECOVERY_S, Plan
from .rig import Rig

DOUBLE = "import json, sys\nprint(json.dumps({'twice': 2}))\n"


def run(rig: Rig, plan: Plan, *, name: str, seed: int, folder: Path) -> int:
    began = time.time()
    with agents(folder / "ledger.jsonl") as served:
        rig.start_machines(served.server.url("/v1"))
        _say(f"machines ready after {time.time() - began:.0f} s")
        history = History(folder / "history.jsonl")
        person, cases = _prepare(rig, served)
        clients = Clients(person, history, _load(plan, cases, random.Random(seed)))
        approver = Approver(Person(person.username, person.bases), served.ledger, history)
        faults = Faults(rig, random.Random(seed + 1))
        clients.start()
        approver.start()
        _fault(faults, plan, random.Random(seed + 2))
        while not clients.done() and time.time() - began < 2 * plan.load_s + 120:
            _care(faults)
        last = max([fault.over for fault in faults.done] + [time.time()])
        ended = verdict.await_end(until=last + RECOVERY_S + verdict.SLACK_S, care=lambda: _care(faults))
        clients.end(10)
        approver.end()
        wire = rig.wire()
        found = verdict.reach(
            name=name, plan=plan, seed=seed, began=began, last=last, ended=ended, told=history,
            ledger=served.ledger, approver=approver, faults=faults, wire=wire, rig=rig,
        )  # fmt: skip
    report.write(found, folder)
    print(report.as_text(found))
    return 0 if found.holds else 1


def _prepare(rig: Rig, served: Agents) -> tuple[Person, list[tuple[Case, str]]]:
    workspace = WorkspaceFactory.create(egress_allow=[served.server.allowed])
    user = member(workspace, Role.ADMIN, Role.APPROVER)
    person = Person(user.username, [machine.base_url for machine in rig.machines])
    person.post("/scripts", {"name": "double", "source": DOUBLE, "workspaceId": str(workspace.pk)})
    corpus = Corpus(served.server.url)

    def create(case: Case) -> str:
        return str(
            person.post("/templates", {**case.definition, "workspaceId": str(workspace.pk)})["templateId"]
        )

    child = create(corpus.child())
    return person, [(case, create(case)) for case in corpus.cases(child)]


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
