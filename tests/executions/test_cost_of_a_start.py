"""What starts cost, in statements and commits: counted, for each is a round trip before the first block."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from django.test import Client

from agentflow.api.authentication import access_token
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.engine.turns import take_turn
from executions.engine.walker import walk
from executions.models import Execution
from executions.services import starting
from templates_app.models import TemplateVersion
from tests.factories.agents import AgentFactory
from tests.work import statements

from .conftest import Start, block, facts, template
from .test_children import calling

VersionOf = Callable[[JSONObject], TemplateVersion]
TWO = template(block("a"), block("b", "a"))


def words(asked: list[str]) -> list[str]:
    """What each statement begins with, and the table of a plain one."""
    return [
        " ".join(each.replace('"', "").split()[: 3 if each.startswith("INSERT") else 1]) for each in asked
    ]


def test_a_start_writes_itself_and_its_audit_entry(author: User, version_of: VersionOf) -> None:
    version = version_of(TWO)

    def start() -> Execution:
        return starting.start(version=version, by=author, input={})

    start()  # what is read once in a process
    asked, commits = statements(start)
    assert words(asked) == ["WITH", "INSERT INTO governance_auditentry"]
    assert commits == 1


def test_a_start_over_http_asks_for_the_user_the_version_and_its_agents_besides(
    author: User, version_of: VersionOf
) -> None:
    version = version_of(template(block("a", agentId="asked"), block("b", "a")))
    AgentFactory.create(workspace=version.template.workspace, agent_id="asked")
    client = Client(headers={"authorization": f"Bearer {access_token(author)}"})
    body = {"templateId": str(version.template_id), "workspaceId": str(version.template.workspace_id)}

    def post(**headers: str) -> None:
        answer = client.post("/api/v1/executions", body, content_type="application/json", headers=headers)
        assert answer.status_code == 201, answer.content

    post()
    asked, commits = statements(post)
    assert words(asked) == [*["SELECT"] * 3, "WITH", "INSERT INTO governance_auditentry"]
    assert "governance_user" in asked[0]
    assert "templates_app_templateversion" in asked[1]
    assert "agents_agent" in asked[2]
    assert commits == 1
    asked, commits = statements(lambda: post(**{"idempotency-key": str(uuid4())}))
    assert words(asked) == [
        *["SELECT"] * 4,
        "WITH",
        "INSERT INTO governance_auditentry",
        "INSERT INTO api_idempotencyrecord",
    ]
    assert "pg_try_advisory_xact_lock" in asked[1]
    assert commits == 1


def test_a_run_begins_and_its_first_block_is_claimed_in_one_commit(start: Start) -> None:
    held = facts(start(TWO))
    asked, commits = statements(lambda: take_turn(held, uuid4(), [], want=1))
    assert words(asked) == ["SELECT", "WITH", "WITH"]  # the gate, the beginning, the claim
    assert commits == 1


def test_a_child_is_started_in_the_commit_that_lets_its_block_wait(
    start: Start, version_of: VersionOf
) -> None:
    """Two turns: the first claims the block, the second moves it and writes the child with its blocks."""
    execution = start(template(calling(version_of(TWO))))
    asked, commits = statements(lambda: walk(execution.pk))
    assert commits == 2
    written = [each for each in asked if "INSERT INTO executions_execution " in each]
    assert len(written) == 1
    assert len(asked) <= 11
