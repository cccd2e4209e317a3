"""What people may do beside saying yes or no: look at outputs, change them, correct what came before."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.conf import KB
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from approvals.models import Approval
from approvals.services import responding
from approvals.services.edits import BadEdits
from approvals.services.holding import Stale
from executions.models import Execution
from executions.services import control, editing, restarting
from executions.services.restarting import RestartRequest
from tests.factories.executions import statuses
from tests.history import check

from .conftest import Start, answer, block, drain, row, template

REVIEW = {"humanInLoop": {"type": "review"}}


def asked(execution: Execution, block_id: str = "b") -> Approval:
    return Approval.objects.get(execution=execution, block_id=block_id, status="pending")


def test_an_output_waits_for_its_review_and_flows_on_as_it_is(run: Start, author: User) -> None:
    execution = run(template(block("b", input={"n": 7}, **REVIEW), block("c", "b")))
    assert statuses(execution) == {"b": "waiting_human", "c": "blocked"}
    question = asked(execution)
    assert (question.kind, question.request["editable"]) == ("review", {"n": 7})
    answer(execution, "b", author)
    assert execution.status == "completed"
    assert row(execution, "b").output == {"n": 7}
    assert row(execution, "b").attempts.count() == 1
    assert check() == []


def test_what_is_changed_in_a_review_is_what_flows_on(run: Start, author: User) -> None:
    branches = [
        {"condition": "blocks.b.output.n > 100", "nextBlocks": ["large"]},
        {"condition": "default", "nextBlocks": ["small"]},
    ]
    chooses = {"conditions": {"type": "if", "branches": branches}}
    execution = run(
        template(block("b", input={"n": 7}, **REVIEW, **chooses), block("large", "b"), block("small", "b"))
    )
    answer(execution, "b", author, response={"edited": {"n": 700}})
    assert statuses(execution) == {"b": "completed", "large": "completed", "small": "skipped"}
    assert row(execution, "b").output == {"n": 700}
    assert Approval.objects.get().votes.get().edits == [{"op": "replace", "path": "/n", "value": 700}]
    assert check() == []


@pytest.mark.parametrize(
    ("on_reject", "ends"), [("fail", "failed"), ("skip", "skipped"), ("continue", "completed")]
)
def test_a_review_that_refuses_is_an_end_or_a_path(
    run: Start, author: User, on_reject: str, ends: str
) -> None:
    human = {"humanInLoop": {"type": "review", "onReject": on_reject}}
    execution = run(template(block("b", input={"n": 7}, **human)))
    answer(execution, "b", author, approved=False)
    assert statuses(execution) == {"b": ends}
    if on_reject == "continue":
        assert row(execution, "b").output == {"approved": False, "response": None, "output": {"n": 7}}
    assert check() == []


def test_each_item_is_reviewed_and_the_list_holds_what_was_changed(run: Start, author: User) -> None:
    each = block("b", forEach={"items": "input.items"}, input={"n": "${item}"}, **REVIEW)
    execution = run(template(each), input={"items": [1, 2]})
    for question in Approval.objects.filter(status="pending").order_by("requested_at", "pk"):
        edited = {"n": question.request["editable"]["n"] * 10}
        responding.respond(approval_id=question.pk, by=author, approved=True, response={"edited": edited})
    drain(execution)
    assert row(execution, "b").output == [{"n": 10}, {"n": 20}]
    assert check() == []


def test_an_edit_corrects_what_the_blocks_before_gave(run: Start, author: User) -> None:
    human = {"humanInLoop": {"type": "edit"}}
    execution = run(
        template(block("a", input={"n": 7}), block("b", "a", input={"m": "${blocks.a.output.n}"}, **human))
    )
    assert asked(execution).request["editable"] == {"a": {"n": 7}}
    wrong: JSONValue
    for wrong in ({}, {"a": {}, "b": {}}, 3):
        with pytest.raises(BadEdits):
            answer(execution, "b", author, response={"edited": wrong})
    answer(execution, "b", author, response={"edited": {"a": {"n": 9}}})
    assert execution.status == "completed"
    assert row(execution, "a").shown_output == {"n": 9}
    assert row(execution, "b").output == {"m": 9}
    assert check() == []


def test_a_question_goes_stale_when_what_it_shows_is_edited(run: Start, author: User) -> None:
    human: JSONObject = {"humanInLoop": {"type": "approval"}}
    execution = run(template(block("a", input={"n": 7, "m": 1}), block("b", "a", **human), block("x")))
    before = asked(execution)
    control.pause(execution_id=execution.pk, by=author)
    editing.edit(execution_id=execution.pk, outputs={"a": {"n": 9, "m": 1}}, by=author)
    now = asked(execution)
    assert (now.supersedes, now.content_hash == before.content_hash) == (before.pk, False)
    assert now.changes == [{"pointer": "/facts/a/n", "before": 7, "after": 9}]
    with pytest.raises(Stale) as late:
        responding.respond(approval_id=before.pk, by=author, approved=True)
    assert late.value.facts["superseded_by"] == str(now.pk)
    editing.edit(execution_id=execution.pk, outputs={"x": {}}, by=author)
    assert asked(execution).pk == now.pk  # it shows nothing of that
    control.resume(execution_id=execution.pk, by=author)
    answer(execution, "b", author)
    assert execution.status == "completed"
    assert check() == []


def test_a_question_goes_stale_when_what_is_too_large_to_show_is_edited(run: Start, author: User) -> None:
    execution = run(template(block("a", input={"doc": "x"}), block("b", "a", humanInLoop={})))
    control.pause(execution_id=execution.pk, by=author)
    seen = [asked(execution)]
    for letter in "xyy":
        editing.edit(execution_id=execution.pk, outputs={"a": {"doc": letter * 100 * KB}}, by=author)
        seen.append(asked(execution))
    _, one, other, same = seen
    assert one.content_hash != other.content_hash
    assert (other.supersedes, same.pk) == (one.pk, other.pk)
    (change,) = other.changes
    for words in (change["before"], change["after"]):
        assert words.startswith("Too large to show here (")
        assert len(words) < 150
    with pytest.raises(Stale):
        responding.respond(approval_id=one.pk, by=author, approved=True)


def test_what_a_restart_asks_again_shows_what_changed(run: Start, author: User) -> None:
    execution = run(template(block("a", agentId="test.record"), block("b", "a", humanInLoop={})))
    first = asked(execution)
    answer(execution, "b", author)
    request = RestartRequest(from_block="a")
    restarting.restart(execution_id=execution.pk, by=author, request=request)
    drain(execution)
    again = asked(execution)
    assert again.supersedes == first.pk
    assert again.changes
    assert all(change["pointer"].startswith("/facts") for change in again.changes)


@pytest.mark.parametrize("value", ["input.manager", "[input.manager]"])
def test_the_run_says_who_is_asked(run: Start, author: User, value: str) -> None:
    human: dict[str, Any] = {"humanInLoop": {"assignees": {"expression": value}}}
    execution = run(template(block("b", **human)), input={"manager": author.username})
    question = asked(execution)
    assert question.assigned
    assert [each.user for each in question.assignees.all()] == [author]
    other = run(template(block("b", **human)), input={"manager": 3})
    assert not asked(other).assigned
    assert "names nobody" in asked(other).assignment_note
