"""The history checker on models with tools, several people and ladders: what was forged is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from executions.incidents import feed
from executions.models import Execution
from executions.services import ticking
from tests.factories.governance import member
from tests.history import check
from tests.llm import ScriptedModel, completion, wants
from tests.servers import Exchange

from .conftest import Start, answer, drain, make_due
from .recovery.test_strategies import going_back
from .test_agent_loop import FIRST
from .test_agent_loop import helped as helped
from .test_agent_loop import model as model
from .test_agent_loop import server as server
from .test_history import Forge, Ledger, named, sql

OF_HELP = "(SELECT id FROM executions_blockexecution WHERE execution_id = RUN AND block_id = 'help')"
REFUND = 5  # the step


@pytest.fixture
def ended(helped: Callable[..., Execution], model: ScriptedModel, author: User) -> Execution:
    """Two people allow the block; its model fails once; a person allows the one tool, the other is free."""

    def fails_once(exchange: Exchange) -> None:
        if model.answered[0] == 1:
            exchange.reply(b"busy", 503)
        else:
            exchange.json(wants(("lookup", {})))

    model.says(fails_once, wants(("refund", FIRST)), completion("Done."))
    tools = {"agentId": "lookup", "policy": "allow"}, {"agentId": "refund", "policy": "ask"}
    human = {"type": "approval", "quorum": 2}
    execution = helped(*tools, humanInLoop=human, retryPolicy={"initialDelay": 0})
    drain(execution)
    for by in (author, member(execution.workspace, Role.APPROVER)):
        answer(execution, "help", by)
    make_due(execution)
    drain(execution)
    answer(execution, "help", author)
    assert execution.status == "completed"
    while feed.count():
        pass
    assert check([execution.pk], at_rest=True) == []
    return execution


def step(number: int, statement: str) -> Forge:
    return sql(f"{statement} WHERE block_id = {OF_HELP} AND number = {number}")


FORGED: dict[str, tuple[str, Forge]] = {
    "a step is missing": ("I4", step(3, "DELETE FROM executions_agentstep")),
    "a step is open, and others came after it": (
        "I4",
        step(3, "UPDATE executions_agentstep SET status = 'begun'"),
    ),
    "it is completed without an answer": ("I4", step(6, "DELETE FROM executions_agentstep")),
    "a step of an attempt that never was": (
        "I4",
        step(6, "UPDATE executions_agentstep SET attempt = attempt + 1"),
    ),
    "one of the two has not agreed": (
        "I9",
        sql(
            "DELETE FROM approvals_approvalvote WHERE id = (SELECT max(v.id) FROM approvals_approvalvote v"
            " JOIN approvals_approval a ON a.id = v.approval_id"
            " WHERE a.execution_id = RUN AND a.kind = 'approval')"
        ),
    ),
    "one of the two has refused": (
        "I9",
        sql(
            "UPDATE approvals_approvalvote SET decision = 'reject' WHERE id = (SELECT min(v.id) FROM"
            " approvals_approvalvote v JOIN approvals_approval a ON a.id = v.approval_id"
            " WHERE a.execution_id = RUN AND a.kind = 'approval')"
        ),
    ),
    "one of the two was barred": (
        "I9",
        sql(
            "UPDATE approvals_approval a SET barred = jsonb_build_object(v.user_id::text, 'own_request')"
            " FROM approvals_approvalvote v WHERE v.approval_id = a.id AND a.execution_id = RUN"
            " AND a.kind = 'approval'"
        ),
    ),
    "a failure is counted twice": (
        "I12",
        sql("UPDATE executions_incidentblock SET failures = failures + 1 WHERE execution_id = RUN"),
    ),
    "a failure that nobody counts": (
        "I12",
        sql("DELETE FROM executions_incidentblock WHERE execution_id = RUN"),
    ),
    "a failure is counted, and noted still": (
        "I12",
        sql(
            "INSERT INTO executions_failurenote (block, fingerprint, failure, at)"
            f" SELECT id, 'f', '{{}}', now() FROM executions_blockexecution WHERE id = {OF_HELP}"
        ),
    ),
    "it has ended well, and is to go back": (
        "I8",
        sql(
            "INSERT INTO executions_timer (kind, key, due_at, tries, progress, execution_id)"
            " VALUES ('recovery', 'recovery:left', now(), 1, 0, RUN)"
        ),
    ),
}


def test_each_forgery_is_named_and_nothing_else(ended: Execution) -> None:
    assert {what: named(ended, forge) for what, (_, forge) in FORGED.items()} == {
        what: {invariant} for what, (invariant, _) in FORGED.items()
    }
    assert check([ended.pk], at_rest=True) == []


def test_the_ledger_is_held_against_the_steps_and_what_people_allowed(ended: Execution) -> None:
    operation = f"{ended.pk}:help:0:0"
    refund, lookup = f"{operation}:step:{REFUND}", f"{operation}:step:3"

    def found(calls: dict[str, int], effects: dict[str, int]) -> list[str]:
        return [violation.invariant for violation in check([ended.pk], ledger=Ledger(calls, effects))]

    assert found({refund: 1, lookup: 2}, {refund: 1, lookup: 1}) == []
    assert found({refund: 2}, {refund: 1}) == ["I5"]  # allowed once, called twice
    assert found({lookup: 2}, {lookup: 2}) == ["I5"]  # done twice
    assert found({refund: 1}, {}) == ["I5"]  # answered and never done
    assert found({f"{operation}:step:9": 1}, {}) == ["I5"]  # a step that no row has
    done = sql(
        'UPDATE approvals_approval SET response = \'{"action": "done"}\''
        " WHERE execution_id = RUN AND kind = 'tool'"
    )
    done(ended)
    assert found({refund: 1}, {refund: 1}) == ["I5"]  # nobody allowed it


def test_what_goes_back_by_itself_is_over_only_when_it_has(start: Start) -> None:
    execution = start(going_back(), input={"n": 1})
    drain(execution)
    assert execution.status == "failed"
    assert check([execution.pk]) == []
    assert [violation.invariant for violation in check([execution.pk], at_rest=True)] == ["I1"]
    ticking.tick()
    drain(execution)
    assert execution.epoch == 2
    assert check([execution.pk], at_rest=True) == []
