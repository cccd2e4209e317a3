"""Choosing against naming: simulated agents whose speed, failures and limits change over time.

The same calls in the same order, by a clock of the simulation's own: once as templates that name their
agent send them, each kind of work to one of the three that were best at the start, and once as `matching`
chooses, with the limits of the agents and a window of what was seen of them.  A failed call is tried again,
up to three times: named, with the same agent; chosen, with the next best.

    python -m bench.agents
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from statistics import median

from agentflow.agents.matching import Candidate, Measured, Requirements, Skill, rank

AGENTS, KINDS, CALLS, RATE = 12, 8, 3_000, 70.0  # calls a second
CHANGES_S = 15.0
SEEDS = range(1, 9)
TRIES = 3
WINDOW = 200
ASKED = Requirements(capabilities=("work",))


@dataclass
class Agent:
    """How it is just now; `queue` are the calls that wait for it alone."""

    name: str
    concurrency: int
    mean_s: float
    fails: float
    busy: int = 0
    busy_s: float = 0.0
    capacity_s: float = 0.0
    since: float = 0.0
    queue: deque[Call] = field(default_factory=deque)
    seen: deque[tuple[bool, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def change(self, now: float, dice: random.Random) -> None:
        self.account(now)
        self.concurrency = dice.choice((2, 4, 6, 8, 12))
        self.mean_s = dice.choice((0.2, 0.4, 0.8, 1.5))
        self.fails = dice.choice((0.01, 0.02, 0.05, 0.05, 0.3))

    def account(self, now: float) -> None:
        spent = now - self.since
        self.busy_s += min(self.busy, self.concurrency) * spent
        self.capacity_s += self.concurrency * spent
        self.since = now

    def measured(self) -> Measured:
        good = sum(ok for ok, _ in self.seen)
        mean = sum(s for _, s in self.seen) / len(self.seen) if self.seen else 0.0
        mean_ms = mean * 1000 if self.seen else None
        return Measured(good, len(self.seen) - good, mean_ms, held=self.busy, waiting=len(self.queue))

    def truth(self) -> Measured:
        good = 1000 * (1 - self.fails)
        return Measured(good, 1000 - good, self.mean_s * 1000, held=self.busy, waiting=len(self.queue))


@dataclass
class Call:
    asked_at: float
    kind: int
    tries: int = 0
    failed: frozenset[str] = frozenset()


@dataclass
class Result:
    success: float
    first_success: float
    mean_wait_s: float
    utilisation: float
    seconds: float
    best: float  # success of whoever failed least at each moment


def simulate(seed: int, *, choose: bool, told: bool = False) -> Result:
    """`told`: the rule sees how each agent is just now, as nobody can; what it then reaches is the most."""
    dice, luck = random.Random(seed), random.Random(seed + 1)
    agents = {name: Agent(name, 1, 1.0, 0.0) for name in (f"agent-{n}" for n in range(AGENTS))}
    for each in agents.values():
        each.change(0.0, dice)
    named = sorted(agents.values(), key=lambda a: (a.fails, a.mean_s / a.concurrency))[:3]
    events: list[tuple[float, int, str, Agent | None, Call | None, float]] = []
    number = count()
    at = 0.0
    for n in range(CALLS):
        at += luck.expovariate(RATE)
        heapq.heappush(events, (at, next(number), "call", None, Call(at, n % KINDS), 0.0))
    for n in range(1, int(at / CHANGES_S) + 1):
        heapq.heappush(events, (n * CHANGES_S, next(number), "change", None, None, 0.0))
    waits: list[float] = []
    done = firsts = failed = 0
    best: list[float] = []
    waiting: deque[Call] = deque()  # of chosen calls, while none is free
    now = 0.0

    def begin(agent: Agent, call: Call) -> None:
        agent.account(now)
        agent.busy += 1
        waits.append(now - call.asked_at)
        took = luck.expovariate(1 / agent.mean_s)
        heapq.heappush(events, (now + took, next(number), "end", agent, call, took))

    def free() -> bool:
        return any(agent.busy < agent.concurrency for agent in agents.values())

    def send(call: Call) -> None:
        if not choose:
            agent = named[call.kind % len(named)]
            if agent.busy < agent.concurrency:
                begin(agent, call)
            else:
                agent.queue.append(call)
            return
        if not free():
            waiting.append(call)
            return
        skills = {"work": Skill("work")}
        candidates = [Candidate(a.name, skills, concurrency=a.concurrency) for a in agents.values()]
        seen = {a.name: a.truth() if told else a.measured() for a in agents.values()}
        best = rank(ASKED, candidates, measured=seen, exclude=call.failed).best
        if best is None:
            best = rank(ASKED, candidates, measured=seen).best
        assert best is not None
        chosen = agents[best.agent_id]
        if chosen.busy < chosen.concurrency:
            begin(chosen, call)
        else:
            waiting.append(call)

    while events:
        now, _, what, at_work, call, took = heapq.heappop(events)
        if what == "call" and call is not None:
            send(call)
        elif what == "change":
            best.append(1 - min(each.fails for each in agents.values()))
            for each in agents.values():
                if dice.random() < 0.3:
                    each.change(now, dice)
        elif at_work is not None and call is not None:
            agent = at_work
            agent.account(now)
            agent.busy -= 1
            ok = luck.random() >= agent.fails
            agent.seen.append((ok, took))
            if ok:
                done += 1
                firsts += call.tries == 0
            elif call.tries + 1 < TRIES:
                send(Call(now, call.kind, call.tries + 1, call.failed | {agent.name}))
            else:
                failed += 1
            if agent.queue and agent.busy < agent.concurrency:
                begin(agent, agent.queue.popleft())
        while waiting:
            left = len(waiting)
            send(waiting.popleft())
            if len(waiting) == left:  # nobody is free that is good enough
                waiting.rotate(1)
                break
    for each in agents.values():
        each.account(now)
    utilisation = sum(a.busy_s for a in agents.values()) / sum(a.capacity_s for a in agents.values())
    wait_s = sum(waits) / len(waits)
    return Result(done / (done + failed), firsts / CALLS, wait_s, utilisation, now, sum(best) / len(best))


def main() -> None:
    print(f"{CALLS:,} calls, {AGENTS} agents that change every {CHANGES_S:g} s")
    print(f"{'seed':>4}  {'':8} {'success':>8} {'1st try':>8} {'mean wait':>10} {'in use':>7} {'done in':>9}")
    ratios, below = [], []
    for seed in SEEDS:
        static = simulate(seed, choose=False)
        ours, most = simulate(seed, choose=True), simulate(seed, choose=True, told=True)
        for name, found in (("named", static), ("chosen", ours), ("told all", most)):
            print(
                f"{seed:>4}  {name:8} {found.success:>8.2%} {found.first_success:>8.2%}"
                f" {found.mean_wait_s:>8.2f} s {found.utilisation:>7.1%} {found.seconds:>7.0f} s"
            )
        ratios.append(ours.utilisation / static.utilisation)
        below.append(ours.best - ours.first_success)
        print(
            f"      in use: {ratios[-1]:.1f} times as much (aim: 3); first tries"
            f" {below[-1]:.1%} below the best agent's {ours.best:.1%} (aim: 5 %)"
        )
    print(
        f"median: {median(ratios):.1f} times as much in use, first tries {median(below):.1%} below the best"
    )


if __name__ == "__main__":
    main()
