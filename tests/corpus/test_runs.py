"""Every published workflow on the real worker, every way through its choices.

What ran and what was skipped is held against the plain interpreter and against what the corpus's
own facts say; the blocks' times against their dependencies.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.outside import Client, make_client
from tests.reference import fails, interpret
from tests.service import Service

from .conftest import Corpus, Workflow, every_file

pytestmark = pytest.mark.corpus

BOUND_S = 90.0  # of one execution; a machine may be slow, a run may not hang
LARGE = 1000  # blocks; of so many the time a run took is shown


@pytest.fixture(scope="module")
def client(service: Service) -> Client:
    return make_client(service)


@dataclass(frozen=True)
class Way:
    """One way through a workflow: its choices, guards and people's answers."""

    choices: dict[str, Any]
    guards: dict[str, bool]
    approved: bool = True
    scenario: dict[str, Any] | None = None  # of the facts


def ways(workflow: Workflow) -> Iterator[Way]:
    """The facts' scenarios, else every branch of every choice; guards that hold, fail and alternate."""
    guarded = [name for name, block in workflow.blocks.items() if block.get("when")]
    scenarios = workflow.facts["facts"].get("scenarios")
    if scenarios:
        for scenario in scenarios:
            yield Way(scenario["choices"], {}, scenario=scenario)
    else:
        for choices in _every_choice(workflow):
            yield Way(choices, {})
    if guarded:
        yield Way({}, dict.fromkeys(guarded, False))
        for kept in (0, 1):
            yield Way({}, {name: number % 2 == kept for number, name in enumerate(guarded)})
    if any(block.get("humanInLoop") for block in workflow.blocks.values()):
        yield Way({}, {}, approved=False)


def _every_choice(workflow: Workflow) -> Iterator[dict[str, Any]]:
    options: list[list[tuple[str, Any]]] = []
    for name, block in workflow.blocks.items():
        conditions = block.get("conditions")
        if conditions:
            texts = [branch["condition"] for branch in conditions["branches"]]
            inclusive = conditions["type"] == "inclusive"
            options.append([(name, [text] if inclusive else text) for text in texts])
    for taken in itertools.product(*options):
        yield dict(taken)


def answers(workflow: Workflow, *, approved: bool) -> dict[str, Any]:
    return {
        name: {"approved": approved, "response": {"decided": name}}
        for name, block in workflow.blocks.items()
        if block.get("humanInLoop")
    }


@pytest.mark.parametrize("path", every_file())
def test_a_published_workflow_runs_as_its_facts_say(
    path: Path, corpus: Corpus, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = corpus.workflow(path)
    counted = workflow.facts["converted"]
    edges = sum(len(block["dependencies"]) for block in workflow.template["blocks"])
    assert (len(workflow.blocks), edges) == (counted["blocks"], counted["edges"])
    assert len(workflow.synthetic) == counted["synthetic"]
    template_id = client.create(workflow.template)
    for way in ways(workflow):
        took_s = run(client, template_id, workflow, way)
        if len(workflow.blocks) >= LARGE:
            with capsys.disabled():
                print(f"\n{path.stem}: {len(workflow.blocks)} blocks in {took_s:.2f} s at scale 0")


def run(client: Client, template_id: str, workflow: Workflow, way: Way) -> float:
    """Start, wait, compare; the seconds from the request to the end."""
    given = {"choices": way.choices, "guards": way.guards}
    script = answers(workflow, approved=way.approved)
    began = time.monotonic()
    execution_id = client.start(template_id, input=given, simulation={"scale": 0, "answers": script})
    execution = client.ended(execution_id, BOUND_S)
    took_s = time.monotonic() - began
    blocks = {block["blockId"]: block for block in execution["blockExecutions"]}
    statuses = {name: block["status"] for name, block in blocks.items()}
    expected = interpret(workflow.template, run_input=given, answers=script)
    if way.scenario and way.scenario["ends_early"]:
        assert {n for n, s in statuses.items() if s == "completed"} <= {
            n for n, s in expected.items() if s == "completed"
        }
    else:
        assert statuses == expected
        assert execution["status"] == ("failed" if fails(workflow.template, expected) else "completed")
        assert execution["progress"] == {"settled": len(blocks), "total": len(blocks)}
    if way.scenario:
        compare_with_facts(workflow, statuses, way.scenario)
    check_history(workflow, blocks)
    return took_s


def compare_with_facts(workflow: Workflow, statuses: dict[str, str], scenario: dict[str, Any]) -> None:
    """Facts know the source's own steps only, and of a run that ends early what may not run."""
    ran = {name for name, status in statuses.items() if status == "completed"} - workflow.synthetic
    assert ran.isdisjoint(scenario["not_run"])
    if scenario["ends_early"]:
        assert ran <= set(scenario["runs"])
    else:
        assert ran == set(scenario["runs"])
        assert {name for name, status in statuses.items() if status == "skipped"} - workflow.synthetic == set(
            scenario["not_run"]
        )


def check_history(workflow: Workflow, blocks: dict[str, dict[str, Any]]) -> None:
    """Each block was called once at most, and never before all it depends on had settled."""
    called = {name for name, block in workflow.blocks.items() if block.get("agentId")}
    by_hand = {
        name
        for name, block in workflow.blocks.items()
        if (block.get("humanInLoop") or {}).get("type") == "input"
    }
    for name, block in blocks.items():
        once = int(block["status"] == "completed" and name in called - by_hand)
        assert block["attempt"] == once, (name, block["status"], block["attempt"])
        if block["startedAt"] is None:
            continue
        started = datetime.fromisoformat(block["startedAt"])
        assert started <= datetime.fromisoformat(block["completedAt"])
        for dependency in workflow.blocks[name]["dependencies"]:
            assert datetime.fromisoformat(blocks[dependency]["completedAt"]) <= started, (dependency, name)
