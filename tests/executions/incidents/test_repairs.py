"""All blocks that an incident holds are repaired at once: one first, then the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from approvals.models import Approval
from executions.incidents import feed, repair_steps
from executions.incidents.models import Incident
from executions.incidents.repair_models import RepairItem, RepairRun
from executions.models import Execution
from executions.services import forking, repairing, restarting, starting
from executions.services.forking import ForkRequest
from executions.services.restarting import RestartRequest
from tests.factories.executions import statuses
from tests.factories.governance import client_of, member

from ..conftest import Start, block, drain, row, template
from .conftest import Post

ONCE_ONLY = {"maxRetries": 0}


def absent(block_id: str = "a", **fields: Any) -> JSONObject:
    """A block that fails for even numbers."""
    fields = {"agentId": "test.absent", "input": {"n": "${input.n}"}, "retryPolicy": ONCE_ONLY} | fields
    return block(block_id, **fields)


def count_all() -> None:
    while feed.count():
        pass


def work(*executions: Execution) -> None:
    """What clock and workers do until nothing moves any more."""
    for _ in range(10):
        repair_steps.step()
        for execution in executions:
            drain(execution)


@pytest.fixture
def held(start: Start, author: User) -> Callable[..., list[Execution]]:
    """Executions of one version whose block `a` fails."""

    def made(*blocks: JSONObject, count: int = 3, **options: Any) -> list[Execution]:
        first = start(template(*(blocks or (absent(), block("b", "a")))), input={"n": 2}, **options)
        rest = [
            starting.start(version=first.template_version, by=author, input={"n": 2}, **options)
            for _ in range(count - 1)
        ]
        for execution in (first, *rest):
            drain(execution)
        count_all()
        return [first, *rest]

    return made


def begin(post: Post, *, status: int = 201, canary: bool = True, **fix: Any) -> JSONObject:
    return post("repairs", {"fix": fix, "reason": "why", "canary": canary}, status=status)


def told(author: User, repair: JSONObject) -> JSONObject:
    path = f"/api/v1/incidents/{repair['incidentId']}/repairs/{repair['repairId']}"
    found: JSONObject = client_of(author).get(path).json()
    return found


# -- the fixes -----------------------------------------------------------------


@pytest.mark.parametrize(
    "patch",
    [
        {"input": {"n": "${input.n + 1}"}},
        {"agentId": "builtin.echo"},
        {"agentId": "test.odd", "input": {"n": 7}},
    ],
)
def test_blocks_are_tried_again_in_another_way(
    held: Any, post: Post, author: User, patch: JSONObject
) -> None:
    runs = held()
    repair = begin(post, action="retry", **patch)
    assert (repair["state"], repair["progress"]["pending"]) == ("canary", 3)
    work(*runs)
    assert [statuses(run) for run in runs] == [{"a": "completed", "b": "completed"}] * 3
    repair = told(author, repair)
    assert (repair["state"], repair["progress"]["mended"], repair["progress"]["refused"]) == ("done", 3, 0)
    written = AuditEntry.objects.filter(action="execution.retry_block", actor_id=author.pk)
    assert written.count() == 3
    assert {repair["repairId"] in entry.detail["reason"] for entry in written} == {True}
    assert not Approval.objects.filter(status="pending").exists()


def test_a_block_that_could_not_begin_is_given_another_input(held: Any, post: Post) -> None:
    runs = held({"blockId": "a", "input": {"half": "${10 / (input.n - 2)}"}})
    assert row(runs[0], "a").attempt == 0
    begin(post, action="retry", input={"half": 5})
    work(*runs)
    assert [row(run, "a").output for run in runs] == [{"half": 5}] * 3


def test_a_configuration_is_laid_over_and_stays_for_next_tries_restarts_and_forks(
    held: Any, post: Post, author: User
) -> None:
    text = absent(configuration={"template": "{{n}}", "kept": 1}, agentId="test.absent")
    runs = held(text, count=1)
    begin(post, action="retry", agentId="builtin.text", configuration={"template": "no {{n}}", "kept": None})
    work(*runs)
    assert row(runs[0], "a").output["text"] == "no 2"  # type: ignore[index]
    runs[0].refresh_from_db()
    assert runs[0].patches == {
        "a": {"agentId": "builtin.text", "configuration": {"template": "no {{n}}", "kept": None}}
    }
    forked = forking.fork(source=runs[0], by=author, request=ForkRequest(from_block="a", input={"n": 4}))
    restarting.restart(execution_id=runs[0].pk, by=author, request=RestartRequest(from_block="a"))
    again = [Execution.objects.get(pk=forked.pk), runs[0]]
    work(*again)
    given = [each.blocks.get(block_id="a", epoch=each.epoch).output for each in again]
    assert [output and output["text"] for output in given] == ["no 4", "no 2"]


@pytest.mark.parametrize(("action", "status"), [("skip", "skipped"), ("complete", "completed")])
def test_blocks_are_skipped_or_completed(held: Any, post: Post, action: str, status: str) -> None:
    runs = held()
    fix: JSONObject = {"output": {"by": "hand"}} if action == "complete" else {}
    begin(post, action=action, **fix)
    work(*runs)
    assert [statuses(run)["a"] for run in runs] == [status] * 3
    assert row(runs[2], "a").output == ({"by": "hand"} if action == "complete" else None)


def test_executions_that_failed_are_restarted_and_items_are_tried_again(
    held: Any, post: Post, author: User
) -> None:
    each = absent(forEach={"items": "[1, 2]"}, input={"n": "${item * input.n}"})
    waiting = held(each, count=1)
    begin(post, action="retry", input={"n": "${item * 2 + 1}"})
    work(*waiting)
    assert statuses(waiting[0]) == {"a": "completed"}
    Incident.objects.all().delete()
    ended = held(absent(retryPolicy={"maxRetries": 0, "onExhausted": "fail"}), count=2)
    assert [run.status for run in ended] == ["failed", "failed"]
    seen = post("repair-plan", {"fix": {"action": "retry", "input": {"n": 3}}})
    assert (seen["does"], seen["refused"], seen["total"]) == ({"restarted": 2}, {}, 2)
    begin(post, action="retry", input={"n": 3})
    work(*ended)
    assert [(run.status, run.epoch) for run in ended] == [("completed", 2)] * 2


# -- one first -----------------------------------------------------------------


def test_where_the_first_is_not_mended_the_others_wait_as_before(held: Any, post: Post, author: User) -> None:
    runs = held()
    repair = begin(post, action="retry", input={"n": 4})
    work(*runs)
    repair = told(author, repair)
    assert repair["state"] == "failed"
    assert "Order 4 of" in repair["said"]
    assert repair["progress"] == {
        "pending": 2, "refused": 0, "applied": 1, "mended": 0, "failedAgain": 1, "underWay": 0,
    }  # fmt: skip
    assert [row(run, "a").attempt for run in runs] == [2, 1, 1]
    assert Approval.objects.filter(status="pending").count() == 3
    begin(post, action="retry", input={"n": 5})  # and another may begin
    work(*runs)
    assert [run.status for run in runs] == ["completed"] * 3


def test_a_repair_is_stopped(held: Any, post: Post, author: User) -> None:
    runs = held()
    repair = begin(post, action="retry", input={"n": 5})
    repair_steps.step()
    post(f"repairs/{repair['repairId']}/stop")
    work(*runs)
    assert sorted(run.status for run in runs) == ["completed", "running", "running"]
    repair = told(author, repair)
    assert (repair["state"], repair["progress"]["pending"]) == ("stopped", 2)
    assert post(f"repairs/{repair['repairId']}/stop", status=409)["code"] == "repair_over"


def test_a_clock_that_dies_between_two_lines_applies_a_fix_once(
    held: Any, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = held(count=2)
    begin(post, action="retry", input={"n": 5}, canary=False)

    class Killed(BaseException):
        pass

    def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(repairing, "_audit", die)
        with pytest.raises(Killed):
            repair_steps.step()
    assert not RepairItem.objects.exclude(state="pending").exists()
    assert [row(run, "a").status for run in runs] == ["waiting_human"] * 2
    stale = RepairItem.objects.select_related("repair").first()
    assert stale is not None
    work(*runs)
    repair_steps.apply(stale.repair, stale)  # another clock that had read it before
    assert [row(run, "a").attempt for run in runs] == [2, 2]
    assert AuditEntry.objects.filter(action="execution.retry_block").count() == 2


def test_blocks_that_have_gone_on_are_left_alone(held: Any, post: Post, author: User) -> None:
    runs = held()
    repair = begin(post, action="skip")
    repairing.complete(
        execution_id=runs[0].pk, block_pk=row(runs[0], "a").pk, output=1, by=author, reason="first"
    )
    work(*runs)
    assert [statuses(run)["a"] for run in runs] == ["completed", "skipped", "skipped"]
    items = RepairItem.objects.filter(repair=repair["repairId"]).order_by("pk")
    assert [(item.state, item.code) for item in items] == [
        ("refused", "gone_on"), ("applied", ""), ("applied", ""),
    ]  # fmt: skip
    assert told(author, repair)["state"] == "done"


# -- refused -------------------------------------------------------------------


def test_what_would_happen_is_said_and_nothing_happens(held: Any, post: Post) -> None:
    runs = held()
    seen = post("repair-plan", {"fix": {"action": "retry", "agentId": "builtin.echo"}})
    assert (seen["total"], seen["does"], seen["refused"]) == (3, {"tried_again": 3}, {})
    assert {each["executionId"] for each in seen["blocks"]} == {str(run.pk) for run in runs}
    assert not RepairRun.objects.exists()
    careful = post("repair-plan", {"fix": {"action": "retry", "agentId": "test.once"}})
    assert careful["refused"] == {"effect_not_allowed": 3}


@pytest.mark.parametrize(
    ("fix", "status", "code"),
    [
        ({"action": "retry", "agentId": "nobody"}, 422, "fix_invalid"),
        ({"action": "retry", "input": {"n": "${blocks.nowhere.output}"}}, 422, "fix_invalid"),
        ({"action": "retry", "input": {"n": "${1 +"}}, 422, "fix_invalid"),
        ({"action": "explode"}, 400, "invalid_input"),
        ({"action": "skip", "input": {}}, 400, "invalid_input"),
        ({"action": "complete"}, 400, "invalid_input"),
        ({"action": "retry", "output": 1}, 400, "invalid_input"),
        ({"action": "retry", "configuration": []}, 400, "invalid_input"),
        ({"action": "retry", "agent": "x"}, 400, "invalid_input"),
    ],
)
def test_a_fix_that_does_not_fit_is_refused_and_the_blocks_wait(
    held: Any, post: Post, fix: JSONObject, status: int, code: str
) -> None:
    runs = held(count=1)
    for command in ("repair-plan", "repairs"):
        refused = post(command, {"fix": fix}, status=status)
        assert refused["code"] == code
        assert refused["issues"], refused
    assert not RepairRun.objects.exists()
    assert row(runs[0], "a").status == "waiting_human"


def test_one_repair_at_a_time_by_somebody_who_may(held: Any, post: Post, author: User) -> None:
    runs = held()
    incident = Incident.objects.get()
    viewer = client_of(member(incident.workspace, Role.VIEWER))
    path = f"/api/v1/incidents/{incident.pk}/repairs"
    assert viewer.post(path, {"fix": {"action": "skip"}}, format="json").status_code == 403
    repair = begin(post, action="skip")
    assert begin(post, action="skip", status=409)["code"] == "repair_under_way"
    assert viewer.get(path).json()["total"] == 1
    assert viewer.get(f"{path}/{repair['repairId']}/items").json()["total"] == 3
    User.objects.filter(pk=author.pk).update(is_active=False)
    work(*runs)
    assert RepairRun.objects.get().state == "stopped"
    User.objects.filter(pk=author.pk).update(is_active=True)
    work(*runs)
    begin(post, action="skip")
    work(*runs)
    assert begin(post, action="skip", status=409)["code"] == "nothing_to_repair"
    kinds = [note["text"].split(":")[0] for note in notes_of(author, incident)]
    assert kinds == ["skip", "stopped", "skip", "done"]


def notes_of(author: User, incident: Incident) -> list[JSONObject]:
    found = client_of(author).get(f"/api/v1/incidents/{incident.pk}").json()["timeline"]
    return [note for note in found if note["kind"] == "repair"]
