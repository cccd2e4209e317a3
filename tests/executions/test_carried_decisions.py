"""A restart asks nobody again what a person has decided, where the same would be asked."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.conf import KB, LIMITS
from agentflow.events.models import Event
from agentflow.governance.models import AuditEntry, User
from agentflow.types import JSONObject, JSONValue
from approvals.models import Approval
from approvals.services import responding
from approvals.services.holding import AlreadyDecided
from executions import narration, snapshot
from executions.models import Execution
from executions.services import forking, restarting
from executions.services.forking import ForkRequest
from executions.services.restarting import RestartRequest
from tests import builtins
from tests.factories.executions import statuses
from tests.history import check

from .conftest import Start, answer, block, drain, template

ASKED = {"humanInLoop": {"type": "approval"}}
LEAVES_NOTHING = LIMITS.question_bytes - len('doc""')  # characters of `doc`, after which nothing is shown


def restart(execution: Execution, by: User, **asked: Any) -> None:
    restarting.restart(execution_id=execution.pk, by=by, request=RestartRequest(**asked))
    drain(execution)


def planned(execution: Execution, **asked: Any) -> JSONObject:
    found = restarting.preview(execution_id=execution.pk, request=RestartRequest(**asked))["approvals"]
    assert isinstance(found, dict)
    return found


def said(execution: Execution, block_id: str) -> list[JSONObject]:
    shown = {one["blockId"]: one for one in snapshot.detail(execution)["blockExecutions"]}
    return list(shown[block_id]["humanInteractions"])


def test_the_same_question_takes_the_decision_again(run: Start, author: User) -> None:
    execution = run(template(block("a"), block("b", "a", **ASKED), block("c", "b")))
    answer(execution, "b", author, comments="Fine.")
    first = Approval.objects.get(execution=execution)
    assert planned(execution, from_block="b") == {"survive": ["b"], "askedAgain": []}
    assert planned(execution, from_block="a") == {"survive": [], "askedAgain": ["b"]}  # nobody knows yet
    restart(execution, author, from_block="a")
    assert execution.status == "completed"
    carried = Approval.objects.exclude(pk=first.pk).get()
    assert (carried.status, carried.carried_from) == ("approved", first.pk)
    assert (carried.responder, carried.responded_at) == (author, first.responded_at)
    assert carried.comments == "Fine."
    assert [(one["status"], one["carriedFrom"]) for one in said(execution, "b")] == [("approved", first.pk)]
    event = Event.objects.get(type="approval_carried")
    assert narration.sentence(event.type, event.block_id, event.payload) == (
        f"Nobody was asked about step “b”: {author.username} had approved the same before the restart."
    )
    assert AuditEntry.objects.filter(action="approval.respond").count() == 1
    with pytest.raises(AlreadyDecided):
        responding.respond(approval_id=carried.pk, by=author, approved=False)
    restart(execution, author, from_block="b")
    assert Approval.objects.latest("requested_at").carried_from == first.pk
    assert check() == []


def test_another_content_is_asked_about_again(run: Start, author: User) -> None:
    execution = run(template(block("a", agentId="test.record"), block("b", "a", **ASKED)))
    answer(execution, "b", author)
    restart(execution, author, from_block="a")
    assert statuses(execution) == {"a": "completed", "b": "waiting_human"}
    assert [one["status"] for one in said(execution, "b")] == ["pending"]
    answer(execution, "b", author)
    restart(execution, author, from_block="b")
    assert execution.status == "completed"
    assert check() == []


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("x" * 100 * KB, "y" * 100 * KB),  # too large to show
        ("x" * 300 * KB, "y" * 300 * KB),  # too large for a row
        ({"doc": "x" * LEAVES_NOTHING, "to": "you"}, {"doc": "x" * LEAVES_NOTHING, "to": "me"}),
    ],
    ids=["value", "blob", "rest"],
)
def test_what_is_too_large_to_show_counts_by_its_content(
    run: Start, author: User, first: JSONValue, other: JSONValue
) -> None:
    builtins.given["a"] = [first, first, other]
    gives = block("a", agentId="test.give", configuration={"name": "a"})
    shown: JSONObject = {"doc": "${blocks.a.output}"}
    if isinstance(first, dict):
        shown = {"doc": "${blocks.a.output.doc}", "to": "${blocks.a.output.to}"}
    execution = run(template(gives, block("b", "a", input=shown, **ASKED)))
    answer(execution, "b", author)
    restart(execution, author, from_block="a")
    assert execution.status == "completed"  # the same is not asked again
    restart(execution, author, from_block="a")
    assert statuses(execution) == {"a": "completed", "b": "waiting_human"}
    question = Approval.objects.get(status="pending")
    assert [change["pointer"].split("/")[1] for change in question.changes] == ["facts"]
    assert check() == []


def test_a_reset_asks_everything_again(run: Start, author: User) -> None:
    execution = run(template(block("b", **ASKED)))
    answer(execution, "b", author)
    assert planned(execution, reset_state=True) == {"survive": [], "askedAgain": ["b"]}
    restart(execution, author, reset_state=True)
    assert statuses(execution) == {"b": "waiting_human"}


@pytest.mark.parametrize(("on_reject", "again"), [("fail", True), ("skip", False), ("continue", False)])
def test_a_refusal_counts_unless_it_failed_the_step(
    run: Start, author: User, on_reject: str, again: bool
) -> None:
    human = {"humanInLoop": {"type": "approval", "onReject": on_reject}}
    execution = run(template(block("a"), block("b", "a", **human)))
    answer(execution, "b", author, approved=False)
    before = statuses(execution)
    assert planned(execution, from_block="b")["askedAgain"] == (["b"] if again else [])
    restart(execution, author, from_block="b")
    assert statuses(execution) == ({**before, "b": "waiting_human"} if again else before)
    assert check() == []


def test_an_input_is_filled_in_again(run: Start, author: User) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    asked = {"blockId": "b", "humanInLoop": {"type": "input", "inputSchema": schema}}
    execution = run(template(asked, block("c", "b")))
    answer(execution, "b", author, response={"n": 7})
    restart(execution, author, from_block="b")
    row = execution.blocks.get(block_id="b", epoch=2)
    assert (row.status, row.output, row.carried_from) == ("completed", {"n": 7}, None)


def test_each_item_takes_its_own_decision(run: Start, author: User) -> None:
    each = block("b", forEach={"items": "input.items"}, **ASKED)
    execution = run(template(each), input={"items": [1, 2]})
    for approved in (True, False):
        asked = Approval.objects.filter(execution=execution, status="pending").earliest("requested_at", "pk")
        responding.respond(approval_id=asked.pk, by=author, approved=approved)
        drain(execution)
    refused = Approval.objects.get(status="rejected").block_execution.iteration
    restart(execution, author, from_block="b")
    open_again = Approval.objects.get(status="pending")
    assert open_again.block_execution.iteration == refused
    assert check() == []


def test_a_fork_asks_anew_and_its_restart_does_not(run: Start, author: User) -> None:
    execution = run(template(block("b", **ASKED)))
    answer(execution, "b", author)
    forked = forking.fork(source=execution, by=author, request=ForkRequest(from_block="b"))
    drain(forked)
    assert statuses(forked) == {"b": "waiting_human"}
    answer(forked, "b", author)
    restart(forked, author, from_block="b")
    assert forked.status == "completed"
