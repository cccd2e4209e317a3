"""Sub-workflows that an LLM agent calls as tools: started once for each step, and waited for as a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentflow.agents import registry
from agentflow.agents.models import Agent
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions import explain, spending
from executions.engine import children
from executions.models import AgentStep, Execution, Pin, Place
from executions.services import control, reconcile, repairing, restarting
from executions.services.restarting import RestartRequest
from templates_app.models import TemplateVersion
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.factories.templates import TemplateVersionFactory
from tests.history import check
from tests.llm import ScriptedModel, completion, wants

from .conftest import answer, block, drain, lose_worker, row, template
from .test_agent_loop import Killed, steps
from .test_agent_loop import helped as helped
from .test_agent_loop import model as model
from .test_agent_loop import server as server
from .test_children import drain_children_of

VersionOf = Callable[[JSONObject], TemplateVersion]
Helped = Callable[..., Execution]
SCHEMA = {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]}
APPROVED = block("x", humanInLoop={"type": "approval"})


@pytest.fixture
def calling(helped: Helped, version_of: VersionOf) -> Helped:
    """A run whose model may call `sub`, which runs these blocks; by default a person is asked within."""

    def make(*blocks: JSONObject, policy: str | None = "allow", **fields: Any) -> Execution:
        execution = helped({"agentId": "sub", **({"policy": policy} if policy else {})}, **fields)
        child = version_of(template(*blocks or (APPROVED,)))
        AgentFactory.create(
            workspace=execution.workspace,
            agent_id="sub",
            tool_type="UseCase",
            configuration={"templateId": str(child.template_id)},
            input_schema=SCHEMA,
        )
        registry.forget()
        return execution

    return make


def begun(execution: Execution) -> list[Execution]:
    found = Execution.objects.filter(parent_block__execution=execution)
    return list(found.order_by("parent_block", "parent_attempt"))


def told(model: ScriptedModel, turn: int) -> JSONObject:
    found: JSONObject = json.loads(model.asked[turn]["messages"][-1]["content"])
    return found


def outcomes(execution: Execution) -> list[str]:
    return list(row(execution, "help").attempts.order_by("attempt").values_list("outcome", flat=True))


def test_a_sub_workflow_is_waited_for_as_a_row_and_its_output_is_the_answer(
    calling: Helped, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("sub", {"order": "A"}), ("sub", {"order": "B"})), completion("Done."))
    execution = calling()
    Agent.objects.filter(agent_id__in=["helper", "sub"]).update(limits={"concurrency": 1})
    registry.forget()
    drain(execution)
    helping = row(execution, "help")
    assert (helping.status, helping.reason, helping.lease_owner) == ("waiting_external", "tool_child", None)
    assert list(Place.objects.values_list("key", "held")) == [("sub", True)]
    (child,) = begun(execution)
    reason = explain.explain(execution)["blocks"][0]["reason"]
    assert (reason["code"], reason["waitsFor"]) == ("child", [str(child.pk)])
    assert check() == []
    answer(child, "x", author)
    drain(execution)
    second = begun(execution)[1]
    drain(second)
    assert [each.input for each in begun(execution)] == [{"order": "A"}, {"order": "B"}]
    answer(second, "x", author)
    drain(execution)
    assert execution.status == "completed"
    assert told(model, 1) == {"result": {"x": {"order": "B"}}}
    assert set(model.answered.values()) == {1}
    assert outcomes(execution) == ["waited", "waited", "ok"]
    assert not Place.objects.exists()
    assert check() == []


def test_a_person_is_asked_first_unless_the_agent_or_the_tool_says_otherwise(
    calling: Helped, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("sub", {"order": "A"})), completion("Done."))
    execution = calling(block("x"), policy=None)
    drain(execution)
    assert (row(execution, "help").reason, begun(execution)) == ("tool", [])
    answer(execution, "help", author, response={"edited": {"order": "B"}})
    assert execution.status == "completed"
    assert [each.input for each in begun(execution)] == [{"order": "B"}]
    assert told(model, 1) == {"result": {"calledWith": {"order": "B"}, "gave": {"x": {"order": "B"}}}}


def test_it_runs_the_version_that_was_there_when_the_execution_was_accepted(
    calling: Helped, helped: Helped, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("sub", {"order": "A"})), completion("Done."))
    calling(block("x"))
    by_block = helped({"agentId": "sub", "policy": "ask"})
    Agent.objects.filter(agent_id="helper").update(configuration={"tools": ["sub"]})
    registry.forget()
    by_agent = helped()
    pins = Pin.objects.filter(execution__in=[by_block, by_agent])
    (version,) = {pin.version for pin in pins}
    TemplateVersionFactory.create(template=version.template, number=2, definition=template(block("newer")))
    for execution in (by_block, by_agent):
        drain(execution)
        answer(execution, "help", author)
        assert [child.template_version for child in begun(execution)] == [version]


def test_the_model_is_told_why_a_sub_workflow_failed_or_could_not_begin(
    calling: Helped, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("sub", {"order": "A"})), wants(("sub", {"order": "B"})), completion("Sorry."))
    execution = calling()
    drain(execution)
    Agent.objects.filter(agent_id="sub").update(
        configuration={"templateId": "00000000-0000-4000-8000-000000000000"}
    )
    registry.forget()
    answer(begun(execution)[0], "x", author, approved=False)
    drain(execution)
    assert execution.status == "completed"
    assert told(model, 1)["error"]["code"] == "child_failed"
    assert told(model, 2)["error"]["code"] == "unknown_template"
    assert len(begun(execution)) == 1


def test_what_a_sub_workflow_costs_is_the_runs_and_counts_for_the_limits_of_its_caller(
    calling: Helped, model: ScriptedModel
) -> None:
    model.says(wants(("sub", {"order": "A"})), completion("Done."))
    execution = calling(block("x", agentId="lookup"), limits={"maxCost": 5})
    Agent.objects.filter(agent_id="lookup").update(cost={"perCall": 3})
    registry.forget()
    drain(execution)
    assert (row(execution, "help").error or {})["code"] == "llm_cost_limit"
    assert len(model.asked) == 1
    assert spending.of_run(execution.pk)["cost"] == {"USD": 5.5}  # 2.5 of them the model's


@pytest.mark.parametrize("where", ["_begin", "end_of"])
def test_a_vanished_worker_starts_no_second_sub_workflow(
    calling: Helped, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Before the transaction that starts it, and when it has ended."""
    from executions.services import starting

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    model.says(wants(("sub", {"order": "A"})), completion("Done."))
    execution = calling(block("x"))
    with monkeypatch.context() as patch:
        if where == "_begin":
            patch.setattr(starting.Child, "insert", dies)
        else:
            patch.setattr(children, "end_of", dies)
        with pytest.raises(Killed):
            drain(execution)
    assert steps(execution)[-1] == ("tool", "sub", "begun")
    lose_worker(execution, "help")
    reconcile.look(execution.pk)
    drain(execution)
    assert execution.status == "completed"
    assert len(begun(execution)) == 1
    assert set(model.answered.values()) == {1}
    assert check() == []


