"""The benchmark's own checks, and that a run of it works from start to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import blocks, report
from bench.blocks import LOG, BlockLog
from bench.graphs import WORKLOADS, Graph, Node, chain, diamond, expected, fan, grid, layers, sinks
from bench.measuring import perform

ROOT = Path(__file__).resolve().parents[2]


class InThisProcess:
    """Runs the blocks one after another; `twist` is what goes wrong."""

    def __init__(self, twist: Callable[[list[Node]], list[Node]] = list, wrong: int = 0) -> None:
        self.twist = twist
        self.wrong = wrong
        self.values: dict[str, int] = {}

    def prepare(self, name: str, graph: Graph) -> None: ...

    def refresh(self) -> None: ...

    def start(self, name: str, graph: Graph, run: str) -> str:
        for node in self.twist(list(graph)):
            given = [self.values.get(other, 0) for other in node.after]
            self.values[node.name] = blocks.work(run, node.name, node.n, given)
        return run

    def wait(self, handles: Sequence[str], log: BlockLog) -> None: ...

    def answers(self, handle: Any, graph: Graph) -> dict[str, int]:
        return {name: self.values[name] + self.wrong for name in sinks(graph)}


@pytest.fixture(autouse=True)
def block_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "blocks.log"))
    monkeypatch.setattr(blocks, "_log", None)
    monkeypatch.setattr("bench.measuring.SETTLE_S", 0.01)


@pytest.mark.parametrize("name", ["tiny", "tiny-many"])
def test_a_right_run_has_no_problems(name: str) -> None:
    assert perform(InThisProcess(), name, "run")["problems"] == []


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (InThisProcess(lambda nodes: nodes[:1] + nodes), "7 blocks ran, 6 are in the graph"),
        (InThisProcess(lambda nodes: [nodes[0], *nodes[2:]]), "5 blocks ran, 6 are in the graph"),
        (
            InThisProcess(lambda nodes: [nodes[0], nodes[1], nodes[1], *nodes[3:]]),
            "6 blocks ran, 6 are in the graph",
        ),
        (InThisProcess(wrong=1), "wrong answer"),
    ],
    ids=["doubled", "lost", "one for another", "wrong value"],
)
def test_a_wrong_run_is_told(system: InThisProcess, said: str) -> None:
    assert said in perform(system, "tiny", "run")["problems"][0]


def test_graphs_are_what_their_titles_say() -> None:
    assert [len(WORKLOADS[f"W{number}"].make()) for number in range(1, 8)] == [40, 10, 102, 1002, 100, 5, 5]
    assert [len(layer) for layer in layers(grid(10, 10))] == [10] * 10
    assert expected(chain(3)) == {"n2": 3}
    assert expected(fan(4)) == {"sink": 9}  # each of four adds one to the source's one, the sink one more
    assert expected(diamond()) == {"end": 6}


@pytest.mark.load
def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    """Both engines and the web server come up, run two tiny workloads, are checked, and are stopped."""
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--workloads",
        "tiny,tiny-many",
        "--json",
        str(found),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads(found.read_text())
    assert report.comparison(results) in ended.stdout
    assert results["problems"] == []
    for workload in results["workloads"].values():
        for system in ("celery", "agentflow", "http"):
            assert workload["runs"][system][0]["wall_ms"] > 0
            assert results["systems"][system]["memory_mb"]["rss"] > 30
