"""Engine tests in this process: walkers are called here instead of by messages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from agentflow.types import JSONObject, JSONValue
from approvals.models import Approval
from approvals.services import responding
from executions.engine.facts import Facts, facts_of
from executions.engine.judging import Change, Claim
from executions.engine.turns import Turn, take_turn
from executions.engine.walker import walk
from executions.models import AttemptOutcome, BlockExecution, Execution
from executions.services import reconcile, starting
from executions.states import BlockStatus
from templates_app.models import TemplateVersion
from tests import builtins
from tests.factories.governance import UserFactory, WorkspaceFactory
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

Start = Callable[..., Execution]


@pytest.fixture
def author(transactional_db: None) -> User:
    return UserFactory.create()


@pytest.fixture
def version_of(author: User) -> Callable[[JSONObject], TemplateVersion]:
    workspace = WorkspaceFactory.create()
    grant(user=author, role=Role.ADMIN, workspace=workspace, by=None)

    def make(definition: JSONObject) -> TemplateVersion:
        template = TemplateFactory.create(workspace=workspace, created_by=author, name=definition["name"])
        return TemplateVersionFactory.create(template=template, definition=definition)

    return make


@pytest.fixture
def start(author: User, version_of: Callable[[JSONObject], TemplateVersion]) -> Start:
    """Accept a run of a definition: `start({...}, input={...}, simulation={...})`."""

    def make(definition: JSONObject, **options: Any) -> Execution:
        options.setdefault("input", {})
        return starting.start(version=version_of(definition), by=author, **options)

    return make


@pytest.fixture
def run(start: Start) -> Start:
    """The same, and walk it until nothing is ready for a walker, its children too."""

    def make(definition: JSONObject, **options: Any) -> Execution:
        execution = start(definition, **options)
        drain(execution)
        return execution

    return make


def drain(execution: Execution) -> None:
    """Walk a run and its children until they only wait or have ended."""
    _walk(execution)
    for child in Execution.objects.filter(
        parent_block__execution=execution, parent_block__status=BlockStatus.WAITING_EXTERNAL
    ):
        if child.completed_at is None:
            drain(child)
        reconcile.look(execution.pk)
        _walk(execution)
    execution.refresh_from_db()


def _walk(execution: Execution) -> None:
    """Until nothing is left: on a busy machine a walker's slice is over before that."""
    while walk(execution.pk):
        pass


def block(block_id: str, *dependencies: str, **fields: Any) -> JSONObject:
    """A block that calls `builtin.echo`, unless another agent is named."""
    return {"blockId": block_id, "agentId": "builtin.echo", "dependencies": list(dependencies), **fields}


def template(*blocks: JSONObject, **settings: Any) -> JSONObject:
    return {"name": "test", "blocks": list(blocks), **({"globalSettings": settings} if settings else {})}


@pytest.fixture(autouse=True)
def test_agents(settings: Any) -> None:
    settings.AGENTFLOW_BUILTIN_AGENTS = {**settings.AGENTFLOW_BUILTIN_AGENTS, **builtins.AGENTS}
    builtins.calls.clear()
    builtins.on_call.clear()
    builtins.gate.clear()


def answer(execution: Execution, block_id: str, by: User, **decision: Any) -> None:
    """Decide the open question of a block, and let the run go on."""
    asked = Approval.objects.get(execution=execution, block_id=block_id, status="pending")
    decision.setdefault("approved", True)
    responding.respond(approval_id=asked.pk, by=by, **decision)
    drain(execution)


def make_due(execution: Execution) -> None:
    """Let the time pass that a backoff waits for."""
    BlockExecution.objects.filter(execution=execution, available_at__isnull=False).update(available_at=Now())


def lose_worker(execution: Execution, block_id: str) -> None:
    """The lease of a running block runs out, as when its worker was killed."""
    changed = BlockExecution.objects.filter(execution=execution, block_id=block_id, status="running").update(
        lease_expires_at=Now() - timedelta(seconds=1)
    )
    assert changed == 1


def row(execution: Execution, block_id: str) -> BlockExecution:
    return BlockExecution.objects.get(execution=execution, block_id=block_id, iteration=0)


def claim(execution: Execution) -> Claim:
    """Take the one ready block, as a worker that then does nothing more."""
    (held,) = take_turn(facts(execution), uuid4(), [], want=1).claims
    return held


def finish(execution: Execution, held: Claim, output: JSONValue, *, want: int = 0) -> Turn:
    """What the worker that holds a claim does when its agent has answered."""
    change = Change(
        pk=held.pk,
        idx=held.idx,
        iteration=held.iteration,
        attempt=held.attempt,
        status=BlockStatus.COMPLETED,
        output=output,
        ended=AttemptOutcome.OK,
    )
    return take_turn(facts(execution), uuid4(), [change], want=want)


def facts(execution: Execution) -> Facts:
    found = facts_of(execution.pk)
    assert found is not None
    return found
