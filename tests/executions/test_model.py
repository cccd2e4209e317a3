"""The engine as a state machine: commands, workers, messages, people and time in any order.

Everything is real but the messages, which are held back here to be lost, doubled or delivered late, and
the clock, which is put forward.  After each step the history checker looks at all rows.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db.models.functions import Now
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentflow.agents.calls import Completed, Failed, StartChild
from agentflow.conf import LIMITS
from agentflow.errors import AgentflowError
from agentflow.events.models import Event
from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.types import JSONObject
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.parsing import parse
from approvals.models import Approval
from approvals.services import responding
from executions import dispatch
from executions.engine import statements
from executions.engine.judging import Change, Claim, judge
from executions.engine.run import raw_cursor
from executions.engine.turns import take_turn
from executions.models import BlockExecution, Execution, Timer
from executions.services import control, reconcile, repairing, restarting, signals, starting, ticking
from executions.services.restarting import RestartRequest
from executions.states import TERMINAL, BlockStatus
from templates_app.models import TemplateVersion
from templates_app.services import authoring
from tests.factories.governance import WorkspaceFactory, member
from tests.factories.templates import TemplateFactory, TemplateVersionFactory, write_template
from tests.history import check, check_story
from tests.history.folding import settled
from tests.history.reading import Place, stories

from .conftest import block, facts
from .flows import EVENT, flows
from .shifted import Clock, shifted_clock

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "30"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
SECONDS = float(os.environ.get("MODEL_SECONDS", "15"))  # no further examples begin after this
AT_ONCE = 5
ROUNDS = 60  # to the end, once nothing disturbs any more
PICK = st.integers(0, 1000)
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Held:
    """One claim in the hands of a worker; `called`: its agent has been, and has done its effect."""

    execution_id: UUID
    walker: UUID
    claim: Claim
    called: bool = False


@dataclass
class Ledger:
    calls: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)


@dataclass
class World:
    clock: Clock
    author: User
    people: list[User]
    child: TemplateVersion
    hints: list[tuple[str, UUID]]

    @property
    def workspace_id(self) -> UUID:
        return self.child.template.workspace_id


@pytest.fixture
def world(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    hints: list[tuple[str, UUID]] = []
    monkeypatch.setattr(
        dispatch, "hint", lambda run, walkers=1, **more: hints.extend([("walk", run)] * min(walkers, 2))
    )
    monkeypatch.setattr(dispatch, "look_at", lambda run: hints.append(("look", run)))
    monkeypatch.setattr(dispatch.sender, "add", lambda send: None)
    with shifted_clock() as clock:
        workspace = WorkspaceFactory.create()
        author = member(workspace, Role.ADMIN)
        people = [member(workspace, Role.APPROVER) for _ in range(3)]
        child = write_template(workspace, author, block("x"), name="Child")
        yield World(clock, author, people, child, hints)


class Model(RuleBasedStateMachine):
    """Rules that find nothing to do do nothing; what the engine refuses, it refuses."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.world.hints.clear()
        self.runs: list[UUID] = []
        self.held: list[Held] = []
        self.lost: list[Held] = []  # by workers that nobody has heard of for a lease
        self.last: tuple[Held, Change] | None = None
        self.ledger = Ledger()
        self.settled: dict[UUID, dict[Place, tuple[Any, ...]]] = {}
        self.taken_back = False

    # -- clients ----------------------------------------------------------------

    @initialize(flow=flows())
    def begin(self, flow: tuple[JSONObject, JSONObject]) -> None:
        self._start(flow)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(flow=flows())
    def start(self, flow: tuple[JSONObject, JSONObject]) -> None:
        self._start(flow)

    def _start(self, flow: tuple[JSONObject, JSONObject]) -> None:
        definition, given = flow
        for one in definition["blocks"]:
            if one.get("toolType") == "UseCase":
                one["configuration"] = {"templateId": str(self.world.child.template_id)}
        template = TemplateFactory.create(
            workspace=self.world.child.template.workspace, created_by=self.world.author
        )
        version = TemplateVersionFactory.create(template=template, definition=definition)
        self.runs.append(starting.start(version=version, by=self.world.author, input=given).pk)

    @rule(pick=PICK, what=st.sampled_from([control.pause, control.resume, control.resume, control.cancel]))
    def command(self, pick: int, what: Callable[..., None]) -> None:
        _refusable(partial(what, execution_id=self._run(pick), by=self.world.author))

    @rule(pick=PICK, at=st.none() | PICK, reset=st.booleans())
    def restart(self, pick: int, at: int | None, reset: bool) -> None:
        run = self._run(pick)
        named = None if at is None or reset else self._block(run, at).block_id
        request = RestartRequest(from_block=named, reset_state=reset)
        _refusable(partial(restarting.restart, execution_id=run, by=self.world.author, request=request))

    @rule(pick=PICK, at=PICK, how=st.sampled_from(["skip", "complete", "retry"]))
    def mend(self, pick: int, at: int, how: str) -> None:
        run = self._run(pick)
        what: Callable[..., None] = getattr(repairing, how)
        if how == "complete":
            what = partial(what, output={"by": "hand"})
        self.taken_back = how == "retry"
        pk = self._block(run, at).pk
        _refusable(partial(what, execution_id=run, block_pk=pk, by=self.world.author, reason="model"))

    @rule(
        pick=PICK,
        who=st.integers(0, 2),
        approved=st.booleans(),
        action=st.sampled_from(["retry", "skip", "fail"]),
    )
    def vote(self, pick: int, who: int, approved: bool, action: str) -> None:
        asked = Approval.objects.filter(execution__in=self.runs).order_by("requested_at", "block_execution")
        if asked:
            self._answer(asked[pick % len(asked)], self.world.people[who], approved, action)

    @rule(known=st.booleans())
    def send_event(self, known: bool) -> None:
        signals.receive(workspace_id=self.world.workspace_id, type=EVENT, by=self.world.author)
        if known:
            signals.deliver_late()

    @rule(pick=PICK, delete=st.booleans())
    def change_the_template(self, pick: int, delete: bool) -> None:
        template_id = Execution.objects.get(pk=self._run(pick)).template_version.template_id
        if delete:
            _refusable(partial(authoring.delete_template, template_id=template_id, by=self.world.author))
        else:
            other = parse({"name": f"Other {uuid4()}", "blocks": [block("other")]})
            change = partial(authoring.update_template, template_id=template_id, by=self.world.author)
            _refusable(partial(change, definition=other))

    # -- messages -----------------------------------------------------------------

    @rule(pick=PICK, twice=st.integers(0, 3), want=st.integers(1, 3))
    def deliver(self, pick: int, twice: int, want: int) -> None:
        """Any of them, so in any order; one in four stays and is delivered again."""
        hints = self.world.hints
        if not hints:
            return
        hints.sort(key=lambda hint: (hint[0], self._all().index(hint[1])))  # sent in any order
        at = pick % len(hints)
        kind, run = hints.pop(at) if twice else hints[at]
        if kind == "look":
            reconcile.look(run)
        else:
            self._take(run, uuid4(), [], want)

    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        if self.world.hints:
            self.world.hints.pop(pick % len(self.world.hints))

    @rule()
    def wipe(self) -> None:
        self.world.hints.clear()

    # -- workers --------------------------------------------------------------------

    @rule(
        pick=PICK,
        how=st.sampled_from(
            [
                "complete",
                "complete",
                "complete",
                "vanish",
                "vanish after its effect",
                "lose the answer",
                *FailureKind,
            ]
        ),
        want=st.integers(0, 2),
    )
    def work(self, pick: int, how: str, want: int) -> None:
        """A call comes back, or never does."""
        if not self.held:
            self.deliver(pick, 1, want + 1)
            return
        held = self.held.pop(pick % len(self.held))
        match how:
            case "complete":
                self._end(held, Completed({"ok": True}), want)
            case "lose the answer":
                failure = Failure(
                    FailureKind.TRANSIENT, "connection_lost", "No answer.", outcome_unknown=True
                )
                self._end(held, Failed(failure), 0)
            case "vanish" | "vanish after its effect":
                if how != "vanish":
                    self._call(held, effect=True)
                self.lost.append(replace(held, called=how != "vanish"))
            case _:
                self._end(held, Failed(Failure(FailureKind(how), "model", "It failed.")), want, effect=False)

    @rule(pick=PICK)
    def complete_late(self, pick: int) -> None:
        if self.lost:
            self._end(self.lost.pop(pick % len(self.lost)), Completed({"late": True}), 1)

    @rule()
    def settle_again(self) -> None:
        """The commit went through and its answer was lost, so the worker repeats the turn."""
        if self.last is not None:
            held, change = self.last
            self._take(held.execution_id, held.walker, [change], 0)

    @rule()
    def beat(self) -> None:
        raw_cursor().execute(
            statements.HEARTBEAT,
            {
                "ids": [held.claim.pk for held in self.held],
                "attempts": [held.claim.attempt for held in self.held],
                "lease": LIMITS.lease_s,
            },
        )

    # -- time -------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 5, 20, 31, 61, 700, 3700]))
    def wait(self, seconds: int) -> None:
        self.world.clock.forward(seconds)

    @rule()
    def tick(self) -> None:
        ticking.tick()

    @rule(pick=PICK)
    def look(self, pick: int) -> None:
        reconcile.look(self._run(pick))

    # -- what must hold -----------------------------------------------------------------

    @invariant()
    def histories_hold(self) -> None:
        self.world.clock.forward(0.001)
        for story in stories(self._all()):
            assert [str(found) for found in check_story(story)] == []
            before, now = self.settled.get(story.execution.pk, {}), settled(story)
            for place, ended in before.items():
                back = self.taken_back and ended[0] == BlockStatus.FAILED and place not in now
                assert back or now.get(place) == ended, f"{place} had ended and changed"
            self.settled[story.execution.pk] = now
        self.taken_back = False

    def teardown(self) -> None:
        """Nothing disturbs any more: everything ends."""
        for _ in range(ROUNDS):
            runs = Execution.objects.filter(pk__in=self._all())
            if not runs.exclude(status__in=TERMINAL).exists():
                break
            self._help()
        assert [str(found) for found in check(self._all(), ledger=self.ledger, at_rest=True)] == []
        assert set(Execution.objects.filter(pk__in=self._all()).values_list("status", flat=True)) <= TERMINAL

    def _help(self) -> None:
        for held in [*self.held, *self.lost]:
            self._end(held, Completed({"ok": True}), 0)
        self.held, self.lost = [], []
        for run in self._all():
            _refusable(partial(control.resume, execution_id=run, by=self.world.author))
        for asked in Approval.objects.filter(execution__in=self._all(), status="pending"):
            self._answer(asked, self.world.people[0], True, "fail")
        if BlockExecution.objects.filter(
            execution__in=self._all(), status="waiting_external", reason="event"
        ).exists():
            signals.receive(workspace_id=self.world.workspace_id, type=EVENT, by=self.world.author)
        self.world.clock.forward(75)
        signals.deliver_late()
        while ticking.tick():
            pass
        for run in self._all():
            self._take(run, uuid4(), [], 5)

    # -- how ----------------------------------------------------------------------------

    def _all(self) -> list[UUID]:
        children = Execution.objects.filter(parent_block__execution__in=self.runs)
        return [*self.runs, *children.order_by("created_at", "parent_block").values_list("pk", flat=True)]

    def _run(self, pick: int) -> UUID:
        runs = self._all()
        return runs[pick % len(runs)]

    def _block(self, run: UUID, pick: int) -> BlockExecution:
        rows = BlockExecution.objects.filter(execution=run, iteration=0).order_by("-epoch", "idx")
        return rows[pick % len(rows)]

    def _take(self, run: UUID, walker: UUID, changes: list[Change], want: int) -> None:
        turn = take_turn(facts(Execution(pk=run)), walker, changes, want=want)
        self.held += [Held(run, walker, claim) for claim in turn.claims]

    def _call(self, held: Held, *, effect: bool) -> None:
        if held.claim.effect == "pure":
            return
        planned = facts(Execution(pk=held.execution_id)).plan[held.claim.idx]
        key = f"{held.execution_id}:{planned.block_id}:{held.claim.iteration}:{held.claim.effect_seq}"
        self.ledger.calls[key] += 1
        if effect and (held.claim.effect == "once" or not self.ledger.effects[key]):
            self.ledger.effects[key] += 1

    def _end(self, held: Held, outcome: Any, want: int, *, effect: bool = True) -> None:
        """The agent was called; its worker brings the outcome."""
        if not held.called:
            self._call(held, effect=effect)
        run = facts(Execution(pk=held.execution_id))
        planned = run.plan[held.claim.idx]
        if planned.block.tool_type == "UseCase" and isinstance(outcome, Completed):
            outcome = starting.resolve_child(run, StartChild(self.world.child.template_id, None, {}))
            if not isinstance(outcome, Failure):
                self._bring(held, _waits_for(outcome, held.claim), want)
                return
            outcome = Failed(outcome)
        self._bring(held, judge(planned, held.claim, outcome, scope=partial(self._scope, held)), want)

    def _bring(self, held: Held, change: Change, want: int) -> None:
        self.last = (held, change)
        self._take(held.execution_id, held.walker, [change], want)

    def _scope(self, held: Held) -> JSONObject:
        rows = BlockExecution.objects.filter(
            execution=held.execution_id, iteration=0, completed_at__isnull=False
        )
        return facts(Execution(pk=held.execution_id)).scope(
            {row.idx: {"output": row.output, "status": row.status} for row in rows.order_by("epoch")}
        )

    def _answer(self, asked: Approval, by: User, approved: bool, action: str) -> None:
        response = {"action": action} if asked.kind == "fix" else {"said": 1}
        _refusable(
            partial(responding.respond, approval_id=asked.pk, by=by, approved=approved, response=response)
        )


