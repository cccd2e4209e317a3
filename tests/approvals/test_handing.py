"""Claims, delegations, reassignments, absences and comments."""

from __future__ import annotations

import uuid
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone

from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from approvals.models import Approval, ApprovalVote
from executions.ports import LevelAsk
from tests.approvals.conftest import URL, Office
from tests.factories.approvals import ApprovalFactory, ApprovalLevelFactory
from tests.factories.governance import client_of, member
from tests.history import check

from .test_levels import DAY, asked, go_away, pending, respond


def post(user: User | None, approval: Approval, action: str, **body: Any) -> Any:
    return client_of(user).post(f"{URL}/{approval.pk}/{action}", body, format="json")


def shown(user: User, approval: Approval) -> dict[str, Any]:
    found: dict[str, Any] = client_of(user).get(f"{URL}/{approval.pk}").json()
    return found


def test_who_claims_it_answers_it(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    assert post(office.approver, approval, "claim").status_code == 200
    assert post(office.approver, approval, "claim").status_code == 200
    assert shown(office.viewer, approval)["claimedBy"] == office.approver.username
    for action, body in [("claim", {}), ("respond", {"approved": True})]:
        late = post(office.colleague, approval, action, **body)
        assert (late.status_code, late.json()["code"]) == (409, "claimed_by_other")
        assert late.json()["claimedBy"] == office.approver.username
    assert post(office.colleague, approval, "release").status_code == 403
    assert post(office.approver, approval, "release").status_code == 200
    assert respond(office.colleague, approval).status_code == 200
    assert post(office.approver, approval, "claim").json()["code"] == "already_decided"


def test_a_claim_lapses_and_an_operator_takes_it_away(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    post(office.approver, approval, "claim")
    Approval.objects.filter(pk=approval.pk).update(claimed_at=timezone.now() - timedelta(minutes=31))
    assert post(office.colleague, approval, "claim").status_code == 200
    assert post(office.operator, approval, "release").status_code == 200
    entry = AuditEntry.objects.get(action="approval.release")
    assert entry.detail["onBehalfOf"] == office.colleague.username
    assert shown(office.viewer, approval)["claimedBy"] is None


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("claim", {}),
        ("release", {}),
        ("delegate", {"to": "x", "reason": "y"}),
        ("reassign", {"to": "x", "reason": "y"}),
        ("comments", {"text": "y"}),
    ],
)
def test_strangers_see_nothing_and_onlookers_do_nothing(
    office: Office, action: str, body: dict[str, str]
) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    assert post(None, approval, action, **body).status_code == 401
    assert post(office.stranger, approval, action, **body).status_code == 404
    assert client_of(office.approver).post(f"{URL}/{uuid.uuid4()}/{action}", body).status_code == 404
    if action != "release":  # nobody holds it, so there is nothing to do
        assert post(office.viewer, approval, action, **body).status_code == 403


def test_a_delegate_answers_in_the_place_of_who_gave_it(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver])
    approval = ApprovalFactory.create(workspace=office.workspace, level="finance")
    assert pending(office.colleague) == []
    to = office.colleague.username
    assert post(office.approver, approval, "delegate", to=to, reason="On a train.").status_code == 200
    assert pending(office.colleague) == [str(approval.pk)]
    assert pending(office.approver) == []
    assert respond(office.approver, approval).status_code == 403
    back = post(office.colleague, approval, "delegate", to=office.approver.username, reason="No.")
    assert (back.status_code, back.json()["code"]) == (409, "delegation_loop")
    (row,) = shown(office.viewer, approval)["assignees"]
    assert (row["user"], row["delegatedBy"], row["reason"]) == (to, office.approver.username, "On a train.")
    assert respond(office.colleague, approval).status_code == 200
    assert ApprovalVote.objects.get().evidence["permission"]["via"] == "delegation"


