"""POST executions: who may start what, and everything that can be wrong with it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from agentflow.governance.models import AuditEntry, User
from executions.models import BlockExecution, Execution
from templates_app.models import TemplateVersion
from templates_app.states import VersionStatus
from tests.factories.executions import graph_definition, statuses
from tests.factories.governance import WorkspaceFactory, client_of
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

from .conftest import URL, Team

SCHEMA = {
    "type": "object",
    "required": ["order"],
    "properties": {"order": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "additionalProperties": False,
}


def version_of(team: Team, graph: str = "a -> b", **fields: Any) -> TemplateVersion:
    definition = fields.pop("definition", None) or graph_definition(graph) | fields.pop("with_", {})
    template = fields.pop("template", None) or TemplateFactory.create(
        workspace=team.workspace, created_by=team.author
    )
    version: TemplateVersion = TemplateVersionFactory.create(
        template=template, definition=definition, **fields
    )
    return version


def post(by: User | None, body: Any, **headers: Any) -> Any:
    return client_of(by).post(URL, body, format="json", **headers)


def body_of(version: TemplateVersion, **more: Any) -> dict[str, Any]:
    return {"templateId": str(version.template_id), **more}


def issues(response: Any, status: int = 400) -> dict[str, str]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    return {issue["pointer"]: issue["code"] for issue in response.json()["issues"]}


def test_an_operator_starts_the_newest_published_version(team: Team) -> None:
    version = version_of(team)
    newest = version_of(team, template=version.template, number=2, graph="a -> b -> c")
    version_of(team, template=version.template, number=3, status=VersionStatus.DRAFT)
    response = post(team.operator, body_of(version, input={"n": 1}, workspaceId=str(team.workspace.pk)))
    assert response.status_code == 201
    assert response.json() == {"executionId": response.json()["executionId"], "status": "pending"}
    execution = Execution.objects.get(pk=response.json()["executionId"])
    assert response["Location"] == f"{URL}/{execution.pk}"
    assert (execution.template_version_id, execution.created_by) == (newest.pk, team.operator)
    assert (execution.input, execution.simulation) == ({"n": 1}, None)
    assert statuses(execution) == {"a": "ready", "b": "blocked", "c": "blocked"}
    assert AuditEntry.objects.filter(action="execution.start", target_id=str(execution.pk)).count() == 1
    shown = client_of(team.viewer).get(response["Location"]).json()
    assert (shown["versionNumber"], shown["createdBy"]) == (2, team.operator.username)


@pytest.mark.parametrize("wanted", [1, "latest", None])
def test_a_version_can_be_named(team: Team, wanted: Any) -> None:
    first = version_of(team)
    second = version_of(team, template=first.template, number=2)
    response = post(team.operator, body_of(first, templateVersion=wanted))
    started = Execution.objects.get(pk=response.json()["executionId"])
    assert started.template_version_id == (first.pk if wanted == 1 else second.pk)


def test_the_same_key_starts_one_execution(team: Team) -> None:
    body = body_of(version_of(team))
    first = post(team.operator, body, HTTP_IDEMPOTENCY_KEY="once")
    again = post(team.operator, body, HTTP_IDEMPOTENCY_KEY="once")
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert Execution.objects.count() == 1


@pytest.mark.parametrize(
    ("role", "real", "simulated"),
    [
        ("viewer", 403, 403),
        ("author", 403, 201),
        ("operator", 201, 201),
        ("approver", 403, 403),
        ("admin", 201, 201),
    ],
)
def test_who_may_start(team: Team, role: str, real: int, simulated: int) -> None:
    body = body_of(version_of(team))
    person = getattr(team, role)
    assert post(person, body).status_code == real
    assert post(person, body | {"simulation": {}}).status_code == simulated


def test_a_foreign_template_looks_like_none(team: Team) -> None:
    version = version_of(team)
    foreign = post(team.stranger, body_of(version))
    absent = post(team.stranger, {"templateId": str(uuid4())})
    assert foreign.status_code == absent.status_code == 404
    assert foreign.json()["detail"] == absent.json()["detail"]
    assert post(None, body_of(version)).status_code == 401


def test_a_workspace_that_is_not_the_templates_is_refused_without_telling_which(team: Team) -> None:
    version = version_of(team)
    for workspace_id in (uuid4(), WorkspaceFactory.create().pk):
        found = issues(post(team.operator, body_of(version, workspaceId=str(workspace_id))))
        assert found == {"/workspaceId": "invalid_input"}


def test_a_draft_runs_only_simulated(team: Team) -> None:
    version = version_of(team, status=VersionStatus.DRAFT)
    for body in (body_of(version), body_of(version, templateVersion=1)):
        refused = post(team.admin, body)
        assert (refused.status_code, refused.json()["code"]) == (409, "version_not_published")
        assert post(team.author, body | {"simulation": {}}).status_code == 201


def test_deprecated_and_archived_ones_start_no_more(team: Team) -> None:
    deprecated = version_of(team, status=VersionStatus.DEPRECATED)
    response = post(team.operator, body_of(deprecated, templateVersion=1))
    assert (response.status_code, response.json()["code"]) == (409, "version_deprecated")
    assert post(team.operator, body_of(deprecated)).json()["code"] == "version_not_published"
    archived = version_of(team)
    archived.template.archived_at = timezone.now()
    archived.template.save()
    response = post(team.operator, body_of(archived, simulation={}))
    assert (response.status_code, response.json()["code"]) == (409, "template_archived")


def test_a_version_that_is_not_there_is_pointed_at(team: Team) -> None:
    version = version_of(team)
    assert issues(post(team.operator, body_of(version, templateVersion=9))) == {
        "/templateVersion": "invalid_input"
    }


@pytest.mark.parametrize("wanted", [0, -1, 1.5, True, "1", "newest", [], {}, 2**40])
def test_a_malformed_version_is_refused(team: Team, wanted: Any) -> None:
    found = issues(post(team.operator, body_of(version_of(team), templateVersion=wanted)))
    assert list(found) == ["/templateVersion"]


def test_a_real_start_says_what_is_missing_and_a_simulated_one_does_not_need_it(team: Team) -> None:
    definition = {"name": "Missing", "blocks": [{"blockId": "a", "agentId": "nobody"}]}
    body = body_of(version_of(team, definition=definition))
    refused = post(team.operator, body)
    assert issues(refused, 422) == {"/blocks/0/agentId": "unknown_agent"}
    assert refused.json()["code"] == "not_startable"
    assert Execution.objects.count() == 0
    assert post(team.operator, body | {"simulation": {"scale": 0}}).status_code == 201


def test_the_input_is_held_against_the_schema(team: Team) -> None:
    body = body_of(version_of(team, with_={"inputSchema": SCHEMA}))
    assert issues(post(team.operator, body)) == {"/input/order": "required"}
    wrong = {"order": "seven", "tags": ["a", 3], "other/x": 1}
    assert issues(post(team.operator, body | {"input": wrong})) == {
        "/input/order": "type",
        "/input/tags/1": "type",
        "/input/other~1x": "unknown_field",
    }
    assert post(team.operator, body | {"input": {"order": 7}}).status_code == 201


@pytest.mark.parametrize(
    "schema",
    [{"type": "thing"}, {"$ref": "#/$defs/none"}, {"$ref": "http://127.0.0.1:1/schema.json"}, {"$ref": "#"}],
)
def test_a_schema_that_cannot_be_used_refuses_the_start_and_fetches_nothing(
    team: Team, schema: dict[str, Any]
) -> None:
    response = post(team.operator, body_of(version_of(team, with_={"inputSchema": schema})))
    assert (response.status_code, response.json()["code"]) == (422, "unusable_schema")


GOOD_SIMULATION = {
    "scale": 0.5,
    "outputs": {"a": None},
    "failures": {
        "a": [
            {"kind": "transient", "times": 2, "code": "http_503", "retryAfterSeconds": 1.5},
            {"kind": "agent"},
            {"kind": "timeout", "attempt": 5, "outcomeUnknown": False, "ms": 3},
            {"kind": "wrongOutput", "output": None},
        ]
    },
    "answers": {"b": {"approved": True, "response": {"x": 1}}},
}


def test_a_simulation_is_kept_as_it_was_sent(team: Team) -> None:
    response = post(team.author, body_of(version_of(team), simulation=GOOD_SIMULATION))
    execution = Execution.objects.get(pk=response.json()["executionId"])
    assert execution.simulation == GOOD_SIMULATION
    assert set(BlockExecution.objects.values_list("effect", flat=True)) == {"pure"}


@pytest.mark.parametrize(
    ("simulation", "pointer"),
    [
        ([], "/simulation"),
        ({"scale": -1}, "/simulation/scale"),
        ({"scale": True}, "/simulation/scale"),
        ({"scale": "1"}, "/simulation/scale"),
        ({"speed": 1}, "/simulation/speed"),
        ({"outputs": []}, "/simulation/outputs"),
        ({"outputs": {"a/b": 1}}, "/simulation/outputs/a~1b"),
        ({"failures": {"zz": [{"kind": "agent"}]}}, "/simulation/failures/zz"),
        ({"failures": {"a": {"kind": "agent"}}}, "/simulation/failures/a"),
        ({"failures": {"a": [{"kind": "sad"}]}}, "/simulation/failures/a/0/kind"),
        ({"failures": {"a": [{"kind": "agent", "times": 0}]}}, "/simulation/failures/a/0/times"),
        ({"failures": {"a": [{"kind": "agent", "times": True}]}}, "/simulation/failures/a/0/times"),
        ({"failures": {"a": [{"kind": "slow"}]}}, "/simulation/failures/a/0/ms"),
        ({"failures": {"a": [{"kind": "slow", "ms": 1, "code": "x"}]}}, "/simulation/failures/a/0/code"),
        ({"failures": {"a": [{"kind": "agent", "ms": 1}]}}, "/simulation/failures/a/0/ms"),
        ({"failures": {"a": [{"kind": "agent", "output": 1}]}}, "/simulation/failures/a/0/output"),
        ({"failures": {"a": [{"kind": "agent", "code": "No!"}]}}, "/simulation/failures/a/0/code"),
        (
            {"failures": {"a": [{"kind": "agent", "times": 2, "attempt": 1}]}},
            "/simulation/failures/a/0/attempt",
        ),
        ({"answers": {"a": {}}}, "/simulation/answers/a/approved"),
        ({"answers": {"a": {"approved": "yes"}}}, "/simulation/answers/a/approved"),
        ({"answers": {"a": {"approved": True, "by": "me"}}}, "/simulation/answers/a/by"),
        ({"answers": {"zz": {"approved": True}}}, "/simulation/answers/zz"),
    ],
)
def test_a_wrong_simulation_is_pointed_at(team: Team, simulation: Any, pointer: str) -> None:
    assert list(issues(post(team.operator, body_of(version_of(team), simulation=simulation)))) == [pointer]


OWN_FIELDS = [
    "id",
    "executionId",
    "status",
    "epoch",
    "createdBy",
    "created_by",
    "workspace",
    "workspace_id",
    "template_version",
    "openSinks",
    "maxParallel",
    "parentBlock",
    "depth",
    "error",
    "startedAt",
    "deadlineAt",
]


@pytest.mark.parametrize("field", OWN_FIELDS)
def test_what_the_server_sets_cannot_be_sent(team: Team, field: str) -> None:
    assert issues(post(team.operator, body_of(version_of(team), **{field: "x"}))) == {
        f"/{field}": "unknown_field"
    }


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b'{"templateId": "x"}', 400),
        (b'{"templateId": 7}', 400),
        (b'{"templateId": null}', 400),
        (b'{"templateId": "ID", "templateId": "ID"}', 400),
        (b'{"templateId": "ID", "input": {"a": NaN}}', 400),
        (b'{"templateId": "ID", "input": {"a": "\\u0000"}}', 400),
        (b'{"templateId": "ID", "input": {"\\u0000": 1}}', 400),
        (b'{"templateId": "ID", "input": {"a": "\\ud800"}}', 400),
        (b'{"templateId": "ID", "input": []}', 400),
        (b'{"templateId": "ID", "input": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}", 400),
        (b'{"templateId": "ID", "input": {"a": "' + b"x" * 1_100_000 + b'"}}', 413),
        (b"\xff\xfe", 400),
    ],
)
def test_a_malformed_body_is_a_problem_and_starts_nothing(team: Team, raw: bytes, status: int) -> None:
    version = version_of(team)
    sent = raw.replace(b"ID", str(version.template_id).encode())
    response = client_of(team.operator).post(URL, sent, content_type="application/json")
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    assert json.loads(response.content)["code"]
    assert Execution.objects.count() == 0


def test_a_form_is_not_a_body(team: Team) -> None:
    response = client_of(team.operator).post(URL, {"templateId": "x"}, format="multipart")
    assert response.status_code == 415