def _waits_for(child: starting.Child, claim: Claim) -> Change:
    return Change(
        pk=claim.pk,
        idx=claim.idx,
        iteration=claim.iteration,
        attempt=claim.attempt,
        status=BlockStatus.WAITING_EXTERNAL,
        reason="child",
        child=child,
    )


def _refusable(command: Callable[[], object]) -> None:
    """A refusal is an answer; anything else that is raised is a bug."""
    with suppress(AgentflowError):
        command()


@pytest.mark.timeout(0 if SECONDS > 60 else 600)  # a failing example is made small first
def test_no_order_of_commands_workers_messages_people_and_time_breaks_a_history(world: World) -> None:
    machine: Any = partial(Model, world)  # annotated as a class, and called
    until = time.monotonic() + SECONDS
    done = 0
    while done < EXAMPLES and (not done or time.monotonic() < until):
        run_state_machine_as_test(machine, settings=_SETTINGS)
        done += AT_ONCE
    print(f"{done} examples of up to {STEPS} steps")


_SETTINGS = settings(
    max_examples=AT_ONCE,
    stateful_step_count=STEPS,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.generate] if os.environ.get("MODEL_QUICK") else list(Phase),
    suppress_health_check=list(HealthCheck),
)


def test_the_shifted_clock_reaches_statements_defaults_and_the_orm(world: World) -> None:
    run = starting.start(version=world.child, by=world.author, input={}).pk
    cursor = raw_cursor()

    def passed() -> int:
        found = cursor.execute(
            "SELECT extract(epoch FROM statement_timestamp() - pg_catalog.statement_timestamp())::int"
        )
        return int((found.fetchone() or [0])[0])

    assert [passed() <= 0 for _ in range(3)] == [True] * 3  # prepared by now
    world.clock.forward(3600)
    assert passed() > 3000
    reconcile.look(run)
    control.pause(execution_id=run, by=world.author)
    told = Event.objects.filter(execution_id=run).order_by("id").values_list("at", flat=True)
    assert told[1] - told[0] >= timedelta(hours=1)
    assert Timer.objects.filter(execution=run, due_at__gt=Now()).exists()
    assert Execution.objects.filter(pk=run, created_at__lt=Now() - timedelta(minutes=59)).exists()


def test_the_product_asks_no_other_clock_of_the_database() -> None:
    """Or the clock of the tests above would not reach it.  The doctor looks at the server's own times."""
    other = re.compile(
        r"(?<![.\w])(now\(\)|NOW\(\))|(?i:clock_timestamp|current_timestamp|transaction_timestamp)"
    )
    product = ("agentflow", "approvals", "executions", "monitoring", "templates_app")
    files = [path for app in product for path in (ROOT / app).rglob("*.py") if "migrations" not in path.parts]
    found = {str(path.relative_to(ROOT)) for path in files if other.search(path.read_text())}
    assert found <= {"executions/doctor.py", "executions/engine/statements.py"}  # a comment in the latter