def test_cancelling_stops_it_and_a_restart_starts_another_without_asking_the_model_again(
    calling: Helped, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("sub", {"order": "A"})), completion("Done."))
    execution = calling()
    drain(execution)
    control.cancel(execution_id=execution.pk, by=author)
    (child,) = begun(execution)
    drain_children_of(child)
    execution.refresh_from_db()
    assert (execution.status, child.status, outcomes(execution)) == ("cancelled", "cancelled", ["waited"])
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest())
    drain(execution)
    child, other = begun(execution)
    answer(other, "x", author)
    drain(execution)
    assert execution.status == "completed"
    assert set(model.answered.values()) == {1}
    assert AgentStep.objects.get(name="sub").request["executionId"] == str(other.pk)


def test_a_block_that_is_settled_by_hand_withdraws_what_its_agent_called(
    calling: Helped, model: ScriptedModel, author: User
) -> None:
    model.says(wants(("sub", {"order": "A"})), completion("Done."))
    execution = calling()
    drain(execution)
    repairing.complete(
        execution_id=execution.pk, block_pk=row(execution, "help").pk, output=1, by=author, reason="Known."
    )
    drain_children_of(begun(execution)[0])
    assert begun(execution)[0].status == "cancelled"
    drain(execution)
    assert statuses(execution) == {"help": "completed", "after": "completed"}
    assert outcomes(execution) == ["waited"]
