"""What people do at once, each on a connection of its own: starts, deletions, revocations, answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction

from agentflow.errors import AgentflowError, NotFound, NotPermitted
from agentflow.governance import audit
from agentflow.governance.models import AuditEntry, User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import revoke
from agentflow.types import JSONObject
from approvals.models import Approval
from approvals.services.responding import respond
from executions.engine.walker import walk
from executions.services import locking, reconcile, starting
from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring
from tests.factories.executions import statuses
from tests.factories.governance import WorkspaceFactory, member
from tests.history import check
from tests.waiting import PATIENCE_S, until

from .conftest import Start, block, drain, template

TIMES = 10
VersionOf = Callable[[JSONObject], TemplateVersion]


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What each gave, or the refusal it met; all begin together."""
    barrier = threading.Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        try:
            barrier.wait(PATIENCE_S)
            return work()
        except AgentflowError as refused:
            return refused
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as crowd:
        return list(crowd.map(one, works))


def waits_for_a_lock() -> bool:
    """Whether another connection of this database waits for what a transaction holds."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE a.datname = current_database() AND NOT l.granted"
        )
        return bool(cursor.fetchone()[0])


# -- a template is deleted while it is started -----------------------------------


def test_a_start_and_a_deletion_at_once_leave_a_run_or_no_template(
    author: User, version_of: VersionOf
) -> None:
    for _ in range(TIMES):
        version = version_of(template(block("a")))
        started, deleted = at_once(
            partial(starting.start, version=version, by=author, input={}),
            partial(authoring.delete_template, template_id=version.template_id, by=author),
        )
        left = Template.objects.filter(pk=version.template_id)
        if isinstance(started, NotFound):
            assert deleted is True
            assert not left.exists()
        else:
            assert deleted is False
            assert left.get().archived_at is not None
            drain(started)
            assert started.status == "completed"
            assert check([started.pk], at_rest=True) == []


def test_an_accepted_start_is_refused_when_its_template_goes_before_it_is_written(
    author: User, version_of: VersionOf
) -> None:
    version = version_of(template(block("a")))
    authoring.delete_template(template_id=version.template_id, by=author)
    with pytest.raises(NotFound):
        starting.start(version=version, by=author, input={})


def test_a_deletion_waits_for_a_start_that_has_not_committed(author: User, version_of: VersionOf) -> None:
    version = version_of(template(block("a")))
    delete = partial(authoring.delete_template, template_id=version.template_id, by=author)
    with ThreadPoolExecutor(1) as other:
        with transaction.atomic():
            execution = starting.start(version=version, by=author, input={})
            deleted = other.submit(lambda: at_once(delete)[0])
            until(waits_for_a_lock, why="the deletion to wait for the start")
        assert deleted.result(PATIENCE_S) is False
    drain(execution)
    assert execution.status == "completed"


# -- a right is taken away while it is used ----------------------------------------


def test_a_right_that_was_taken_away_before_the_decision_no_longer_counts(run: Start) -> None:
    """The answer has been let in, and waits for its execution; the right goes, and then it may go on."""
    execution = run(template(block("a", humanInLoop={"type": "approval"})))
    asked = Approval.objects.get(execution=execution)
    approver = member(asked.execution.workspace, Role.APPROVER)
    with ThreadPoolExecutor(2) as others:
        with transaction.atomic():
            locking.lock(execution.pk)
            answer = partial(respond, approval_id=asked.pk, by=approver, approved=True)
            answered = others.submit(lambda: at_once(answer)[0])
            until(waits_for_a_lock, why="the answer to wait for the execution")
            take = partial(revoke, user=approver, role=Role.APPROVER, workspace=asked.execution.workspace)
            others.submit(lambda: at_once(take)).result(PATIENCE_S)
        refused = answered.result(PATIENCE_S)
    assert isinstance(refused, NotPermitted | NotFound)
    asked.refresh_from_db()
    assert asked.status == "pending"
    assert statuses(execution) == {"a": "waiting_human"}


def test_an_answer_and_a_revocation_at_once_leave_one_answer_or_none(run: Start) -> None:
    for _ in range(TIMES):
        execution = run(template(block("a", humanInLoop={"type": "approval"})))
        asked = Approval.objects.get(execution=execution)
        approver = member(execution.workspace, Role.APPROVER)
        answer = partial(respond, approval_id=asked.pk, by=approver, approved=True)
        taken = partial(revoke, user=approver, role=Role.APPROVER, workspace=execution.workspace)
        answered, _ = at_once(answer, taken)
        asked.refresh_from_db()
        if isinstance(answered, AgentflowError):
            assert isinstance(answered, NotPermitted | NotFound)
            assert asked.status == "pending"
        else:
            assert (asked.status, asked.responder) == ("approved", approver)
        assert isinstance(at_once(answer)[0], AgentflowError)  # from now on, surely
        assert check([execution.pk]) == []


# -- a message comes before the commit that it tells of ----------------------------------


def test_a_hint_before_the_commit_finds_nothing_and_costs_nothing(
    author: User, version_of: VersionOf
) -> None:
    version = version_of(template(block("a")))
    with transaction.atomic():
        execution = starting.start(version=version, by=author, input={})
        with ThreadPoolExecutor(1) as other:
            early = [partial(walk, execution.pk), partial(reconcile.look, execution.pk)]
            found = other.submit(lambda: [at_once(each)[0] for each in early]).result(PATIENCE_S)
        assert found == [False, False]
    assert statuses(execution) == {"a": "ready"}
    assert reconcile.look(execution.pk)  # nobody need have heard of the commit
    drain(execution)
    assert execution.status == "completed"


def test_a_hint_between_an_answer_and_its_commit_starts_nothing(run: Start) -> None:
    execution = run(template(block("a", humanInLoop={"type": "approval"})))
    asked = Approval.objects.get(execution=execution)
    approver = member(execution.workspace, Role.APPROVER)
    with ThreadPoolExecutor(1) as other:
        with transaction.atomic():
            respond(approval_id=asked.pk, by=approver, approved=True)
            walked = other.submit(lambda: at_once(partial(walk, execution.pk))[0])
            until(waits_for_a_lock, why="the walker to wait for the answer")
            transaction.set_rollback(True)
        walked.result(PATIENCE_S)
    assert statuses(execution) == {"a": "waiting_human"}
    assert check([execution.pk]) == []


# -- the record ------------------------------------------------------------------------------


@pytest.mark.usefixtures("transactional_db")
def test_entries_written_at_once_are_all_there_and_those_rolled_back_are_not() -> None:
    workspace = WorkspaceFactory.create()
    by = member(workspace, Role.ADMIN)

    def note(number: int) -> None:
        for each in range(TIMES):
            with transaction.atomic():
                audit.record(
                    action="test.note",
                    by=by,
                    workspace_id=workspace.pk,
                    target_type="test",
                    target_id=f"{number}-{each}",
                )
                transaction.set_rollback(each % 2 == 1)

    at_once(*[partial(note, number) for number in range(8)])
    found = AuditEntry.objects.filter(action="test.note").order_by("id")
    kept = {f"{number}-{each}" for number in range(8) for each in range(0, TIMES, 2)}
    told = list(found.values_list("target_id", flat=True))
    assert len(told) == len(kept)
    assert set(told) == kept
    for number in range(8):  # what one did stands in its order
        own = [target for target in told if target.startswith(f"{number}-")]
        assert own == [f"{number}-{each}" for each in range(0, TIMES, 2)]
