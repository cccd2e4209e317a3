"""What strategies came to is counted once, shown, and orders ladders that let themselves be ordered."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from agentflow.agents import registry
from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from executions.learning import counting
from executions.learning.models import StrategyTally
from executions.models import Execution
from executions.services import measuring
from tests.executions.conftest import Start, answer, block, template
from tests.executions.recovery.test_strategies import SOON, until_it_waits, went
from tests.executions.recovery.test_timeline import flow
from tests.factories.governance import WorkspaceFactory, client_of, member
from tests.work import statements

LADDER: JSONObject = {"agent": ["retry", "reassign", "ask"], "alternatives": ["test.big"]}
CRASHES: JSONObject = {"agentId": "test.crash", "retryPolicy": SOON}


def counted() -> list[tuple[bool, str, str, int, int, int]]:
    """Of a template or not, code, strategy, taken, tries, recovered."""
    return sorted(
        (row.template_id is not None, row.code, row.strategy, row.taken, row.tries, row.recovered)
        for row in StrategyTally.objects.all()
    )


def count_all() -> None:
    measuring.measure()  # sees how far there is something

    def clock(_: int) -> None:
        measuring.measure()
        connection.close()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(clock, range(4)))


def test_each_decision_and_its_result_is_counted_once_however_many_clocks_count(
    run: Start, author: User
) -> None:
    execution = run(template(block("a", **CRASHES, recovery=LADDER)))
    until_it_waits(execution)
    assert went(execution) == [("test.crash", "retry"), ("test.crash", "reassign"), ("test.big", None)]
    asked = run(template(block("a", agentId="test.crash", recovery={"agent": ["ask"]})))
    run(
        template(block("a", **CRASHES, recovery=LADDER)),
        simulation={"failures": {"a": [{"times": 1, "kind": "agent"}]}},
    )
    count_all()
    crash = "agent_crashed"
    once = [("ask", 0, 0), ("reassign", 1, 1), ("retry", 1, 0)]  # nobody has answered yet
    assert counted() == sorted(
        (scope, crash, name, 1, *came) for scope in (True, False) for name, *came in once
    )
    answer(asked, "a", author, response={"action": "retry"})
    count_all()
    assert (False, crash, "ask", 2, 1, 0) in counted()


def known(execution: Execution, week: date | None = None, **results: tuple[int, int]) -> None:
    """Say that so many of so many tries of a strategy helped."""
    monday = timezone.now().date() - timedelta(days=timezone.now().weekday())
    for strategy, (recovered, tries) in results.items():
        StrategyTally.objects.create(
            workspace=execution.workspace,
            template=execution.template_version.template,
            cause="agent",
            code="agent_crashed",
            strategy=strategy,
            week=week or monday,
            taken=tries,
            tries=tries,
            recovered=recovered,
            seconds=tries,
        )
    registry.forget()


def test_a_ladder_that_adapts_begins_with_what_helped_and_says_so(start: Start, client: Any) -> None:
    adaptive = {**LADDER, "adaptive": True}
    execution = start(template(block("a", **CRASHES, recovery=adaptive)))
    known(execution, retry=(1, 40), reassign=(38, 40))
    until_it_waits(execution)
    assert went(execution) == [("test.crash", "reassign"), ("test.big", None)]
    learned = flow(execution)[0]["strategy"]["learned"]
    assert (learned["written"][:2], learned["order"][:2]) == (["retry", "reassign"], ["reassign", "retry"])
    assert learned["results"]["retry"] == {"tries": 40, "recovered": 1, "meanSeconds": 1.0}
    client.force_login(member(execution.workspace, Role.VIEWER))
    page = client.get(f"/executions/{execution.pk}/healing").content.decode()
    assert "Order learned from agent_crashed failures of the template: reassign helped in 38 of 40" in page


def test_a_ladder_that_does_not_adapt_or_whose_evidence_is_old_stays_as_it_is_written(start: Start) -> None:
    for adaptive, week in ((None, None), (True, timezone.now().date() - timedelta(weeks=6))):
        execution = start(template(block("a", **CRASHES, recovery={**LADDER, "adaptive": adaptive})))
        known(execution, week, retry=(1, 40), reassign=(38, 40))
        until_it_waits(execution)
        assert [strategy for _, strategy in went(execution)] == ["retry", "reassign", None]


def test_what_was_learned_costs_one_statement_that_is_kept_for_a_moment(start: Start) -> None:
    with_it, without = (
        start(template(*(block(name, **CRASHES, recovery={**LADDER, **more}) for name in "ab")))
        for more in ({"adaptive": True}, {})
    )
    registry.forget()
    counts = []
    for execution in (with_it, without):
        asked, _ = statements(functools.partial(until_it_waits, execution))
        counts.append(sum("strategytally" in statement for statement in asked))
    assert counts == [1, 0]


def test_the_results_of_strategies_are_shown_to_those_who_may_see_them(start: Start, client: Any) -> None:
    execution = start(template(block("a")))
    known(execution, retry=(10, 40))
    known(execution, timezone.now().date() - timedelta(weeks=5), retry=(40, 40))
    reader = member(execution.workspace, Role.VIEWER)
    path = "/api/v1/recovery-strategies"
    of_template: dict[str, str] = {"templateId": str(execution.template_version.template_id)}
    told = client_of(reader).get(path, of_template).json()
    assert told["total"] == 1
    assert told["strategies"][0] == {
        "workspaceId": str(execution.workspace_id),
        **of_template,
        "cause": "agent",
        "code": "agent_crashed",
        "strategy": "retry",
        "taken": 40,
        "tries": 40,
        "recovered": 10,
        "successRate": 0.25,
        "meanSeconds": 1.0,
    }
    assert (
        client_of(reader).get(path, {**of_template, "weeks": "12"}).json()["strategies"][0]["recovered"] == 50
    )
    assert client_of(reader).get(path).json()["total"] == 0  # nothing of all templates together
    assert (
        client_of(member(WorkspaceFactory.create(), Role.ADMIN)).get(path, of_template).json()["total"] == 0
    )
    for name, bad in (("weeks", "0"), ("cause", "weather"), ("templateId", "x")):
        refused = client_of(reader).get(path, {name: bad})
        assert (refused.status_code, refused.json()["issues"][0]["pointer"]) == (400, f"?{name}")
    client.force_login(member(execution.workspace, Role.OPERATOR, is_staff=True))
    page = client.get("/admin/executions/strategytally/").content.decode()
    assert "10 of 40 (25%)" in page
    StrategyTally.objects.filter(recovered=40).update(week=timezone.now().date() - timedelta(weeks=13))
    assert counting.purge() == 1


def test_codes_beyond_the_most_that_are_told_apart_are_counted_as_other(start: Start) -> None:
    execution = start(template(block("a")))
    workspace, template_id = execution.workspace_id, execution.template_version.template_id
    week = timezone.now().date()
    for first in (0, 30):
        rows: Any = [
            (workspace, template_id, week, "agent", f"c{n}", "retry", 1, 1, 0, 1.0)
            for n in range(first, first + 40)
        ]
        counting._merge(rows)
    codes = set(StrategyTally.objects.filter(template=template_id).values_list("code", flat=True))
    assert len(codes) == counting.MOST_CODES + 1
    assert StrategyTally.objects.get(template=template_id, code="other").taken == 20
    assert StrategyTally.objects.get(template=template_id, code="c35").taken == 2
