"""Sub-workflows run the versions that were there when the execution above them all was accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agentflow.agents import registry
from agentflow.errors import Unprocessable
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.models import Execution, Pin
from executions.services import admission, forking, restarting, starting
from executions.services.admission import StartRequest
from executions.services.forking import ForkRequest
from executions.services.restarting import RestartRequest
from templates_app.models import TemplateVersion
from templates_app.services import authoring
from templates_app.states import VersionStatus
from tests.factories.agents import AgentFactory
from tests.factories.executions import statuses
from tests.factories.templates import TemplateVersionFactory

from .conftest import Start, answer, block, drain, template

VersionOf = Callable[[JSONObject], TemplateVersion]
ASKED = {"humanInLoop": {"type": "approval"}}


def calling(version: TemplateVersion, *dependencies: str, number: int | None = None) -> JSONObject:
    configuration: JSONObject = {"templateId": str(version.template_id)}
    if number is not None:
        configuration["version"] = number
    return {
        "blockId": "sub",
        "toolType": "UseCase",
        "configuration": configuration,
        "dependencies": list(dependencies),
    }


def publish(version: TemplateVersion, definition: JSONObject | None = None) -> TemplateVersion:
    """The next version of the same template."""
    return TemplateVersionFactory.create(
        template=version.template,
        number=version.number + 1,
        definition=definition or template(block("newer")),
    )


def children(execution: Execution) -> list[int]:
    """The versions that the children of an execution run, by the order of their start."""
    rows = Execution.objects.filter(parent_block__execution=execution).order_by("created_at")
    return list(rows.values_list("template_version", flat=True))


@pytest.fixture
def family(version_of: VersionOf) -> tuple[TemplateVersion, TemplateVersion, JSONObject]:
    """A template that calls another after a question, and the definition of one that calls it, too."""
    grandchild = version_of(template(block("g")))
    child = version_of(template(block("ask", **ASKED), calling(grandchild, "ask")))
    return grandchild, child, template(block("ask", **ASKED), calling(child, "ask"))


def test_what_is_published_or_archived_meanwhile_changes_nothing(
    start: Start, author: User, family: tuple[TemplateVersion, TemplateVersion, JSONObject]
) -> None:
    grandchild, child, parent = family
    execution = start(parent)
    drain(execution)
    publish(child)
    answer(execution, "ask", author)
    assert children(execution) == [child.pk]
    (started,) = Execution.objects.filter(parent_block__execution=execution)
    publish(grandchild)
    assert not authoring.delete_template(template_id=grandchild.template_id, by=author)
    assert not authoring.delete_template(template_id=child.template_id, by=author)
    answer(started, "ask", author)
    drain(execution)
    assert children(started) == [grandchild.pk]
    assert execution.status == "completed"


def test_a_restart_and_a_fork_keep_the_pins(
    start: Start, author: User, family: tuple[TemplateVersion, TemplateVersion, JSONObject]
) -> None:
    _, child, parent = family
    execution = start(parent)
    drain(execution)
    answer(execution, "ask", author)
    publish(child)
    authoring.delete_template(template_id=child.template_id, by=author)
    forked = forking.fork(source=execution, by=author, request=ForkRequest())
    drain(forked)
    assert children(forked) == [child.pk]
    for started in Execution.objects.filter(parent_block__isnull=False, parent_block__execution=execution):
        answer(started, "ask", author)
    drain(execution)
    assert execution.status == "completed"
    restarting.restart(execution_id=execution.pk, by=author, request=RestartRequest(from_block="sub"))
    drain(execution)
    assert children(execution) == [child.pk, child.pk]


def test_a_version_named_in_the_block_stays(start: Start, author: User, version_of: VersionOf) -> None:
    first = version_of(template(block("x")))
    second = publish(first)
    execution = start(template(block("ask", **ASKED), calling(first, "ask", number=1)))
    drain(execution)
    for version in (first, second):
        authoring.deprecate_version(template_id=first.template_id, number=version.number, by=author)
    answer(execution, "ask", author)
    assert children(execution) == [first.pk]
    assert list(Pin.objects.values_list("version", "newest")) == [(first.pk, False)]


@pytest.mark.parametrize("published", [True, False])
def test_an_agent_that_is_pointed_elsewhere_meanwhile_calls_what_is_published_there(
    start: Start, author: User, version_of: VersionOf, published: bool
) -> None:
    first, other = version_of(template(block("x"))), version_of(template(block("y")))
    agent = AgentFactory.create(
        workspace=first.template.workspace,
        tool_type="UseCase",
        configuration={"templateId": str(first.template_id)},
    )
    call = {"blockId": "sub", "agentId": agent.agent_id, "dependencies": ["ask"]}
    execution = start(template(block("ask", **ASKED), call))
    drain(execution)
    agent.configuration = {"templateId": str(other.template_id)}
    agent.save()
    registry.forget()
    if not published:
        draft(other)
    answer(execution, "ask", author)
    if published:
        assert (execution.status, children(execution)) == ("completed", [other.pk])
    else:
        assert statuses(execution)["sub"] == "waiting_human"
        assert children(execution) == []


def test_a_template_that_calls_none_costs_no_query_more(author: User, version_of: VersionOf) -> None:
    plain = version_of(template(block("a"), block("b", "a", agentId="http.someone")))
    starting.start(version=plain, by=author, input={})
    with CaptureQueriesContext(
        connection,
    ) as queries:
        starting.start(version=plain, by=author, input={})
    said = [query["sql"] for query in queries.captured_queries]
    assert not any("executions_pin" in sql for sql in said)
    assert sum("agents_agent" in sql for sql in said) == 1


def draft(version: TemplateVersion) -> None:
    TemplateVersion.objects.filter(pk=version.pk).update(status=VersionStatus.DRAFT)


@pytest.mark.parametrize(("spoil", "code"), [(draft, "template_not_published"), (None, "unknown_template")])
def test_a_start_without_the_called_template_is_refused(
    author: User, version_of: VersionOf, spoil: Any, code: str
) -> None:
    child = version_of(template(block("x")))
    call = calling(child)
    if spoil is None:
        call["configuration"]["templateId"] = "00000000-0000-4000-8000-000000000000"
    else:
        spoil(child)
    parent = version_of(template(call))
    with pytest.raises(Unprocessable) as refused:
        admission.start(by=author, request=StartRequest(template_id=parent.template_id, input={}))
    assert refused.value.issues[0]["code"] == code
    assert not Pin.objects.exists()
