"""What becomes of a block whose attempt did not succeed."""

from __future__ import annotations

from uuid import uuid4

import pytest

from agentflow.agents import registry
from agentflow.governance.models import User, Workspace
from executions.engine.turns import take_turn
from executions.services import reconcile
from tests import builtins
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.servers import http_server

from .conftest import Start, answer, block, claim, drain, facts, finish, lose_worker, make_due, row, template

LATER = {"initialDelay": 60_000, "jitter": False}


def test_a_transient_failure_is_tried_again_after_its_backoff(run: Start) -> None:
    execution = run(
        template(block("a", retryPolicy=LATER)),
        simulation={"failures": {"a": [{"kind": "transient", "times": 2}]}},
    )
    for _ in range(2):
        assert statuses(execution) == {"a": "ready"}
        make_due(execution)
        drain(execution)
    assert execution.status == "completed"
    attempts = list(row(execution, "a").attempts.order_by("attempt").values_list("attempt", "outcome"))
    assert attempts == [(1, "error"), (2, "error"), (3, "ok")]


def test_a_backoff_is_not_claimed_before_its_time(run: Start) -> None:
    execution = run(
        template(block("a", retryPolicy=LATER)),
        simulation={"failures": {"a": [{"kind": "transient", "times": 1}]}},
    )
    drain(execution)
    assert row(execution, "a").attempt == 1
    assert execution.timers.get(kind="check").due_at <= row(execution, "a").available_at  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["transient", "agent"])
def test_exhausted_attempts_ask_a_person(run: Start, author: User, kind: str) -> None:
    execution = run(
        template(block("a", retryPolicy={"maxRetries": 0}), block("b", "a")),
        simulation={"failures": {"a": [{"kind": kind, "times": 1}]}},
    )
    assert statuses(execution) == {"a": "waiting_human", "b": "blocked"}
    answer(execution, "a", author, response={"action": "retry"})
    assert execution.status == "completed"
    assert row(execution, "a").attempt == 2


def test_a_person_may_give_the_output_of_a_block_that_failed(run: Start, author: User) -> None:
    execution = run(
        template(
            block("a", retryPolicy={"maxRetries": 0}), block("b", "a", input={"got": "${blocks.a.output.x}"})
        ),
        simulation={"failures": {"a": [{"kind": "configuration", "times": 1}]}},
    )
    answer(execution, "a", author, response={"action": "complete", "output": {"x": 7}})
    assert execution.status == "completed"
    assert row(execution, "b").input == {"got": 7}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("skip", {"a": "skipped", "b": "skipped"}),
        ("fail", {"a": "failed", "b": "skipped"}),
    ],
)
def test_a_person_may_skip_a_block_or_let_it_fail(
    run: Start, author: User, action: str, expected: dict[str, str]
) -> None:
    execution = run(
        template(block("a"), block("b", "a")),
        simulation={"failures": {"a": [{"kind": "configuration", "times": 1}]}},
    )
    answer(execution, "a", author, response={"action": action})
    assert statuses(execution) == expected
    assert execution.status == ("failed" if action == "fail" else "completed")


def test_a_policy_may_let_exhausted_attempts_fail(run: Start) -> None:
    execution = run(
        template(
            block("a", retryPolicy={"maxRetries": 0, "onExhausted": "fail"}), block("b", "a"), block("c")
        ),
        simulation={"failures": {"a": [{"kind": "transient", "times": 1}]}},
    )
    assert statuses(execution) == {"a": "failed", "b": "skipped", "c": "completed"}
    assert execution.status == "failed"
    assert execution.error is not None
    assert execution.error["blocks"] == ["a"]


def test_a_critical_failure_is_neither_tried_again_nor_asked_about(run: Start) -> None:
    execution = run(template(block("a")), simulation={"failures": {"a": [{"kind": "critical", "times": 1}]}})
    assert execution.status == "failed"
    assert row(execution, "a").attempt == 1


def test_a_crashing_agent_is_a_failed_attempt_with_a_clear_kind(run: Start) -> None:
    execution = run(template(block("a", agentId="test.crash", retryPolicy={"maxRetries": 0})))
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").error["code"] == "agent_crashed"  # type: ignore[index]


def test_an_effect_of_unknown_outcome_is_not_repeated_unasked(run: Start, author: User) -> None:
    execution = run(template(block("a", agentId="test.unsure", effect="once")))
    assert builtins.calls == ["unsure"]
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").reason == "unknown_outcome"
    answer(execution, "a", author, response={"action": "complete", "output": {"ok": True}})
    assert builtins.calls == ["unsure"]
    assert execution.status == "completed"


