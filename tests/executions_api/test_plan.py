"""GET executions/{id}/plan."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from executions.models import BlockAttempt, Execution
from tests.factories.executions import ExecutionFactory
from tests.factories.governance import client_of

from .conftest import URL, Team

START = datetime(2026, 1, 1, tzinfo=UTC)


def plan_of(by: Any, execution: Execution) -> Any:
    return client_of(by).get(f"{URL}/{execution.pk}/plan").json()


def took(execution: Execution, **seconds: float) -> None:
    """Attempts of these blocks that took so long."""
    for row in execution.blocks.filter(block_id__in=seconds):
        BlockAttempt.objects.create(
            block=row,
            attempt=1,
            outcome="ok",
            started_at=START,
            ended_at=START + timedelta(seconds=seconds[row.block_id]),
        )


def test_the_plan_groups_what_is_left_by_level(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace,
        graph="a -> b -> d, a -> c -> d -> e, x",
        completed=["a"],
        running=["b", "c"],
    )
    plan = plan_of(team.viewer, execution)
    assert (plan["ready"], plan["running"], plan["next"]) == (["x"], ["b", "c"], ["d"])
    assert plan["parallelGroups"] == [["b", "c", "x"], ["d"], ["e"]]
    assert plan["progress"]["settled"] == 1
    assert plan["progress"]["total"] == 6
    assert (plan["status"], plan["epoch"]) == ("running", 1)


def test_a_block_is_not_next_while_it_waits_for_one_that_does_not_run(team: Team) -> None:
    execution = ExecutionFactory.create(
        workspace=team.workspace, graph="a -> c, b -> c", running=["a"], waiting_human=["b"]
    )
    plan = plan_of(team.viewer, execution)
    assert (plan["waiting"], plan["next"]) == (["b"], [])


def test_a_partial_join_is_next_when_enough_runs(team: Team) -> None:
    definition = {
        "name": "race",
        "blocks": [
            {"blockId": "a", "agentId": "builtin.echo"},
            {"blockId": "b", "agentId": "builtin.echo"},
            {"blockId": "j", "agentId": "builtin.echo", "dependencies": ["a", "b"], "join": "any"},
        ],
    }
    execution = ExecutionFactory.create(workspace=team.workspace, definition=definition, running=["a"])
    assert plan_of(team.viewer, execution)["next"] == ["j"]


def test_progress_is_weighed_by_what_blocks_usually_take(team: Team) -> None:
    before = ExecutionFactory.create(
        workspace=team.workspace, graph="a -> b -> c", status="completed", completed=["a", "b", "c"]
    )
    took(before, a=9.0, b=0.5, c=0.5)
    execution = ExecutionFactory.create(
        template_version=before.template_version, completed=["a"], running=["b"]
    )
    progress = plan_of(team.viewer, execution)["progress"]
    assert progress == {"settled": 1, "total": 3, "weighted": 0.9, "remainingMs": 1000}


def test_what_has_ended_has_nothing_left(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace, status="completed", completed=["a", "b"])
    plan = plan_of(team.viewer, execution)
    assert (plan["parallelGroups"], plan["next"]) == ([], [])
    assert plan["progress"] == {"settled": 2, "total": 2, "weighted": 1.0, "remainingMs": 0}


def test_a_plan_is_for_those_who_may_see_the_execution(team: Team) -> None:
    execution = ExecutionFactory.create(workspace=team.workspace)
    assert client_of(team.stranger).get(f"{URL}/{execution.pk}/plan").status_code == 404
    assert client_of(None).get(f"{URL}/{execution.pk}/plan").status_code == 401


def test_a_plan_costs_the_same_however_many_blocks(team: Team, django_assert_max_num_queries: Any) -> None:
    wide = ExecutionFactory.create(
        workspace=team.workspace, graph=", ".join(f"a -> b{n}" for n in range(60)), running=["a"]
    )
    client = client_of(team.viewer)
    with django_assert_max_num_queries(10):
        assert len(client.get(f"{URL}/{wide.pk}/plan").json()["next"]) == 60
