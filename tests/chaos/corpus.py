"""What the rig runs: templates that together go through every state, every way to go on and every tool kind.

What they leave out is in `coverage`.  Models, tools, several people and recovery's ladders are in `assisted`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import assisted
from .blocks import QUICK_RETRY, Block, Calls, Case, echo


class Corpus(Calls):
    """The templates, for agents at an address.  `child` is the template that others start."""

    def __init__(self, url: Callable[[str], str], mcp_url: str) -> None:
        super().__init__(url)
        self._mcp_url = mcp_url

    def child(self) -> Case:
        return Case("child", [self.call("c1"), self.call("c2", "c1")])

    def cases(self, child_id: str) -> list[Case]:
        return [
            self._linear(),
            self._diamond(),
            self._choice(),
            self._retried(),
            self._asked(),
            self._parent(child_id),
            self._loop(),
            self._items(),
            self._waits(),
            self._races(),
            self._once(),
            self._caught(),
            self._tools(),
            self._commanded(),
            self._restarted(),
            self._repaired(),
            self._in_line(),
            self._answered_later(),
            self._undone(),
            self._undone_on_demand(),
            self._marked(),
            *assisted.cases(self, self._mcp_url),
            self._wide(50, 6),
            self._wide(1000, 0),
        ]

    def _linear(self) -> Case:
        chain = [self.call(f"l{n}", *([f"l{n - 1}"] if n else [])) for n in range(5)]
        return Case("linear of 5", chain, 50)

    def _diamond(self) -> Case:
        sides = [self.call("left", "top"), self.call("right", "top", path="/slow")]
        return Case("diamond", [self.call("top"), *sides, echo("bottom", "left", "right")], 30)

    def _choice(self) -> Case:
        """One branch is skipped, the join behind both runs."""
        conditions = {
            "type": "if",
            "branches": [
                {"condition": "input.number > 50", "nextBlocks": ["high"]},
                {"condition": "default", "nextBlocks": ["low"]},
            ],
        }
        blocks = [
            self.call("score", conditions=conditions),
            self.call("high", "score"),
            self.call("low", "score"),
            echo("join", "high", "low"),
        ]
        return Case("conditional with a skipped branch", blocks, 20)

    def _retried(self) -> Case:
        failing = {**QUICK_RETRY, "onExhausted": "fail"}
        refused = self.call("hopeless", "f2", path="/broken", retryPolicy=failing, onError="continue")
        blocks = [
            self.call("f1", path="/flaky"),
            self.call("f2", "f1", path="/flaky"),
            refused,
            echo("e", "hopeless"),
        ]
        return Case("retries", blocks, 18)

    def _asked(self) -> Case:
        """Approvals, an input, and one that nobody answers in time."""
        blocks = [
            self.call("pay", humanInLoop={"type": "approval", "title": "Pay?", "onReject": "skip"}),
            {"blockId": "form", "humanInLoop": {"type": "input", "title": "Which?"}},
            self.call(
                "late",
                humanInLoop={"type": "approval", "title": "Ignored", "timeout": 2000},
                onError="continue",
            ),
            echo("end", "pay", "form", "late"),
        ]
        return Case("questions to people", blocks, 12, settings={"maxParallelBlocks": 3})

    def _parent(self, child_id: str) -> Case:
        sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": child_id}}
        return Case(
            "sub-workflow",
            [self.call("before"), {**sub, "dependencies": ["before"]}, self.call("after", "sub")],
            12,
        )

    def _loop(self) -> Case:
        again = self.call("again", repeat={"until": "index >= 3", "maxIterations": 5})
        return Case("repeat", [again, self.call("done", "again")], 8)

    def _items(self) -> Case:
        each = self.call("each", forEach={"items": "input.items", "maxConcurrency": 4})
        return Case("forEach", [each, echo("sum", "each")], 9, input={"items": list(range(10))})

    def _waits(self) -> Case:
        told = {
            "blockId": "told",
            "wait": {"event": "chaos.told", "correlation": "input.number"},
            "dependencies": ["nap"],
        }
        asked = self.call(
            "asked", "nap", wait={"seconds": 1}, humanInLoop={"type": "approval", "onReject": "skip"}
        )
        vain: Block = {"blockId": "vain", "wait": {"event": "chaos.never"}, "timeout": 2000}
        vain |= {"dependencies": ["nap"], "onError": "continue"}
        after = self.call("after", "told", "asked", "vain")
        blocks = [echo("nap", wait={"seconds": 1}), told, asked, vain, after]
        return Case("waits for a moment and an event", blocks, 8, "tell")

    def _races(self) -> Case:
        runners = [self.call(f"r{n}", path="/slow" if n else "/keyed", effect="pure") for n in range(3)]
        unasked: Block = {
            "blockId": "unasked",
            "humanInLoop": {"type": "approval", "title": "Ignored", "timeout": 600_000},
        }
        never: Block = {"blockId": "never", "wait": {"seconds": 3000}}
        first = echo("first", "r0", "r1", "unasked", "never", join="any")
        blocks = [*runners, unasked, never, first, echo("two", "r1", "r2", join={"atLeast": 1})]
        return Case("races", blocks, 8, settings={"maxParallelBlocks": 5})

    def _once(self) -> Case:
        """Effects that must not be repeated: whoever answers looks into the ledger first."""
        return Case(
            "once",
            [
                self.call("o1", path="/once", effect="once"),
                self.call("o2", "o1", path="/once", effect="once"),
            ],
            10,
        )

    def _caught(self) -> Case:
        failing = {"maxRetries": 0, "onExhausted": "fail"}
        blocks = [
            self.call("bad", path="/broken", retryPolicy=failing),
            self.call("behind", "bad"),
            self.call("catch", "behind", runOn="failure"),
            self.call("tidy", "catch", runOn="always", end="completed"),
            echo("cut", wait={"seconds": 2000}),
        ]
        return Case("caught failure and an early end", blocks, 6)

    def _tools(self) -> Case:
        model: Block = {
            "blockId": "model",
            "toolType": "LLM",
            "configuration": {"prompt": "Say well."},
            "effect": "pure",
        }
        script: Block = {
            "blockId": "script",
            "toolType": "Script",
            "configuration": {"script": "double"},
            "effect": "pure",
        }
        script["dependencies"] = ["model"]
        return Case("a language model and a script", [model, script], 5)

    def _commanded(self) -> Case:
        chain = [self.call(f"s{n}", *([f"s{n - 1}"] if n else []), path="/slow") for n in range(4)]
        return Case("paused, resumed, cancelled", chain, 8, "pause")

    def _restarted(self) -> Case:
        chain = [self.call(f"s{n}", *([f"s{n - 1}"] if n else []), path="/slow") for n in range(3)]
        return Case("cancelled and restarted", chain, 5, "restart")

    def _repaired(self) -> Case:
        failing = {"maxRetries": 0, "onExhausted": "fail"}
        stuck = {
            "blockId": "stuck",
            "humanInLoop": {"type": "approval", "title": "Ignored", "timeout": 600_000},
        }
        nap = {"blockId": "nap", "wait": {"seconds": 3000}}
        blocks = [
            self.call("bad", path="/broken", retryPolicy=failing),
            stuck,
            nap,
            echo("end", "bad", "stuck", "nap"),
        ]
        return Case("mended by hand", blocks, 4, "repair")

    def _in_line(self) -> Case:
        """Two of these executions at a time, and in all of them one such call at a time."""
        one = {"key": "till", "limit": 1}
        approval = {"type": "approval", "onReject": "skip"}
        calls = [
            self.call("first", concurrency=one),
            self.call("second", concurrency=one, wait={"seconds": 1}),
            self.call("third", concurrency=one, humanInLoop=approval),
        ]
        return Case("in line", calls, 8, settings={"concurrency": {"key": "chaos", "limit": 2}})

    def _answered_later(self) -> Case:
        jobs = [self.call(f"job{n}", path="/later") for n in range(2)]
        for job in jobs:
            job["configuration"]["callback"] = {"timeout": 60_000}
        return Case("callbacks", [*jobs, self.call("after", "job0", "job1")], 8)

    def _undone(self) -> Case:
        """The last step fails, and what was done is undone in reverse, one by a call that fails at first."""
        failing = {"maxRetries": 0, "onExhausted": "fail"}
        booked = [
            self.booked("b0"),
            self.booked("b1", "b0", path="/flaky"),
            self.booked("b2", "b0", path="/slow"),
        ]
        return Case(
            "undone after a failure",
            [*booked, self.call("bad", "b1", "b2", path="/broken", retryPolicy=failing)],
            8,
        )

    def _undone_on_demand(self) -> Case:
        chain = [self.booked(f"b{n}", *([f"b{n - 1}"] if n else []), path="/slow") for n in range(3)]
        stuck: Block = {"blockId": "stuck", "wait": {"seconds": 3000}, "dependencies": ["b2"]}
        return Case("cancelled and undone", [*chain, stuck], 5, "undo")

    def _marked(self) -> Case:
        """Once it has ended it goes back to a recovery point."""
        chain = [self.call(f"m{n}", *([f"m{n - 1}"] if n else []), checkpoint=n == 1) for n in range(4)]
        return Case("gone back to a recovery point", chain, 6, "go_back")

    def _wide(self, width: int, weight: int) -> Case:
        if width < 1000:
            arms = [self.call(f"w{n}", "root") for n in range(width)]
        else:
            arms = [echo(f"w{n}", "root") for n in range(width)]
        blocks = [echo("root"), *arms, echo("join", *(arm["blockId"] for arm in arms))]
        return Case(f"{width} wide", blocks, weight, settings={"maxParallelBlocks": 8})