@pytest.mark.parametrize(
    ("effect", "reason", "calls"), [("once", "unknown_outcome", 1), ("keyed", "fix", 2), ("pure", "fix", 2)]
)
def test_an_effect_whose_answer_is_not_what_was_promised_is_not_repeated_unasked(
    start: Start, effect: str, reason: str, calls: int
) -> None:
    """It was done, whatever was answered; with one key, or none needed, it is tried again all the same."""
    policy = {"maxRetries": 1, "initialDelay": 0, "jitter": False}
    with http_server() as server:
        server.on("/pay", lambda exchange: exchange.json({"total": "three"}))
        execution = start(
            template(block("a", agentId="teller", toolType=None, effect=effect, retryPolicy=policy))
        )
        AgentFactory.create(
            workspace=execution.workspace,
            agent_id="teller",
            configuration={"url": server.url("/pay"), "method": "POST"},
            effect=effect,
            output_schema={"properties": {"total": {"type": "number"}}},
        )
        Workspace.objects.filter(pk=execution.workspace_id).update(egress_allow=[server.allowed])
        registry.forget()
        drain(execution)
        keys = [exchange.headers["idempotency-key"] for exchange in server.seen]
    a = row(execution, "a")
    assert (a.status, a.reason) == ("waiting_human", reason)
    assert a.error["code"] == "output_schema_mismatch"  # type: ignore[index]
    assert (len(keys), len(set(keys))) == (calls, 1)


def test_an_effect_whose_answer_cannot_be_stored_asks(run: Start) -> None:
    execution = run(template(block("a", agentId="test.nan", effect="once")))
    assert builtins.calls == ["nan"]
    assert (row(execution, "a").status, row(execution, "a").reason) == ("waiting_human", "unknown_outcome")


def test_an_unknown_outcome_fails_the_block_where_its_author_said_so(run: Start) -> None:
    execution = run(template(block("a", agentId="test.unsure", effect="once", onUnknownOutcome="fail")))
    assert execution.status == "failed"
    assert builtins.calls == ["unsure"]


def test_a_choice_that_fits_no_branch_asks_and_names_the_value(run: Start, author: User) -> None:
    choosing = block(
        "a",
        conditions={
            "type": "switch",
            "expression": "input.colour",
            "branches": [{"condition": "red", "nextBlocks": ["b"]}],
        },
    )
    execution = run(template(choosing, block("b")), input={"colour": "blue"})
    assert statuses(execution) == {"a": "waiting_human", "b": "blocked"}
    assert "blue" in row(execution, "a").error["message"]  # type: ignore[index]
    answer(execution, "a", author, response={"action": "skip"})
    assert execution.status == "completed"


def test_an_input_mapping_that_does_not_fit_asks(run: Start) -> None:
    execution = run(template(block("a", input={"x": "${input.absent.deeper}"})))
    assert statuses(execution) == {"a": "waiting_human"}
    assert row(execution, "a").error["kind"] == "configuration"  # type: ignore[index]


def test_a_guard_that_fails_asks_and_can_be_tried_again(run: Start, author: User) -> None:
    execution = run(template(block("a", when="input.absent == 1")))
    assert statuses(execution) == {"a": "waiting_human"}
    answer(execution, "a", author, response={"action": "retry"})
    assert statuses(execution) == {"a": "waiting_human"}  # asked again: nothing has changed
    answer(execution, "a", author, response={"action": "complete", "output": 1})
    assert execution.status == "completed"


def test_a_block_whose_worker_vanished_runs_again(start: Start) -> None:
    execution = start(template(block("a"), block("b", "a")))
    claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    assert row(execution, "a").status == "ready"
    drain(execution)
    assert execution.status == "completed"
    attempts = list(row(execution, "a").attempts.order_by("attempt").values_list("attempt", "outcome"))
    assert attempts == [(1, "rescued"), (2, "ok")]


def test_a_live_lease_is_left_alone(start: Start) -> None:
    execution = start(template(block("a")))
    claim(execution)
    reconcile.look(execution.pk)
    assert row(execution, "a").status == "running"


def test_a_once_block_whose_worker_vanished_asks(start: Start) -> None:
    execution = start(template(block("a", effect="once")))
    claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    assert row(execution, "a").status == "waiting_human"
    assert row(execution, "a").reason == "unknown_outcome"


def test_a_block_that_kills_its_workers_goes_to_a_person(start: Start) -> None:
    execution = start(template(block("a")))
    for _ in range(3):
        claim(execution)
        lose_worker(execution, "a")
        reconcile.look(execution.pk)
    assert row(execution, "a").status == "waiting_human"
    assert row(execution, "a").reason == "poison"


def test_a_result_that_comes_after_the_rescue_is_kept_and_changes_nothing(start: Start) -> None:
    execution = start(template(block("a")))
    stale = claim(execution)
    lose_worker(execution, "a")
    reconcile.look(execution.pk)
    drain(execution)
    finish(execution, stale, output={"late": True})
    a = row(execution, "a")
    assert a.output != {"late": True}
    assert a.late_results.get().output == {"late": True}
    assert a.attempts.count() == 2


def test_what_a_lost_commit_had_claimed_is_taken_up_again(start: Start) -> None:
    """The answer to a commit never came: the turn is repeated, and finds the block it had claimed."""
    execution = start(template(block("a", effect="once"), block("b", "a")))
    walker = uuid4()
    (held,) = take_turn(facts(execution), walker, [], want=1).claims
    (again,) = take_turn(facts(execution), walker, [], want=1, repeated=True).claims
    assert again == held
    assert take_turn(facts(execution), uuid4(), [], want=1, repeated=True).claims == []
