"""The executions that an incident holds go on with another version of their template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.incidents.repair_models import RepairItem
from executions.models import BlockExecution, Execution
from executions.services import starting
from tests.factories.executions import statuses
from tests.factories.templates import TemplateVersionFactory

from ..conftest import Start, block, drain, row, template
from .conftest import Post
from .test_repairs import absent, begin, count_all, told, work

Held = Callable[..., list[Execution]]
FIRST = block("first", agentId="builtin.echo")


@pytest.fixture
def held(start: Start, author: User) -> Held:
    """Executions whose block `a` fails behind one that completed, and the template's second version."""

    def made(
        old: list[JSONObject],
        new: list[JSONObject],
        *,
        inputs: Any = ({"n": 2}, {"n": 2}),
        schema: Any = None,
        **options: Any,
    ) -> list[Execution]:
        first = start(template(*old), input=inputs[0], **options)
        rest = [
            starting.start(version=first.template_version, by=author, input=given, **options)
            for given in inputs[1:]
        ]
        definition = {**template(*new), **({"inputSchema": schema} if schema else {})}
        TemplateVersionFactory.create(
            template=first.template_version.template, number=2, definition=definition
        )
        for execution in (first, *rest):
            drain(execution)
        count_all()
        return [first, *rest]

    return made


def moved_to(run: Execution) -> Execution:
    found: Execution = Execution.objects.get(forked_from=run)
    return found


def work_all(*runs: Execution) -> None:
    """What clock and workers do, to what goes on in place of these, too."""
    for _ in range(4):
        work(*runs, *Execution.objects.filter(forked_from__in=runs))


def test_executions_go_on_with_another_version_and_keep_what_both_say_alike(
    held: Held,
    post: Post,
    author: User,
) -> None:
    runs = held(
        [FIRST, absent("a", dependencies=["first"]), block("b", "a")],
        [
            FIRST,
            block("extra", "first"),
            absent("a", dependencies=["extra"], agentId="builtin.echo"),
            block("b", "a"),
        ],
    )
    seen = post("repair-plan", {"fix": {"action": "move", "templateVersion": 2}})
    assert (seen["does"], seen["refused"]) == ({"moved": 2}, {})
    assert seen["difference"] == {"changed": ["a"], "gone": [], "added": ["extra"]}
    assert seen["blocks"][0]["move"] == {"kept": ["first"], "reruns": ["extra", "a", "b"]}
    assert Execution.objects.count() == 2
    repair = begin(post, action="move", templateVersion=2)
    work_all(*runs)
    for run in runs:
        goes_on = moved_to(run)
        assert (run.status, (run.error or {})["code"]) == ("cancelled", "moved")
        assert str(goes_on.pk) in (run.error or {})["message"]
        assert goes_on.status == "completed"
        assert statuses(goes_on) == dict.fromkeys(("first", "extra", "a", "b"), "completed")
        assert row(goes_on, "first").carried_from == row(run, "first").pk
        assert row(goes_on, "first").output == row(run, "first").output
    repair = told(author, repair)
    assert (repair["state"], repair["progress"]["mended"], repair["fix"]["templateVersion"]) == ("done", 2, 2)
    assert not Approval.objects.filter(status="pending").exists()
    assert AuditEntry.objects.filter(action="execution.move", actor_id=author.pk).count() == 2


def test_an_execution_that_failed_goes_on_too_with_its_business_key(held: Held, post: Post) -> None:
    (run,) = held(
        [absent(retryPolicy={"maxRetries": 0, "onExhausted": "fail"})],
        [block("other", agentId="builtin.echo")],
        inputs=({"n": 2},),
        business_key="order-7",
    )
    assert run.status == "failed"
    begin(post, action="move", templateVersion=2)
    work_all(run)
    goes_on = moved_to(run)
    assert (goes_on.status, goes_on.business_key, run.status) == ("completed", "order-7", "failed")
    item = RepairItem.objects.get()
    assert (item.state, item.moved_to_id, item.moved_idx) == ("applied", goes_on.pk, None)
    again = post("repair-plan", {"fix": {"action": "retry"}}, status=409)
    assert again["code"] == "nothing_to_repair"  # it goes on once


def test_the_first_that_fails_in_the_new_version_too_keeps_the_others_from_moving(
    held: Held, post: Post
) -> None:
    runs = held([absent()], [absent(agentId="test.absent", configuration={"x": 1})])
    begin(post, action="move", templateVersion=2)
    work_all(*runs)
    assert sorted(run.status for run in runs) == ["cancelled", "running"]
    assert [item.state for item in RepairItem.objects.order_by("pk")] == ["applied", "pending"]


