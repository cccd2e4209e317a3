"""What `make bench-recovery` does and how it judges: its workflows, its rules, and forged histories."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check
from bench.fault_plan import (
    KILL_SHARE,
    RULES,
    WORKER_KILLED,
    Attempt,
    History,
    chance,
    hit_share,
    recovered,
    success,
    table,
    violations,
    workflows,
)
from bench.faulty_agent import Agent
from executions.faults.fields import rule_issues
from executions.faults.rules import Rule, Target, draw


@pytest.mark.parametrize("recovers", [True, False])
def test_its_six_workflows_and_its_rules_are_accepted(recovers: bool) -> None:
    found = workflows(recovers=recovers)
    assert len(found) == 6
    for body in found.values():
        assert [issue for issue in check(parse(body)) if issue.severity == "error"] == []
    assert rule_issues(list(RULES)) == []


def test_about_three_tenths_of_the_steps_are_hit_by_each_kind_of_fault() -> None:
    rules = [Rule.of(rule) for rule in RULES]
    target = Target("t", "a", "doer", "API", 1)
    drawn = [draw(rules, "recovery", target, f"bench-{n}:a:0:0:1:1") for n in range(4000)]
    killed = [chance("recovery", operation=f"x{n}:a:0:0") < KILL_SHARE for n in range(4000)]
    assert {each.rule for each in drawn if each} == set(range(1, len(RULES) + 1))
    hit = sum(map(bool, drawn)) / 4000 + sum(killed) / 4000
    assert 0.26 < hit < 0.34


def tried(number: int, cause: str, began: float, ended: float, step: str = "a:0") -> Attempt:
    return Attempt("x", step, number, cause, began, ended)


GOOD = History(
    statuses={"x": "completed"},
    completed={"x:a:0"},
    effects=["x:a:0:0"],
    attempts=[tried(1, "injected: transient", 0, 1), tried(2, "", 2, 4)],
)


def test_a_good_history_has_nothing_against_it() -> None:
    assert violations(GOOD) == []
    assert (success(GOOD), hit_share(GOOD)) == (1.0, 1.0)
    assert "at least 95 %: met" in table(GOOD, GOOD)


@pytest.mark.parametrize(
    ("effects", "completed", "said"),
    [
        (["x:a:0:0", "x:a:0:0"], {"x:a:0"}, "x:a:0:0 was done 2 times"),
        (["x:a:0:0", "x:a:0:1"], {"x:a:0"}, "x:a:0 was done under 2 keys"),
        ([], {"x:a:0"}, "x:a:0 completed and was never done"),
    ],
)
def test_a_forged_history_is_found_out(effects: list[str], completed: set[str], said: str) -> None:
    assert violations(History(effects=effects, completed=completed)) == [said]


def test_the_agent_pays_as_often_as_it_is_called_and_does_the_rest_once_per_key(tmp_path: Path) -> None:
    keys = ["x:a:0:0", "x:pay:0:0"]

    async def call_each_twice(agent: Agent) -> None:
        server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for key in keys * 2:
                writer.write(f"POST /do HTTP/1.1\r\nidempotency-key: {key}\r\n\r\n".encode())
                assert b"200 OK" in await reader.readuntil(b"}")
            writer.close()

    file = tmp_path / "effects"
    asyncio.run(call_each_twice(Agent(file, "seed", share=0)))
    effects = file.read_text().splitlines()
    assert sorted(effects) == ["x:a:0:0", "x:pay:0:0", "x:pay:0:0"]
    assert violations(History(effects=effects)) == ["x:pay:0:0 was done 2 times"]


def test_how_long_it_took_counts_from_the_first_failure_to_the_first_good_attempt() -> None:
    attempts = [
        *GOOD.attempts,
        tried(1, WORKER_KILLED, 10, 40, "b:0"),
        tried(2, "timeout", 41, 42, "b:0"),
        tried(3, "", 43, 45, "b:0"),
        tried(1, "injected: configuration", 0, 1, "c:0"),
    ]
    found = recovered(attempts)
    assert (found["injected: transient"].mean_s, found[WORKER_KILLED].mean_s) == (3, 35)
    lost = found["injected: configuration"]
    assert (lost.hit, lost.through) == (1, 0)


def test_too_few_that_completed_miss_the_aim() -> None:
    statuses = {str(n): "completed" if n < 90 else "failed" for n in range(100)}
    assert "at least 95 %: missed" in table(History(statuses=statuses), GOOD)
