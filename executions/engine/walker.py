"""A walker: one branch of a run.  It claims, calls, and takes the next turn until nothing is left for it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction

from agentflow.agents import invocation
from agentflow.agents.calls import (
    CIRCUIT_OPEN,
    AskTool,
    AwaitAgent,
    AwaitBudget,
    AwaitCallback,
    AwaitChild,
    Call,
    Completed,
    Failed,
    Postponed,
    SimulatedBlock,
    StartChild,
)
from agentflow.agents.injection import Injection, marked
from agentflow.conf import LIMITS
from agentflow.events import store
from agentflow.events.models import Level
from agentflow.integrations import waiting
from agentflow.patience import patiently
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.expressions import ExpressionError
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.faults import FaultKind, scripted
from agentflow.workflow.large import Large, LargeUnavailable, holds_large
from agentflow.workflow.plan import PlanBlock
from executions import callbacks, dispatch
from executions.blobs import TooLarge, filled, kept
from executions.recovery.reading import Reader
from executions.services import starting
from executions.states import BlockStatus as B

from .ahead import AHEAD, Ahead, is_plain
from .callers import callers
from .choosing import pick
from .expecting import Expected, simulated_s
from .facts import Facts, facts_of
from .inputs import Inputs
from .journal import Journal, operation
from .judging import CHILD, Change, Claim, judge, named
from .opening import SettledBlocks
from .profile import BATCH_BLOCKS, BATCH_MS, FAST_MS, SLOW_MS, first_batch, history, next_batch
from .run import raw_cursor
from .turns import Turn, Wanted, take_turn
from .watch import MOMENT_S, STUTTER_S, Flight, watch

log = structlog.get_logger(__name__)
T = TypeVar("T")

SLICE_S = 1.0  # then the walker hands its place back, so that one wide run does not starve the others
LEVELS = {"debug": Level.DEBUG, "info": Level.INFO, "warning": Level.WARNING, "error": Level.ERROR}


def walk(execution_id: UUID) -> bool:
    """Work on a run until nothing is ready for this walker, or its slice is over.  False: it got nothing."""
    facts = patiently(lambda _: facts_of(execution_id), execution_id=str(execution_id))
    if facts is None:
        return False
    until = time.monotonic() + SLICE_S
    walker = Walker(facts)
    worked = walker.run()
    while walker.handed_on and walker.left_some:
        if watch.leaving or time.monotonic() > until:
            dispatch.hint(execution_id)
            break
        walker = Walker(facts)
        walker.run()
    return worked


class Walker:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.id = uuid4()
        self._expected = Expected(facts)
        self.batch = 1 if facts.strict else first_batch(map(self._expected.ms, facts.plan.kinds))
        self.inputs = Inputs(facts)
        self._edits = 0
        self._unpatched = facts
        self._patches: str | None = None  # other ways for some blocks, from turn to turn
        self._closed: Counter[int] = Counter()  # edges to a block that this walker closed, all plainly
        self._afresh = True  # it has not looked at the whole run yet
        self._walkers = 1  # at work on the run, when this one came
        self.handed_on = False  # it goes on in another thread
        self.left_some = False  # ready blocks, when it was handed on

    def run(self) -> bool:
        """Work until nothing is left, the slice is over or it is handed on.  False: it got nothing."""
        return self._loop([])

    def _loop(self, changes: list[Change]) -> bool:
        until = time.monotonic() + SLICE_S
        worked = False
        while True:
            over = watch.leaving or time.monotonic() > until
            if self.handed_on:
                callers.let_others()
                over = over or not self._patiently(lambda _: self._expected.only_waits())
            turn = self._turn(changes, want=0 if over else self.batch)
            self._afresh = False
            self._walkers = turn.walkers or self._walkers
            if over and turn.works and turn.ready_left:
                dispatch.hint(self.facts.execution_id)
            if not turn.claims:
                return worked
            worked = True
            self.inputs.rework = turn.rework
            # After a restart or an edit what was read before may be no output any more.
            if (turn.epoch, turn.edits) != (self.inputs.epoch, self._edits):
                self.inputs.epoch, self._edits = turn.epoch, turn.edits
                self.inputs.forget()
                self._afresh = True
            if turn.patches != self._patches:
                self._patches = turn.patches
                self.facts = self.inputs.facts = self._unpatched.patched(turn.patches)
            if turn.refused:
                self.inputs.forget()
            else:
                for change in changes:
                    if is_plain(self.facts, change):
                        self._closed.update(self.facts.plan[change.idx].succs)
            if callers.open and not self.handed_on and self._hand_on(turn):
                return True
            changes = self._work(turn, self._flights(turn))
            while self.facts.strict and len(changes) > 1:  # after a lost connection more may be held
                self._turn([changes.pop(0)], want=0)

    def _hand_on(self, turn: Turn) -> bool:
        """Let a call that waits for somebody outside, and what comes after it, be another thread's."""
        if len(turn.claims) > 1 or not self._patiently(lambda _: self._waits(turn)):
            return False
        self.handed_on, self.left_some = True, turn.ready_left > 0
        self.handed_on = callers.hand_on(partial(self._go_on, turn))
        return self.handed_on

    def _waits(self, turn: Turn) -> bool:
        return self._expected.waits(self.facts.plan[turn.claims[0].idx])

    def _go_on(self, turn: Turn) -> None:
        """The rest of the walk, in the other thread.  The claim's lease is kept while it waits for a seat."""
        flights = self._flights(turn)
        turn.ready_left = 0  # who handed it on takes them, or says that they are there
        with watch.holding(flights):
            callers.sit_down()
        self._loop(self._work(turn, flights))

    def _turn(self, changes: list[Change], *, want: int) -> Turn:
        wanted = Wanted(want, self._expected.is_fast, all_fast=want > 1 and self._expected.all_fast())
        return self._patiently(
            lambda repeated: take_turn(
                self.facts,
                self.id,
                changes,
                want=wanted,
                afresh=self._afresh,
                repeated=repeated,
            )
        )

    def _patiently(self, work: Callable[[bool], T]) -> T:
        return patiently(work, execution_id=str(self.facts.execution_id))

    # -- work -----------------------------------------------------------------

    def _known(self, claims: list[Claim]) -> SettledBlocks:
        return self._patiently(lambda _: self.inputs.read(claims))

    def _flights(self, turn: Turn) -> list[Flight]:
        plan, execution_id = self.facts.plan, self.facts.execution_id
        return [
            Flight(claim, execution_id, plan[claim.idx].timeout_s, handed_on=self.handed_on)
            for claim in turn.claims
        ]

    def _work(self, turn: Turn, flights: list[Flight]) -> list[Change]:
        """Call the agents of all claims, one after the other, outside any transaction."""
        first = self.facts.plan[turn.claims[0].idx]
        expected_ms = self._expected.ms(first)
        known_slow = SLOW_MS < expected_ms < float("inf")
        helpers = self._helpers(turn.ready_left, expected_ms, first)
        if helpers > 0 and not (known_slow and watch.fork(self.facts.execution_id, helpers)):
            flights[0].may_fork = helpers
            flights[0].moment_s = STUTTER_S if expected_ms <= FAST_MS else MOMENT_S
        with watch.holding(flights):
            started = time.monotonic()
            claims = [flight.claim for flight in flights]
            known = self._known(claims)
            events = self._patiently(lambda _: self.inputs.events(claims))
            items = self._patiently(lambda _: self.inputs.items(claims))
            changes = []
            for flight in flights:
                if flight.token.cancelled:
                    continue  # its lease is lost: another has it
                event = events.get(flight.claim.idx)
                changes.append(self._call(flight, known, items.get(flight.claim.pk), event))
            plainly = turn.epoch == 1 and not self.facts.strict and self.facts.faults is None
            if len(changes) == len(flights) and plainly:
                self._go_ahead(flights[-1], changes, until=started + BATCH_MS / 1000)
            worked_ms = (time.monotonic() - started) * 1000
        if not self.facts.strict:
            self.batch = next_batch(self.batch, worked_ms=worked_ms, blocks=len(changes))
        return changes

    def _helpers(self, ready: int, expected_ms: float, first: PlanBlock) -> int:
        """How many others could help: few where what is ready would soon be done by one.

        Of what is ready only so much was counted as there are places; more is behind `first` at most.
        """
        if expected_ms <= FAST_MS:
            if ready >= self.facts.max_parallel:
                behind = len(self.facts.plan.blocks) - first.idx
                ready = max(ready, behind, LIMITS.items_per_block if first.items is not None else 0)
            ready = math.ceil(ready * expected_ms / BATCH_MS)
        helpers = min(ready, self.facts.max_parallel - self._walkers)
        return min(helpers, 1) if self.handed_on else helpers  # that one hands on the others

    def _go_ahead(self, carrier: Flight, changes: list[Change], *, until: float) -> None:
        """Do what these changes make possible and add what comes of it; `carrier` is watched meanwhile."""
        ahead = Ahead(self.facts, closed=self._closed, is_fast=self._expected.is_fast)
        if not all(change.attempt == 1 and ahead.add(change) for change in changes):
            return
        while len(changes) < BATCH_BLOCKS and time.monotonic() < until and not watch.leaving:
            claim = ahead.next()
            if claim is None:
                return
            planned = self.facts.plan[claim.idx]
            flight = Flight(claim, self.facts.execution_id, planned.timeout_s, token=carrier.token)
            carrier.started, carrier.timeout_s = time.monotonic(), planned.timeout_s
            carrier.abandon = partial(self._abandon_ahead, list(changes))
            change = self._call(flight, self._known([claim]), None, None)
            if carrier.token.cancelled or flight.needs_row:
                return
            changes.append(change)
            if not ahead.add(change):
                return

    def _call(self, flight: Flight, known: SettledBlocks, item: JSONValue, event: JSONValue) -> Change:
        claim = flight.claim
        planned = self.facts.plan[claim.idx]
        picked = self._patiently(lambda _: pick(self.facts, planned, claim))
        if isinstance(picked, Change):
            return picked
        flight.started, waited_s = time.monotonic(), waiting.waited_s()
        flight.abandon = lambda: self._abandon(flight)
        if picked is None:
            flight.needs_row = True
            return Change(pk=claim.pk, idx=claim.idx, attempt=claim.attempt, status=B.READY)
        flight.agent_id, flight.limited = picked.agent_id, picked.limited
        names: JSONObject = {}
        if claim.iteration:
            names = {"item": item, "index": claim.iteration - 1}
        elif planned.repeat_until is not None:
            names = {"index": claim.round}
        if event is not None:
            names["event"] = event
        resolved: JSONValue = None
        injected: JSONObject | None = None
        try:
            if planned.mapping is not None:
                resolved = planned.mapping.resolve(
                    {**self.inputs.scope(known, planned.mapping.block_refs), **names}
                )
                given = resolved
            elif claim.iteration:
                given = {"item": item, "index": claim.iteration - 1}
            else:
                given = self.inputs.by_default(planned, known)
            if self.facts.refers or any(type(block["output"]) is Large for block in known.values()):
                given, resolved = self._whole(given, resolved)
        except ExpressionError as error:
            outcome: Any = Failed(Failure(FailureKind.CONFIGURATION, error.code, f"input: {error}"))
        except TooLarge as error:
            outcome = Failed(Failure(FailureKind.CONFIGURATION, "input_too_large", f"input: {error}"))
        except LargeUnavailable as error:
            outcome = Failed(Failure(FailureKind.TRANSIENT, "input_unavailable", str(error)))
        else:
            call = self._describe(flight, planned, given)
            outcome = invocation.invoke(call)
            if call.injection is not None and call.injection.happened:
                injected, outcome = call.injection.mark, marked(outcome, call.injection)
            if isinstance(outcome, Completed) and outcome.bytes > LIMITS.output_bytes:
                outcome = replace(outcome, output=self._kept(outcome.output))
        ms = (time.monotonic() - flight.started) * 1000
        waited_ms = (waiting.waited_s() - waited_s) * 1000
        if waited_ms and injected is None:
            history.note_wait(planned.likeness, waited_ms, answered=isinstance(outcome, Completed))
        untypical = flight.needs_row or flight.limited or isinstance(outcome, AwaitCallback)
        untypical = untypical or _kept_out(outcome) or injected is not None
        if claim.effect != "once" and self.facts.simulation is None and not untypical:
            history.note(planned.likeness, ms)
        change = self._judge(planned, flight, outcome, known)
        if change.status is B.COMPLETED and not claim.iteration and not change.addressed:
            self.inputs.keep(claim.idx, change.output)
        return replace(change, input=resolved, injected=injected, times=(flight.started, time.monotonic()))

    def _whole(self, given: JSONValue, resolved: JSONValue) -> tuple[JSONValue, JSONValue]:
        """An input with all that is large in it, for the agent, and as its row refers to it."""
        if not holds_large(given):
            return given, resolved
        whole = self._patiently(lambda _: filled(given))
        return whole, None if resolved is None else self._kept(whole)

    def _kept(self, value: JSONValue) -> JSONValue:
        """Put a large value away before the transaction whose row refers to it."""
        return self._patiently(lambda _: kept(value, workspace_id=self.facts.workspace_id, locked=False))

    def _judge(self, planned: PlanBlock, flight: Flight, outcome: Any, known: SettledBlocks) -> Change:
        claim, agent_id = flight.claim, flight.agent_id or ""
        if isinstance(outcome, StartChild):
            wanted = outcome
            child = self._patiently(lambda _: starting.resolve_child(self.facts, wanted))
            if not isinstance(child, Failure):
                return Change(
                    pk=claim.pk,
                    idx=claim.idx,
                    iteration=claim.iteration,
                    attempt=claim.attempt,
                    status=B.WAITING_EXTERNAL,
                    reason=CHILD,
                    child=child,
                    agent_id=agent_id,
                    limited=flight.limited,
                )
            outcome = Failed(child)
        change = self._patiently(
            lambda _: judge(
                planned,
                claim,
                outcome,
                scope=lambda: self.inputs.scope(known, named(planned)),
                healing=Reader(self.facts),
                agent_id=agent_id,
            )
        )
        # Another agent, called before, may have been told where to bring a result, and have brought it.
        addressed = flight.address_given or (planned.routed and claim.attempt > 1)
        if agent_id == change.agent_id and not flight.limited and not addressed:
            return change
        return replace(change, agent_id=agent_id, limited=flight.limited, addressed=addressed)

    def _abandon(self, flight: Flight) -> None:
        failure = Failure(
            FailureKind.TRANSIENT,
            "timeout",
            f"No answer within {flight.timeout_s:g} s, and the call could not be stopped.",
            outcome_unknown=True,
        )
        planned = self.facts.plan[flight.claim.idx]
        change = self._judge(planned, flight, Failed(failure), self.inputs.outputs)
        take_turn(self.facts, uuid4(), [change], want=0)
        dispatch.hint(self.facts.execution_id)

    def _abandon_ahead(self, changes: list[Change]) -> None:
        """A call ahead of its claim never comes back: settle the others, and let it be claimed."""
        take_turn(self.facts, uuid4(), changes, want=0)
        dispatch.hint(self.facts.execution_id)

    def _describe(self, flight: Flight, planned: PlanBlock, given: JSONValue) -> Call:
        claim, block = flight.claim, planned.block
        return Call(
            workspace_id=self.facts.workspace_id,
            execution_id=self.facts.execution_id,
            block_id=block.block_id,
            attempt=claim.attempt,
            agent_id=flight.agent_id,
            tool_type=block.tool_type,
            configuration=block.configuration,
            input=given,
            timeout_s=planned.timeout_s,
            idempotency_key=operation(
                self.facts.execution_id, block.block_id, claim.iteration, claim.effect_seq
            ),
            effect=claim.effect,
            simulated=self._simulated(planned, claim),
            injection=self._injection(flight, planned),
            callback_url=lambda: self._callback_url(flight),
            journal=lambda: self._journal(flight),
            show=lambda text: store.show_text(
                execution_id=self.facts.execution_id,
                block_id=block.block_id,
                attempt=claim.attempt,
                text=text,
            ),
            cancel=flight.token,
            log=lambda level, message: self._log(block.block_id, level, message),
        )

    def _callback_url(self, flight: Flight) -> str:
        """Where this attempt's result may be brought; empty for a block that must be claimed for it first."""
        if flight.claim.pk == AHEAD:
            flight.needs_row = True
            return ""
        flight.address_given = True
        return callbacks.url(flight.claim.pk, flight.claim.attempt)

    def _journal(self, flight: Flight) -> Journal | None:
        """Of an agent that works in steps; None for a block that must be claimed for it first."""
        if flight.claim.pk == AHEAD:
            flight.needs_row = True
            return None

        def hold() -> None:
            flight.limited = True

        return Journal(
            self.facts,
            flight.claim,
            agent_id=flight.agent_id,
            patiently=self._patiently,
            holding=hold,
        )

    def _log(self, block_id: str, level: str, message: str) -> None:
        """Keep a line of a call.  One that cannot be kept is no reason for the call to fail."""
        try:
            with transaction.atomic():
                # A crash of the database may take the last lines along; to wait for its disk costs more.
                raw_cursor().execute("SET LOCAL synchronous_commit = off")
                store.append(
                    type="block_log",
                    workspace_id=self.facts.workspace_id,
                    execution_id=self.facts.execution_id,
                    block_id=block_id,
                    level=LEVELS.get(level, Level.INFO),
                    payload={"message": message},
                )
        except (DatabaseError, InterfaceError) as error:
            log.warning("block_log_lost", execution_id=str(self.facts.execution_id), error=str(error))
            connection.close()

    def _injection(self, flight: Flight, planned: PlanBlock) -> Injection | None:
        """The fault that its workspace has this attempt meet."""
        faults = self.facts.faults
        if faults is None:
            return None
        drawn = faults.drawn(
            flight.claim,
            epoch=self.inputs.epoch,
            block_id=planned.block_id,
            template_id=self.facts.version.template_id,
            agent_id=flight.agent_id,
            tool_type=self._expected.tool_type(flight.agent_id, planned),
        )
        return drawn if drawn and self._patiently(lambda _: faults.are_on()) else None

    def _simulated(self, planned: PlanBlock, claim: Claim) -> SimulatedBlock | None:
        script = self.facts.simulation
        if script is None:
            return None
        output = (script.get("outputs") or {}).get(planned.block_id, {})
        fault = scripted((script.get("failures") or {}).get(planned.block_id, []), claim.attempt)
        seconds = simulated_s(planned, script)
        if fault is None:
            return SimulatedBlock(seconds=seconds, output=output)
        return SimulatedBlock(
            seconds=seconds + fault.ms / 1000,
            output=fault.output if fault.kind is FaultKind.WRONG_OUTPUT else output,
            failure=fault.failure("simulated", timeout_s=planned.timeout_s),
        )


def _kept_out(outcome: Any) -> bool:
    """Whether how long it took says nothing: nobody was called, or the agent stopped on its way."""
    if isinstance(outcome, AskTool | Postponed | AwaitAgent | AwaitChild | AwaitBudget):
        return True
    return isinstance(outcome, Failed) and outcome.failure.code == CIRCUIT_OPEN