def test_items_of_one_execution_move_it_once(held: Held, post: Post) -> None:
    each = absent(forEach={"items": "[1, 2]"}, input={"n": "${item * input.n}"})
    (run,) = held([each], [{**each, "agentId": "builtin.echo"}], inputs=({"n": 2},))
    begin(post, action="move", templateVersion=2)
    work_all(run)
    assert moved_to(run).status == "completed"
    assert [item.state for item in RepairItem.objects.all()] == ["applied"] * 2


def test_what_does_not_fit_is_left_alone_and_says_why(held: Held, post: Post) -> None:
    schema = {"type": "object", "properties": {"n": {"maximum": 3}}}
    small, large = held(
        [absent()], [block("a", agentId="builtin.echo")], inputs=({"n": 2}, {"n": 4}), schema=schema
    )
    seen = post("repair-plan", {"fix": {"action": "move", "templateVersion": 2}})
    assert (seen["does"], seen["refused"]) == ({"moved": 1, "nothing": 1}, {"input_schema_mismatch": 1})
    why = {each["executionId"]: each["message"] for each in seen["blocks"]}
    assert "/input/n" in why[str(large.pk)]
    begin(post, action="move", templateVersion=2)
    work_all(small, large)
    assert (moved_to(small).status, large.status) == ("completed", "running")
    assert RepairItem.objects.get(execution=large).code == "input_schema_mismatch"
    assert row(large, "a").status == "waiting_human"


def test_what_a_repair_changed_for_the_execution_is_not_taken_along(held: Held, post: Post) -> None:
    new = absent(configuration={"new": True})
    (run,) = held([absent()], [new], inputs=({"n": 2},))
    begin(post, action="retry", input={"n": 4})
    work_all(run)
    assert run.patches
    begin(post, action="move", templateVersion=2)
    work_all(run)
    assert moved_to(run).patches is None
    assert "Order 2 of" in (row(moved_to(run), "a").error or {})["message"]


def test_nothing_that_had_an_effect_is_repeated(held: Held, post: Post) -> None:
    once = block("paid", agentId="test.once")
    changed = {**once, "configuration": {"again": True}}
    runs = held(
        [once, absent("a", dependencies=["paid"])], [changed, block("a", "paid", agentId="builtin.echo")]
    )
    seen = post("repair-plan", {"fix": {"action": "move", "templateVersion": 2}})
    assert seen["refused"] == {"effect_repeated": 2}
    assert "paid" in seen["blocks"][0]["message"]
    BlockExecution.objects.filter(execution=runs[1], block_id="paid").update(status="running")
    seen = post("repair-plan", {"fix": {"action": "move", "templateVersion": 2}})
    assert seen["refused"] == {"effect_repeated": 1, "at_work": 1}


@pytest.mark.parametrize(
    ("fix", "status", "at"),
    [
        ({"templateVersion": 3}, 422, "/fix/templateVersion"),
        ({}, 400, "/fix/templateVersion"),
        ({"templateVersion": "2"}, 400, "/fix/templateVersion"),
        ({"templateVersion": 2, "agentId": "builtin.echo"}, 400, "/fix/agentId"),
    ],
)
def test_a_version_that_cannot_be_is_refused(
    held: Held,
    post: Post,
    fix: JSONObject,
    status: int,
    at: str,
) -> None:
    held([absent()], [block("a")], inputs=({"n": 2},))
    for command in ("repair-plan", "repairs"):
        refused = post(command, {"fix": {"action": "move", **fix}}, status=status)
        assert refused["issues"][0]["pointer"] == at, refused


def test_a_version_that_was_withdrawn_or_names_nobody_is_refused(held: Held, post: Post) -> None:
    (run,) = held([absent()], [block("a", agentId="nobody")], inputs=({"n": 2},))
    ask = {"fix": {"action": "move", "templateVersion": 2}}
    assert "nobody" in str(post("repair-plan", ask, status=422)["issues"])
    run.template_version.template.versions.filter(number=2).update(status="deprecated")
    assert post("repair-plan", ask, status=422)["issues"][0]["code"] == "version_not_published"
    same = post("repair-plan", {"fix": {"action": "move", "templateVersion": 1}})
    assert same["refused"] == {"same_version": 1}