def test_a_delegation_is_for_who_may_decide_and_ends_somewhere(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    for to in (office.viewer.username, office.stranger.username, "nobody", office.approver.username):
        refused = post(office.approver, approval, "delegate", to=to, reason="x")
        assert (refused.status_code, refused.json()["code"]) == (422, "bad_recipient")
    people = [office.approver, office.colleague, *(member(office.workspace, Role.APPROVER) for _ in range(3))]
    for giver, taker in pairwise(people[:4]):
        assert post(giver, approval, "delegate", to=taker.username, reason="x").status_code == 200
    once_more = post(people[3], approval, "delegate", to=people[4].username, reason="x")
    assert once_more.json()["code"] == "too_many_delegations"


def test_an_operator_reassigns_on_behalf_of_those_who_were_asked(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.admin])
    approval = ApprovalFactory.create(workspace=office.workspace)
    assert post(office.approver, approval, "reassign", to="x", reason="x").status_code == 403
    assert post(office.operator, approval, "reassign", reason="x").json()["code"] == "invalid_input"
    assert post(office.operator, approval, "reassign", toLevel="nope", reason="x").status_code == 422
    assert post(office.operator, approval, "reassign", toGroup="nope", reason="x").status_code == 422
    to = office.colleague.username
    assert post(office.operator, approval, "reassign", to=to, reason="Mara is ill.").status_code == 200
    assert (pending(office.approver), pending(office.colleague)) == ([], [str(approval.pk)])
    entry = AuditEntry.objects.get(action="approval.reassign")
    assert entry.actor_id == office.operator.pk
    assert (entry.detail["onBehalfOf"], entry.detail["to"]) == (["level user"], to)
    assert post(office.operator, approval, "reassign", toLevel="finance", reason="x").status_code == 200
    assert (pending(office.colleague), pending(office.admin)) == ([], [str(approval.pk)])


def test_a_deputy_answers_while_one_is_away_and_the_record_names_both(office: Office) -> None:
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver])
    approval = ApprovalFactory.create(workspace=office.workspace, level="finance")
    assert respond(office.colleague, approval).status_code == 403
    assert go_away(office.approver, deputy=office.colleague.username).status_code == 201
    assert pending(office.colleague) == pending(office.approver) == [str(approval.pk)]
    assert respond(office.colleague, approval).status_code == 200
    (vote,) = shown(office.viewer, approval)["votes"]
    assert (vote["user"], vote["onBehalfOf"]) == (office.colleague.username, office.approver.username)
    assert vote["evidence"]["permission"]["via"] == "deputy"


def test_a_deputy_who_is_away_too_passes_it_on(office: Office) -> None:
    third = member(office.workspace, Role.APPROVER)
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver])
    approval = ApprovalFactory.create(workspace=office.workspace, level="finance")
    go_away(office.colleague, deputy=third.username)
    go_away(office.approver, deputy=office.colleague.username)
    assert pending(third) == [str(approval.pk)]
    loop = go_away(third, deputy=office.approver.username)
    assert (loop.status_code, loop.json()["code"]) == (409, "deputy_loop")


def finance_of_two(office: Office, **fields: Any) -> tuple[Approval, User]:
    """Two of three have to agree: the approver, the administrator and one more; not the colleague."""
    third = member(office.workspace, Role.APPROVER)
    ApprovalLevelFactory.create(workspace=office.workspace, members=[office.approver, office.admin, third])
    return asked(office, LevelAsk("finance", DAY, quorum="2"), **fields), third


def open_still(approval: Approval) -> bool:
    approval.refresh_from_db()
    return approval.status == "pending"


def test_who_has_voted_has_nothing_to_give_away(office: Office) -> None:
    approval, third = finance_of_two(office)
    assert respond(office.approver, approval).status_code == 200
    given = post(office.approver, approval, "delegate", to=office.colleague.username, reason="x")
    assert (given.status_code, given.json()["code"]) == (409, "already_voted")
    assert post(office.approver, approval, "claim").json()["code"] == "already_voted"
    assert respond(office.colleague, approval).status_code == 403
    assert open_still(approval)
    assert respond(third, approval).status_code == 200
    assert not open_still(approval)


def test_a_deputy_does_not_vote_again_for_who_has_voted(office: Office) -> None:
    approval, _ = finance_of_two(office)
    respond(office.approver, approval)
    go_away(office.approver, deputy=office.colleague.username)
    assert pending(office.colleague) == []
    assert respond(office.colleague, approval).status_code == 403
    assert open_still(approval)


def test_two_deputies_of_one_have_one_vote_and_so_has_who_comes_back(office: Office) -> None:
    approval, third = finance_of_two(office)
    second = member(office.workspace, Role.APPROVER)
    for deputy in (office.colleague, second):
        assert go_away(office.approver, deputy=deputy.username).status_code == 201
    assert pending(office.colleague) == pending(second) == [str(approval.pk)]
    assert respond(office.colleague, approval).status_code == 200
    for person in (second, office.approver):
        assert pending(person) == []
        assert respond(person, approval).status_code == 403
    assert open_still(approval)
    to = post(third, approval, "delegate", to=office.approver.username, reason="x")
    assert (to.status_code, to.json()["code"]) == (422, "bad_recipient")
    assert respond(third, approval).status_code == 200
    assert not open_still(approval)
    assert respond(office.approver, approval).json()["code"] == "already_decided"


