"""UseCase blocks: a child execution, and a parent that waits as a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentflow.agents import registry
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.models import Execution
from executions.services import control, reconcile, repairing
from templates_app.models import TemplateVersion
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.history import check

from .conftest import Start, answer, block, drain, row, template

VersionOf = Callable[[JSONObject], TemplateVersion]


def calling(version: TemplateVersion, **fields: Any) -> JSONObject:
    return {
        "blockId": "sub",
        "toolType": "UseCase",
        "configuration": {"templateId": str(version.template_id)},
        **fields,
    }


def test_a_sub_workflow_gives_the_outputs_of_its_last_blocks(run: Start, version_of: VersionOf) -> None:
    child = version_of(template(block("x"), block("y", "x"), block("z", "x")))
    execution = run(
        template(block("a"), calling(child, dependencies=["a"]), block("b", "sub")), input={"n": 1}
    )
    assert execution.status == "completed"
    assert row(execution, "sub").output == {"y": {"x": {"a": {"n": 1}}}, "z": {"x": {"a": {"n": 1}}}}
    assert row(execution, "sub").attempts.get().outcome == "ok"
    assert row(execution, "sub").children.get().depth == 1


def test_a_parent_waits_for_the_person_its_child_waits_for(
    run: Start, author: User, version_of: VersionOf
) -> None:
    child = version_of(template(block("x", humanInLoop={"type": "approval"})))
    execution = run(template(calling(child)))
    assert statuses(execution) == {"sub": "waiting_external"}
    answer(row(execution, "sub").children.get(), "x", author)
    drain(execution)
    assert execution.status == "completed"


def test_a_failed_child_fails_the_block_and_says_why(run: Start, author: User, version_of: VersionOf) -> None:
    child = version_of(template(block("x", humanInLoop={"type": "approval"})))
    execution = run(template(calling(child)))
    answer(row(execution, "sub").children.get(), "x", author, approved=False)
    drain(execution)
    assert execution.status == "failed"
    assert row(execution, "sub").error["code"] == "child_failed"  # type: ignore[index]


def test_cancelling_a_parent_cancels_its_children(run: Start, author: User, version_of: VersionOf) -> None:
    child = version_of(template(block("x", humanInLoop={"type": "approval"})))
    execution = run(template(calling(child)))
    started = row(execution, "sub").children.get()
    control.cancel(execution_id=execution.pk, by=author)
    drain_children_of(started)
    assert started.status == "cancelled"
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert check() == []


def test_a_child_that_is_cancelled_by_itself_fails_the_block_that_started_it(
    run: Start, author: User, version_of: VersionOf
) -> None:
    child = version_of(template(block("x", humanInLoop={"type": "approval"})))
    execution = run(template(calling(child), block("after", "sub")))
    control.cancel(execution_id=row(execution, "sub").children.get().pk, by=author)
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "failed"
    assert row(execution, "sub").error["code"] == "child_cancelled"  # type: ignore[index]
    assert row(execution, "after").status == "skipped"
    assert check() == []


def test_a_template_that_is_not_there_asks_a_person(run: Start, version_of: VersionOf) -> None:
    missing = {"templateId": "00000000-0000-4000-8000-000000000000"}
    execution = run(template({"blockId": "sub", "toolType": "UseCase", "configuration": missing}))
    assert statuses(execution) == {"sub": "waiting_human"}
    assert row(execution, "sub").error["code"] == "unknown_template"  # type: ignore[index]


def test_a_simulated_run_starts_no_children(run: Start, version_of: VersionOf) -> None:
    child = version_of(template(block("x")))
    execution = run(template(calling(child)), simulation={"outputs": {"sub": {"said": 1}}})
    assert execution.status == "completed"
    assert row(execution, "sub").output == {"said": 1}
    assert not Execution.objects.filter(parent_block__execution=execution).exists()


def drain_children_of(started: Execution) -> None:
    """What the clock does once the parent brought the child's next look forward."""
    from executions.services import ticking

    ticking.tick()
    started.refresh_from_db()


def test_one_that_is_tried_again_waits_for_a_place_and_not_for_the_child_that_failed(
    run: Start, author: User, version_of: VersionOf
) -> None:
    child = version_of(template(block("x", humanInLoop={"type": "approval"})))
    AgentFactory.create(
        workspace=child.template.workspace,
        agent_id="sub",
        tool_type="UseCase",
        configuration={"templateId": str(child.template_id)},
        limits={"concurrency": 1},
    )
    registry.forget()
    open_ = block("open", humanInLoop={"type": "approval"})
    execution = run(template(block("sub", agentId="sub"), open_))
    answer(row(execution, "sub").children.get(), "x", author, approved=False)
    drain(execution)
    assert statuses(execution) == {"sub": "failed", "open": "waiting_human"}
    run(template(block("sub", agentId="sub")))
    given: Any = {"execution_id": execution.pk, "block_pk": row(execution, "sub").pk, "by": author}
    repairing.retry(**given, reason="Once more.")
    drain(execution)
    assert (row(execution, "sub").status, row(execution, "sub").reason) == ("waiting_external", "agent")
    repairing.complete(**given, output=1, reason="Known.")
    assert list(row(execution, "sub").attempts.values_list("attempt", "outcome")) == [(1, "error")]
