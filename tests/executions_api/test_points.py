"""executions/{id}/recovery-points: list, make, delete, go back."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from agentflow.events.models import Event
from executions import narration
from executions.models import Execution, RecoveryPoint
from tests.factories.executions import ExecutionFactory, statuses
from tests.factories.governance import client_of

from .conftest import URL, Team


def ended(team: Team) -> Execution:
    return ExecutionFactory.create(
        workspace=team.workspace,
        graph="a -> b -> c",
        status="failed",
        completed=["a"],
        failed=["b"],
        skipped=["c"],
    )


def post(by: Any, path: str, body: Any = None, **headers: Any) -> Any:
    return client_of(by).post(f"{URL}/{path}", body or {}, format="json", **headers)


def test_a_point_is_made_listed_and_gone_back_to(team: Team) -> None:
    execution = ended(team)
    base = f"{execution.pk}/recovery-points"
    first = post(team.operator, base)
    second = post(team.operator, base, {"name": "Before the repair"})
    assert (first.status_code, second.status_code) == (201, 201)
    listed = client_of(team.viewer).get(f"{URL}/{base}?limit=1").json()
    assert listed == {"recoveryPoints": [second.json()], "total": 2}
    made = second.json()
    assert {key: made[key] for key in ("kind", "name", "epoch", "settled", "createdBy")} == {
        "kind": "manual",
        "name": "Before the repair",
        "epoch": 1,
        "settled": 3,
        "createdBy": team.operator.username,
    }
    logs = client_of(team.viewer).get(f"{URL}/{execution.pk}/logs?after={made['cursor']}")
    assert (logs.status_code, logs.json()["total"]) == (200, 0)
    detail = client_of(team.viewer).get(f"{URL}/{execution.pk}?fields=recoveryPoints").json()
    assert [each["recoveryPointId"] for each in detail["recoveryPoints"]] == [
        made["recoveryPointId"],
        first.json()["recoveryPointId"],
    ]
    plan = post(team.operator, f"{execution.pk}/restart-plan", {"recoveryPointId": made["recoveryPointId"]})
    assert (plan.json()["reruns"], plan.json()["carried"]) == (["b", "c"], ["a"])
    back = post(team.operator, f"{base}/{made['recoveryPointId']}/restore", {"planId": plan.json()["planId"]})
    assert (back.status_code, back.json()) == (200, {"success": True, "epoch": 2})
    assert statuses(Execution.objects.get(pk=execution.pk)) == {
        "a": "completed",
        "b": "ready",
        "c": "blocked",
    }


def test_the_same_key_makes_one_point_and_goes_back_once(team: Team) -> None:
    execution = ended(team)
    base = f"{execution.pk}/recovery-points"
    key = {"HTTP_IDEMPOTENCY_KEY": "one"}
    made = [post(team.operator, base, **key).json() for _ in range(2)]
    assert made[0] == made[1]
    assert RecoveryPoint.objects.filter(execution=execution).count() == 1
    path = f"{base}/{made[0]['recoveryPointId']}/restore"
    back = [post(team.operator, path, HTTP_IDEMPOTENCY_KEY="two").json() for _ in range(2)]
    assert back == [{"success": True, "epoch": 2}] * 2


def test_a_point_can_be_deleted(team: Team) -> None:
    execution = ended(team)
    made = post(team.operator, f"{execution.pk}/recovery-points").json()["recoveryPointId"]
    path = f"{URL}/{execution.pk}/recovery-points/{made}"
    assert client_of(team.viewer).delete(path).status_code == 403
    assert client_of(team.operator).delete(path).status_code == 204
    assert client_of(team.operator).delete(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "pointer"),
    [
        ("recovery-points", {"name": 7}, 400, "invalid_input", "/name"),
        ("recovery-points", {"name": "x" * 201}, 400, "invalid_input", "/name"),
        ("recovery-points", {"nmae": "x"}, 400, "invalid_input", "/nmae"),
        ("recovery-points/1/restore", {"planId": 7}, 400, "invalid_input", "/planId"),
        ("recovery-points/999999999/restore", {}, 404, "not_found", ""),
        (f"recovery-points/{'9' * 30}/restore", {}, 404, "not_found", ""),
        ("restart", {"recoveryPointId": 10**15}, 404, "not_found", ""),
        ("restart", {"recoveryPointId": 0}, 400, "invalid_input", "/recoveryPointId"),
        ("restart", {"recoveryPointId": 1, "fromBlock": "a"}, 400, "invalid_input", "/recoveryPointId"),
    ],
)
def test_a_bad_request_says_what_is_wrong(
    team: Team, path: str, body: Any, status: int, code: str, pointer: str
) -> None:
    reply = post(team.operator, f"{ended(team).pk}/{path}", body)
    assert reply.status_code == status, reply.content
    if pointer:
        assert pointer in str(reply.json())
    else:
        assert reply.json()["code"] == code


def test_who_may_what(team: Team) -> None:
    execution = ended(team)
    base = f"{execution.pk}/recovery-points"
    made = post(team.operator, base).json()["recoveryPointId"]
    for path in (base, f"{base}/{made}/restore"):
        assert post(team.viewer, path).status_code == 403
        assert post(team.stranger, path).status_code == 404
    assert client_of(team.stranger).get(f"{URL}/{base}").status_code == 404
    assert post(team.operator, f"{uuid4()}/recovery-points").status_code == 404
    other = ended(team)
    assert post(team.operator, f"{other.pk}/recovery-points/{made}/restore").status_code == 404


def test_a_fork_is_accepted_once_and_shows_where_it_began(team: Team) -> None:
    execution = ended(team)
    body = {"outputs": {"a": {"n": 2}}}
    replies = [post(team.operator, f"{execution.pk}/fork", body, HTTP_IDEMPOTENCY_KEY="f") for _ in range(2)]
    assert [reply.status_code for reply in replies] == [201, 201]
    assert replies[0].json() == replies[1].json()
    assert Execution.objects.count() == 2
    found = replies[0].json()
    assert found["status"] == "pending"
    shown = client_of(team.viewer).get(f"{URL}/{found['executionId']}").json()
    assert shown["forkedFrom"] == {
        "executionId": str(execution.pk),
        "epoch": 1,
        "recoveryPointId": None,
    }
    assert shown["globalContext"] == {"a": {"n": 2}}
    (block,) = [one for one in shown["blockExecutions"] if one["blockId"] == "a"]
    assert block["edited"]["by"] == team.operator.username
    output = f"{URL}/{found['executionId']}/blocks/a/output"
    assert client_of(team.viewer).get(output).json() == {"n": 2}
    assert client_of(team.viewer).get(f"{output}?original=true").json() == {}


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"outputs": {"zz": 1}}, 422, "/outputs/zz"),
        ({"outputs": {"b": 1}}, 422, "/outputs/b"),
        ({"outputs": [1]}, 400, "/outputs"),
        ({"input": 7}, 400, "/input"),
        ({"fromBlock": "zz"}, 400, "/fromBlock"),
        ({"recoveryPointId": "x"}, 400, "/recoveryPointId"),
        ({"recoveryPointId": 10**15}, 404, ""),
    ],
)
def test_a_bad_fork_says_what_is_wrong(team: Team, body: Any, status: int, pointer: str) -> None:
    reply = post(team.operator, f"{ended(team).pk}/fork", body)
    assert reply.status_code == status, reply.content
    assert pointer in str(reply.json())
    assert Execution.objects.count() == 1


def test_who_may_fork(team: Team) -> None:
    execution = ended(team)
    assert post(team.viewer, f"{execution.pk}/fork").status_code == 403
    assert post(team.stranger, f"{execution.pk}/fork").status_code == 404
    assert post(team.author, f"{execution.pk}/fork").status_code == 403
    assert post(team.author, f"{execution.pk}/fork", {"simulation": {}}).status_code == 201


# -- PATCH executions/{id}/context ---------------------------------------------


def edit(by: Any, execution: Execution, body: Any) -> Any:
    return client_of(by).patch(f"{URL}/{execution.pk}/context", body, format="json")


def paused(team: Team) -> Execution:
    columns: Any = {"graph": "a -> b", "status": "paused", "completed": ["a"]}
    return ExecutionFactory.create(workspace=team.workspace, **columns)


def test_an_edit_of_the_context_shows_beside_what_the_block_gave(team: Team) -> None:
    execution = paused(team)
    reply = edit(team.operator, execution, {"outputs": {"a": {"n": 2}}, "reason": "Wrong."})
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    viewer = client_of(team.viewer)
    shown = viewer.get(f"{URL}/{execution.pk}/blocks/a").json()
    assert (shown["output"], shown["edited"]["by"]) == ({"n": 2}, team.operator.username)
    original = viewer.get(f"{URL}/{execution.pk}/blocks/a/output?original=true").json()
    assert original == shown["originalOutput"] != {"n": 2}
    told = Event.objects.get(execution_id=execution.pk, type="block_edited")
    said = "put another output in place of what step “a” gave; later steps see that one."
    words = narration.sentence(told.type, told.block_id, told.payload)
    assert words == f"{team.operator.username} {said}"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "/outputs"),
        ({"outputs": {}}, 400, "/outputs"),
        ({"outputs": []}, 400, "/outputs"),
        ({"outputs": {"a": 1}, "x": 1}, 400, "/x"),
        ({"outputs": {"nobody": 1}}, 422, "/outputs/nobody"),
        ({"outputs": {"b": 1}}, 422, "not_completed"),
        ({"outputs": {"a": "x" * 262_143}}, 422, "output_too_large"),
    ],
)
def test_a_bad_edit_says_what_is_wrong(team: Team, body: Any, status: int, said: str) -> None:
    reply = edit(team.operator, paused(team), body)
    assert reply.status_code == status, reply.content
    assert said in str(reply.json())


def test_who_may_edit_and_when(team: Team) -> None:
    execution, body = paused(team), {"outputs": {"a": 1}}
    assert edit(team.viewer, execution, body).status_code == 403
    assert edit(team.stranger, execution, body).status_code == 404
    refused = edit(team.operator, ended(team), body)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_paused")