@pytest.mark.parametrize("how", ["deputy", "delegation"])
def test_the_history_counts_places_and_not_people(office: Office, how: str) -> None:
    approval, third = finance_of_two(office)
    for person in (office.approver, third):
        assert respond(person, approval).status_code == 200
    few = f"the question {approval.pk} of ask is approved by 1 of the 2 that level 0 asks for"
    assert few not in [each.what for each in check([approval.execution_id])]
    if how == "deputy":
        approval.votes.filter(user=third).update(on_behalf_of=office.approver)
    else:
        approval.assignees.create(user=third, delegated_by=office.approver)
    assert few in [each.what for each in check([approval.execution_id])]


def test_a_part_given_away_is_not_the_deputys_too(office: Office) -> None:
    approval, _ = finance_of_two(office)
    second, delegate = (member(office.workspace, Role.APPROVER) for _ in range(2))
    for deputy in (office.colleague, second):
        go_away(office.approver, deputy=deputy.username)
    to = delegate.username
    assert post(office.colleague, approval, "delegate", to=to, reason="x").status_code == 200
    (row,) = shown(office.viewer, approval)["assignees"]
    assert (row["user"], row["delegatedBy"]) == (to, office.approver.username)
    entry = AuditEntry.objects.get(action="approval.delegate")
    assert (entry.actor_id, entry.detail["onBehalfOf"]) == (office.colleague.pk, office.approver.username)
    for person in (office.colleague, second, office.approver):
        assert pending(person) == []
        assert respond(person, approval).status_code == 403
    assert respond(delegate, approval).status_code == 200
    assert open_still(approval)


def test_a_quorum_is_not_handed_to_too_few(office: Office) -> None:
    approval, third = finance_of_two(office)
    to = office.colleague.username
    refused = post(office.operator, approval, "reassign", to=to, reason="x")
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_recipient")
    assert "no more than 1" in refused.json()["detail"]
    assert pending(third) == [str(approval.pk)]  # as before
    assert respond(office.approver, approval).status_code == 200
    assert post(office.operator, approval, "reassign", to=to, reason="x").status_code == 200
    assert respond(office.colleague, approval).status_code == 200
    assert not open_still(approval)


def test_one_of_those_asked_does_not_take_anothers_part_where_both_are_needed(office: Office) -> None:
    approval, third = finance_of_two(office)
    give = {"to": third.username, "reason": "x"}
    assert post(office.admin, approval, "delegate", **give).status_code == 200  # two are left
    refused = post(office.approver, approval, "delegate", **give)
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_recipient")
    outside = {"to": office.colleague.username, "reason": "x"}
    assert post(office.approver, approval, "delegate", **outside).status_code == 200
    for person in (third, office.colleague):
        assert respond(person, approval).status_code == 200
    assert not open_still(approval)


def test_absences_are_ones_own_bounded_and_end_when_removed(office: Office) -> None:
    other = office.colleague.username
    for body, status in [
        ({"user": other}, 403),
        ({"deputy": office.approver.username}, 400),
        ({"deputy": office.viewer.username}, 400),
        ({"endsAt": "2000-01-01T00:00:00Z"}, 400),
        ({"endsAt": "2100-01-01T00:00:00Z"}, 400),
        ({"startsAt": "soon"}, 400),
    ]:
        assert go_away(office.approver, **body).status_code == status, body
    assert go_away(office.admin, user=other).status_code == 201
    (one,) = client_of(office.viewer).get(f"{URL}/absences").json()["absences"]
    assert (one["user"], one["deputy"]) == (other, None)
    path = f"{URL}/absences/{one['id']}"
    assert client_of(office.stranger).delete(path).status_code == 404
    assert client_of(office.approver).delete(path).status_code == 403
    assert client_of(office.colleague).delete(path).status_code == 204


def test_comments_decide_nothing(office: Office) -> None:
    approval = ApprovalFactory.create(workspace=office.workspace)
    said = post(office.operator, approval, "comments", text="Ask Jonas.")
    assert (said.status_code, said.json()["user"]) == (201, office.operator.username)
    found = shown(office.viewer, approval)
    assert [remark["text"] for remark in found["remarks"]] == ["Ask Jonas."]
    assert found["status"] == "pending"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"zone": "Mars/Base"}, "/zone"),
        ({"workingDays": [0]}, "/workingDays"),
        ({"workingDays": []}, "/workingDays"),
        ({"dayBegins": "18:00", "dayEnds": "09:00"}, "/dayEnds"),
        ({"country": "XX"}, "/country"),
        ({"holidays": ["Christmas"]}, "/holidays/0"),
        ({"unknown": 1}, "/unknown"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(office: Office, body: dict[str, Any], pointer: str) -> None:
    reply = client_of(office.admin).patch(
        f"{URL}/policy?workspaceId={office.workspace.pk}", body, format="json"
    )
    assert reply.status_code == 400
    assert pointer in [issue["pointer"] for issue in reply.json()["issues"]]
