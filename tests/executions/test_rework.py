"""A person sends a run back: what they name runs again with their comment, and all that depends on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection

from agentflow.errors import AgentflowError, Conflict
from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject
from approvals.models import Approval
from approvals.services import responding, rework, times
from executions.models import Execution, Timer
from executions.services import control, reconcile, restarting, signals
from executions.services.restarting import RestartRequest
from templates_app.models import TemplateVersion
from tests.factories.executions import statuses
from tests.factories.governance import client_of
from tests.history import check
from tests.waiting import PATIENCE_S

from .conftest import Start, answer, block, claim, drain, finish, row, template

ASKS: JSONObject = {"humanInLoop": {"type": "approval"}}
DRAFT = block("draft", input={"note": "${context.rework.comment}", "round": "${context.rework.round}"})


def asked(execution: Execution, block_id: str = "check") -> Approval:
    return Approval.objects.get(execution=execution, block_id=block_id, status="pending")


def send_back(execution: Execution, by: User, block_id: str = "check", **fields: Any) -> Approval:
    fields.setdefault("comments", "Shorter, please.")
    found = rework.send_back(approval_id=asked(execution, block_id).pk, by=by, **fields)
    drain(execution)
    return found


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(AgentflowError) as error:
        action()
    assert error.value.remedy
    return error.value.code


def test_what_is_sent_back_runs_again_and_reads_the_comment(run: Start, author: User) -> None:
    execution = run(
        template(block("first"), DRAFT | {"dependencies": ["first"]}, block("check", "draft", **ASKS))
    )
    assert row(execution, "draft").output == {"note": "", "round": 0}
    first = send_back(execution, author)
    assert (first.status, first.decision) == ("rejected", "rework")
    assert first.votes.get().evidence["contentHash"] == first.content_hash
    assert (execution.status, execution.epoch) == ("running", 2)
    draft = execution.blocks.get(epoch=2, block_id="draft")
    assert draft.output == {"note": "Shorter, please.", "round": 1}
    assert execution.blocks.get(epoch=2, block_id="first").carried_from is not None
    again = asked(execution)
    assert again.supersedes == first.pk
    assert {change["pointer"] for change in again.changes} == {"/facts/draft/note", "/facts/draft/round"}
    entry = AuditEntry.objects.get(target_id=str(first.pk))
    assert (entry.action, entry.detail["decision"]) == ("approval.respond", "rework")
    answer(execution, "check", author)
    assert execution.status == "completed"
    assert check() == []


def test_it_is_sent_back_so_often_and_no_more(run: Start, author: User) -> None:
    asks: JSONObject = {"humanInLoop": {"maxRework": 1}}
    execution = run(template(block("draft"), block("check", "draft", **asks)))
    send_back(execution, author)
    assert refused(lambda: send_back(execution, author)) == "rework_used_up"
    assert asked(execution).votes.count() == 0
    answer(execution, "check", author)
    assert execution.status == "completed"


def test_what_works_beside_goes_on_in_the_next_epoch(run: Start, start: Start, author: User) -> None:
    beside = block("beside", agentId="test.record")
    execution = start(
        template(block("draft"), block("check", "draft", **ASKS), beside, block("end", "check", "beside"))
    )
    held = claim(execution)
    while row(execution, "beside").status != "running":
        finish(execution, held, {})
        held = claim(execution)
    drain(execution)
    send_back(execution, author)
    assert statuses(execution)["beside"] == "running"
    finish(execution, held, {"kept": True})
    answer(execution, "check", author)
    assert execution.status == "completed"
    assert execution.blocks.get(epoch=2, block_id="beside").output == {"kept": True}
    assert execution.blocks.get(epoch=1, block_id="beside").status == "cancelled"
    assert check() == []


def test_a_question_beside_stays_open_and_a_decision_before_is_taken_again(run: Start, author: User) -> None:
    execution = run(
        template(
            block("may", **ASKS),
            block("draft", "may"),
            block("check", "draft", **ASKS),
            block("other", **ASKS),
        )
    )
    answer(execution, "may", author)
    other = asked(execution, "other")
    send_back(execution, author, blocks=["draft"])
    assert asked(execution, "other").pk == other.pk
    send_back(execution, author, blocks=["may"])
    assert statuses(execution)["may"] == "waiting_human"  # it was sent back itself
    for name in ("may", "check", "other"):
        answer(execution, name, author)
    assert execution.status == "completed"
    assert check() == []


def test_a_review_sends_its_own_block_back(run: Start, author: User) -> None:
    execution = run(template(DRAFT | {"humanInLoop": {"type": "review"}}))
    send_back(execution, author, "draft")
    assert asked(execution, "draft").request["editable"] == {"note": "Shorter, please.", "round": 1}
    answer(execution, "draft", author)
    assert execution.status == "completed"
    request = RestartRequest(from_block="draft")
    restarting.restart(execution_id=execution.pk, by=author, request=request)
    drain(execution)
    assert check() == []


def test_an_item_sends_all_items_back_and_their_bound_is_one(run: Start, author: User) -> None:
    asks: JSONObject = {"humanInLoop": {"maxRework": 1}}
    each = block("each", "draft", forEach={"items": "[1, 2, 3]"}, **asks)
    execution = run(template(DRAFT, each, block("end", "each")))
    questions = list(Approval.objects.filter(execution=execution).order_by("block_execution__iteration"))
    responding.respond(approval_id=questions[0].pk, by=author, approved=True)
    drain(execution)
    rework.send_back(approval_id=questions[1].pk, by=author, comments="Not these.")
    drain(execution)
    assert Approval.objects.get(pk=questions[2].pk).reason == "rework"
    assert execution.blocks.get(epoch=2, block_id="draft").output == {"note": "Not these.", "round": 1}
    again = list(Approval.objects.filter(execution=execution, status="pending"))
    assert len(again) == 3, "what was decided about the first item was about another draft"
    assert refused(partial(rework.send_back, approval_id=again[0].pk, by=author, comments="Again.")) == (
        "rework_used_up"
    )
    for question in again:
        responding.respond(approval_id=question.pk, by=author, approved=True)
    drain(execution)
    assert execution.status == "completed"
    output = execution.blocks.get(epoch=2, block_id="end").output
    assert output is not None
    assert len(output["each"]) == 3
    assert check() == []


def test_what_is_behind_a_child_runs_in_a_child_anew(
    run: Start, author: User, version_of: Callable[[JSONObject], TemplateVersion]
) -> None:
    child = version_of(template(DRAFT, block("look", "draft", **ASKS)))
    sub = {"blockId": "sub", "toolType": "UseCase", "configuration": {"templateId": str(child.template_id)}}
    execution = run(template(sub, block("check", "sub", **ASKS)))
    first = row(execution, "sub").children.get()
    send_back(first, author, "look")  # inside of the child, which goes on
    drain(execution)
    assert (first.epoch, first.status, execution.epoch) == (2, "running", 1)
    answer(first, "look", author)
    drain(execution)
    send_back(execution, author)
    second = execution.blocks.get(epoch=2, block_id="sub").children.get()
    assert second.pk != first.pk
    answer(second, "look", author)
    drain(execution)
    answer(execution, "check", author)
    assert execution.status == "completed"
    assert check() == []


def test_an_event_that_came_counts_again_where_its_wait_runs_again(run: Start, author: User) -> None:
    paid: JSONObject = {"blockId": "paid", "dependencies": ["draft"], "wait": {"event": "paid"}}
    execution = run(template(DRAFT, paid, block("check", "paid", **ASKS)))
    signals.receive(workspace_id=execution.workspace_id, type="paid", payload={"sum": 1})
    look(execution)
    send_back(execution, author, blocks=["draft"])
    assert execution.blocks.get(epoch=2, block_id="paid").status == "waiting_external"
    look(execution)
    assert asked(execution).request["facts"] == {"paid": {"sum": 1}}
    send_back(execution, author, blocks=["paid"])
    look(execution)
    answer(execution, "check", author)
    assert execution.status == "completed"
    assert check() == []


def look(execution: Execution) -> None:
    reconcile.look(execution.pk)
    drain(execution)


def test_a_process_that_dies_after_the_decision_leaves_the_work_to_the_clock(
    run: Start, author: User
) -> None:
    execution = run(template(DRAFT, block("check", "draft", **ASKS)))
    rework.send_back(approval_id=asked(execution).pk, by=author, comments="Again.")
    # No walker gets the hint.  What is to be done stands in rows, and the clock is told to look at once.
    timer = Timer.objects.get(execution=execution, kind="check")
    assert timer.due_at <= times.clock()
    assert execution.blocks.get(epoch=2, block_id="draft").status == "ready"
    assert reconcile.look(execution.pk), "there is work that nobody has taken"
    drain(execution)
    answer(execution, "check", author)
    assert execution.status == "completed"
    assert check() == []


def test_a_question_says_where_it_may_be_sent_back_to(run: Start, author: User) -> None:
    asks: JSONObject = {"humanInLoop": {"maxRework": 1}}
    execution = run(
        template(block("first"), block("draft", "first"), block("side"), block("check", "draft", **asks))
    )
    url = f"/api/v1/approvals/{asked(execution).pk}"
    assert client_of(author).get(url).json()["rework"] == {
        "left": 1,
        "most": 1,
        "blocks": [
            {"blockId": "draft", "name": "draft", "usual": True, "runsAgain": ["draft"]},
            {"blockId": "first", "name": "first", "usual": False, "runsAgain": ["first", "draft"]},
        ],
    }
    send_back(execution, author)
    url = f"/api/v1/approvals/{asked(execution).pk}"
    assert client_of(author).get(url).json()["rework"]["left"] == 0
    answer(execution, "check", author)
    approval = Approval.objects.filter(execution=execution).latest("requested_at")
    assert client_of(author).get(f"/api/v1/approvals/{approval.pk}").json()["rework"] is None


def test_what_cannot_be_sent_back_says_why(run: Start, author: User) -> None:
    execution = run(template(block("alone", **ASKS), block("draft"), block("check", "draft", **ASKS)))
    assert refused(lambda: send_back(execution, author, "alone")) == "nothing_before"
    for name in ("alone", "check", "nowhere"):
        assert refused(partial(send_back, execution, author, blocks=["draft", name])) == "not_upstream"
    control.pause(execution_id=execution.pk, by=author)
    assert refused(lambda: send_back(execution, author)) == "not_running"
    assert execution.blocks.filter(epoch=2).count() == 0


def test_the_same_again_changes_nothing_and_another_answer_is_told(run: Start, author: User) -> None:
    execution = run(template(block("draft"), block("check", "draft", **ASKS)))
    approval = asked(execution)
    url = f"/api/v1/approvals/{approval.pk}"
    client = client_of(author)
    assert client.post(f"{url}/rework", {"comments": ""}, format="json").status_code == 400
    for _ in range(2):
        reply = client.post(f"{url}/rework", {"comments": "No."}, format="json")
        assert (reply.status_code, reply.json()) == (200, {"success": True})
    reply = client.post(f"{url}/respond", {"approved": False, "comments": "No."}, format="json")
    assert (reply.status_code, reply.json()["code"]) == (409, "already_decided")
    assert "sent this back" in reply.json()["detail"]
    execution.refresh_from_db()
    assert execution.epoch == 2


def test_of_sending_back_and_approving_at_once_one_counts(run: Start, author: User) -> None:
    for _ in range(3):
        execution = run(template(block("draft"), block("check", "draft", **ASKS)))
        approval = asked(execution)
        line = threading.Barrier(2)
        lost: list[str] = []

        def decide(action: Callable[[], Any], line: threading.Barrier = line, lost: list[str] = lost) -> None:
            try:
                line.wait(PATIENCE_S)
                action()
            except Conflict as error:
                lost.append(error.code)
            finally:
                connection.close()

        threads = [
            threading.Thread(target=decide, args=(action,))
            for action in (
                partial(rework.send_back, approval_id=approval.pk, by=author, comments="Again."),
                partial(responding.respond, approval_id=approval.pk, by=author, approved=True),
            )
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert lost == ["already_decided"]
        drain(execution)
        sent_back = Approval.objects.get(pk=approval.pk).decision == "rework"
        assert (execution.epoch, execution.status) == ((2, "running") if sent_back else (1, "completed"))
    assert check() == []
