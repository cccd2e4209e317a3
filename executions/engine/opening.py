"""What becomes of blocks that are decided, and of blocks that a person decided about.

Pure but for reading outputs: the changes it gives are made by `Run`, and the questions it collects
are asked when the run is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from agentflow.conf import LIMITS
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.conditions import holds
from agentflow.workflow.expressions import ExpressionError
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.keys import key_text
from agentflow.workflow.large import LargeUnavailable, holds_large
from agentflow.workflow.moments import as_moment
from agentflow.workflow.plan import PlanBlock
from agentflow.workflow.settlement import Reason, Undecided, skip_reason
from executions.blobs import TooLarge, filled, of_row
from executions.models import BlockExecution
from executions.ports import HumanAsk, LevelAsk
from executions.recovery.decision import Strategy
from executions.states import BlockStatus as B

from . import asking
from .calling import called
from .deciding import Decisions
from .facts import Facts
from .judging import REPEAT_EXHAUSTED, Change, ask_fix, completed

PLACE = "concurrency"  # why a block waits that has no place of its key yet

SettledBlocks = dict[int, JSONObject]  # idx -> {"output": ..., "status": ...}


@dataclass(frozen=True, slots=True)
class Decided:
    """A block whose incoming edges may tell now whether it runs; `todo` of them are still open."""

    pk: int
    idx: int
    todo: int
    dead: int
    failed: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A block that waited for a person; `attempts` tells one that failed at work from one never opened.

    `exhausted` is one whose rounds are used up, `output` what the last of them gave.
    """

    pk: int
    idx: int
    attempts: int
    iteration: int = 0
    item: JSONValue = None
    exhausted: bool = False
    output: JSONValue = None

    @classmethod
    def of(cls, block: BlockExecution) -> Answered:
        exhausted = (block.error or {}).get("code") == REPEAT_EXHAUSTED
        output = of_row(block.output, block.output_blob) if exhausted else None
        return cls(block.pk, block.idx, block.attempt, block.iteration, block.item, exhausted, output)

    @property
    def names(self) -> JSONObject:
        """What an item of a `forEach` may name beside the rest."""
        return {"item": self.item, "index": self.iteration - 1} if self.iteration else {}


class Opener:
    """`outputs` reads settled blocks, `keep` puts large values away, `seconds_until` is by the database's
    clock; `asks` collects questions, and `decisions` knows what was answered in the epoch before."""

    def __init__(
        self,
        facts: Facts,
        *,
        outputs: Callable[[Iterable[int]], SettledBlocks],
        keep: Callable[[JSONValue], JSONValue],
        seconds_until: Callable[[datetime], float],
        asks: list[HumanAsk],
        decisions: Decisions,
        rework: Callable[[], JSONObject | None],
        make_room: Callable[[int], None],
    ) -> None:
        self._facts = facts
        self._outputs = outputs
        self.keep = keep
        self._seconds_until = seconds_until
        self._asks = asks
        self.decisions = decisions
        self._rework = rework
        self._make_room = make_room

    def open(self, decided: list[Decided]) -> list[Change]:
        """Ready, skipped, waiting or settled at once: one change for each block that is decided."""
        self._prefetch(decided)
        changes = []
        for block in decided:
            with suppress(Undecided):
                changes.append(self._opening(block))
        return changes

    def _scope(self, block_ids: frozenset[str]) -> dict[str, JSONValue]:
        return self._facts.scope(self._outputs(self._facts.plan.refs(block_ids)), self._rework())

    def _prefetch(self, decided: list[Decided]) -> None:
        """One read for the outputs that all guards and questions of a round name."""
        wanted: set[int] = set()
        for block in decided:
            planned = self._facts.plan[block.idx]
            if planned.special:
                wanted |= self._names(planned)
        self._outputs(wanted)

    def _names(self, planned: PlanBlock) -> set[int]:
        refs: set[str] = set()
        for expression in (planned.when, planned.until, planned.correlation, planned.items):
            if expression is not None:
                refs |= expression.block_refs
        if planned.key is not None:
            refs |= planned.key.mapping.block_refs
        if planned.human is not None or planned.noop:
            if planned.mapping is not None:
                refs |= planned.mapping.block_refs
            elif planned.human is not None:
                return self._facts.plan.refs(frozenset(refs)) | set(planned.preds)
        if planned.noop and planned.conditions is not None:
            refs |= planned.conditions.block_refs - {planned.block_id}
        return self._facts.plan.refs(frozenset(refs))

    def _opening(self, block: Decided) -> Change:
        """What becomes of a decided block.

        Raises:
            Undecided: a partial join still waits.
        """
        planned = self._facts.plan[block.idx]
        change = Change(pk=block.pk, idx=block.idx, status=B.READY)
        reason = skip_reason(planned, todo=block.todo, dead=block.dead, failed=block.failed)
        if reason is not None:
            return replace(change, status=B.SKIPPED, reason=str(reason))
        return self._run(planned, change) if planned.special else change

    def after_wait(self, pk: int, idx: int, event: JSONObject | None = None) -> Change:
        """The moment that a block waited for has come, or the event."""
        change = Change(pk=pk, idx=idx, status=B.READY)
        return self._run(self._facts.plan[idx], change, waited=True, event=event)

    def _run(
        self, planned: PlanBlock, change: Change, *, waited: bool = False, event: JSONObject | None = None
    ) -> Change:
        """A block that runs: past its guard, its wait and its person, in this order."""
        try:
            if not waited:
                if planned.when is not None and not holds(planned.when, self._scope(planned.when.block_refs)):
                    return replace(change, status=B.SKIPPED, reason=str(Reason.GUARD))
                wait = planned.block.wait
                if wait is not None and wait.event is not None:
                    if self._facts.simulation is None:
                        return self._await_event(planned, change, wait.event)
                    event = simulated_event(self._facts, planned)
                seconds = self._wait_s(planned)
                if seconds > 0:
                    return replace(change, status=B.WAITING_EXTERNAL, reason="timer", delay_s=seconds)
            names: JSONObject = {} if event is None else {"event": event}
            if planned.items is not None:
                return self._expand(planned, change, names)
            return self._ask_or_go(planned, change, names)
        except (ExpressionError, LargeUnavailable) as error:
            return ask_fix(change, _why_not(error))

    def item(self, pk: int, idx: int, iteration: int, item: JSONValue) -> Change:
        """One item of a `forEach` may begin: its person first, then its agent."""
        planned = self._facts.plan[idx]
        change = Change(pk=pk, idx=idx, iteration=iteration, status=B.READY)
        try:
            return self._ask_or_go(planned, change, {"item": item, "index": iteration - 1})
        except (ExpressionError, LargeUnavailable) as error:
            return ask_fix(change, _why_not(error))

    def _ask_or_go(self, planned: PlanBlock, change: Change, names: JSONObject) -> Change:
        if planned.asks_before:
            return self._ask(planned, change, names)
        return self._noop(planned, change, names) if planned.noop else self._go(planned, change, names)

    def _go(self, planned: PlanBlock, change: Change, names: JSONObject) -> Change:
        """A block that only a worker is missing for: ready, or waiting for a place of its key."""
        key = planned.key
        if key is None or self._facts.simulation is not None:
            return change
        text = place_key(key.mapping.resolve({**self._scope(key.mapping.block_refs), **names}))
        place = (text, key.limit, key.priority)
        return replace(change, status=B.WAITING_EXTERNAL, reason=PLACE, place=place)

    def _expand(self, planned: PlanBlock, change: Change, names: JSONObject) -> Change:
        """The items of a `forEach`: a row for each, or nothing to do for none."""
        assert planned.items is not None
        items = filled(planned.items.evaluate({**self._scope(planned.items.block_refs), **names}))
        if not isinstance(items, list):
            raise ExpressionError("not_a_list", f"forEach.items gives {items!r:.100}, which is no list.")
        if len(items) > LIMITS.items_per_block:
            raise ExpressionError(
                "too_many_items",
                f"forEach.items gives {len(items)} items; {LIMITS.items_per_block} are allowed.",
            )
        self._make_room(len(items))
        if not items:
            return self.complete(planned, change, [])
        return replace(change, status=B.WAITING_EXTERNAL, reason="items", items=items)

    def _wait_s(self, planned: PlanBlock) -> float:
        wait = planned.block.wait
        if wait is None:
            return 0.0
        if wait.event is not None:
            return 0.0
        if planned.until is None:
            scale = (self._facts.simulation or {}).get("scale", 1) or 0
            return float(wait.seconds or 0) * scale
        moment = planned.until.evaluate(self._scope(planned.until.block_refs))
        return self._seconds_until(as_moment(moment))

    def _await_event(self, planned: PlanBlock, change: Change, type: str) -> Change:
        """Wait for an event, for as long as the block's own `timeout` allows."""
        correlation = ""
        if planned.correlation is not None:
            value = planned.correlation.evaluate(self._scope(planned.correlation.block_refs))
            correlation = correlation_text(value)
        timeout_ms = planned.block.timeout
        return replace(
            change,
            status=B.WAITING_EXTERNAL,
            reason="event",
            delay_s=None if timeout_ms is None else timeout_ms / 1000,
            wait_for=(type, correlation),
        )

    def _noop(self, planned: PlanBlock, change: Change, names: JSONObject) -> Change:
        """A block that calls nobody: its output is its mapped input, else the item or event it is for."""
        output: JSONValue = names.get("item", names["event"]["payload"] if "event" in names else {})
        if planned.mapping is not None:
            output = planned.mapping.resolve({**self._scope(planned.mapping.block_refs), **names})
        return self.complete(planned, change, output)

    def _ask(self, planned: PlanBlock, change: Change, names: JSONObject) -> Change:
        """Wait for a person, or take an answer: a simulation brings it along, or the same was decided."""
        human = planned.human
        assert human is not None
        answer = ((self._facts.simulation or {}).get("answers") or {}).get(planned.block_id)
        if answer is not None:
            return self._decided(
                planned, change, names, approved=answer["approved"], response=answer.get("response")
            )
        ask = self._question(planned, change.pk, names)
        decision = self.decisions.about(planned, change.iteration, ask)
        if decision is not None:
            change = self._decided(
                planned, change, names, approved=decision.approved, response=decision.response
            )
            self.decisions.take(ask, decision)
            return change
        self._asks.append(ask)
        return replace(change, status=B.WAITING_HUMAN, reason=human.type)

    def _question(self, planned: PlanBlock, pk: int, names: JSONObject) -> HumanAsk:
        if planned.mapping is not None:
            shown = planned.mapping.resolve({**self._scope(planned.mapping.block_refs), **names})
        elif "item" in names:
            shown = names["item"]
        else:
            preds = self._outputs(planned.preds)
            shown = {self._facts.plan[idx].block_id: value["output"] for idx, value in sorted(preds.items())}
            shown = {key: value for key, value in shown.items() if value is not None} or self._facts.input
        levels = self.levels(planned, names)
        calls = "" if planned.asks_input else called(self._facts, planned)
        return asking.question(self._facts, planned, pk, shown, levels, self._state(planned), calls)

    def _state(self, planned: PlanBlock) -> JSONObject:
        """What the blocks before it gave that is small enough to be changed by hand."""
        if planned.human is None or planned.human.type != "edit":
            return {}
        given = {self._facts.plan[idx].block_id: each for idx, each in self._outputs(planned.preds).items()}
        return {
            block_id: each["output"]
            for block_id, each in sorted(given.items())
            if each["status"] == "completed" and not holds_large(each["output"])
        }

    def levels(self, planned: PlanBlock, names: JSONObject) -> tuple[LevelAsk, ...]:
        """Whom the template asks about a block."""
        return asking.levels(
            planned,
            lambda expression: filled(expression.evaluate({**self._scope(expression.block_refs), **names})),
        )

    def asked_now(self, block: Answered, idx: int) -> HumanAsk | None:
        """The question about a block that waits for a person, as it would be asked now."""
        try:
            return self._question(self._facts.plan[idx], block.pk, block.names)
        except (ExpressionError, LargeUnavailable):
            return None

    def would_take(self, idx: int, again: Collection[int]) -> bool:
        """Whether a block would surely take a decision, if the blocks `again` run again and others do not."""
        planned = self._facts.plan[idx]
        named = set(planned.preds)
        if planned.mapping is not None:
            named = self._facts.plan.refs(planned.mapping.block_refs)
        if planned.human is None or planned.items is not None or not named.isdisjoint(again):
            return False
        try:
            ask = self._question(planned, 0, {})
        except (ExpressionError, LargeUnavailable):
            return False
        return self.decisions.about(planned, 0, ask) is not None

    def answered(self, block: Answered, *, kind: str, approved: bool, response: JSONValue) -> Change:
        """What a person's decision makes of a block: approval, input or fix."""
        planned = self._facts.plan[block.idx]
        change = Change(pk=block.pk, idx=block.idx, iteration=block.iteration, status=B.READY)
        if kind == "fix":
            return self._fixed(planned, change, block, response if approved else {"action": "fail"})
        try:
            return self._decided(planned, change, block.names, approved=approved, response=response)
        except ExpressionError as error:
            return ask_fix(change, Failure(FailureKind.CONFIGURATION, error.code, str(error)))

    def _decided(
        self, planned: PlanBlock, change: Change, names: JSONObject, *, approved: bool, response: JSONValue
    ) -> Change:
        human = planned.human
        assert human is not None
        decision = {"approved": approved, "response": response}
        if not approved:
            if human.on_reject == "fail":
                error = {"kind": "critical", "code": "rejected", "message": "A person refused this step."}
                return replace(change, status=B.FAILED, reason="rejected", error=error)
            if human.on_reject == "skip":
                return replace(change, status=B.SKIPPED, reason=str(Reason.REJECTED))
            return self.complete(planned, change, decision)
        if planned.asks_input:
            return self.complete(planned, change, response)
        if planned.noop:
            return self.complete(planned, change, decision)
        return self._go(planned, replace(change, reason="approved"), names)

    def _fixed(self, planned: PlanBlock, change: Change, block: Answered, response: JSONValue) -> Change:
        match response.get("action") if isinstance(response, dict) else "fail":
            case "retry" if not block.attempts and not block.iteration:
                return self._run(planned, change)
            case "retry" if not block.attempts:
                return self.item(block.pk, block.idx, block.iteration, block.item)
            case "retry" if block.exhausted:  # a round more, for the last one was accepted
                return replace(change, reason="run_again", afresh=True, again=True, output=block.output)
            case "retry":
                return replace(change, reason="run_again", afresh=True)
            case "complete":
                return self.complete(planned, change, response.get("output"), reviewed=True)
            case "skip":
                return replace(change, status=B.SKIPPED, reason=str(Reason.BY_HAND))
            case "abort":
                error = {
                    "kind": "critical",
                    "code": "aborted_by_hand",
                    "message": "A person gave it up.",
                    "recovery": {"strategy": Strategy.COMPENSATE},
                }
                return replace(
                    change,
                    status=B.FAILED,
                    reason="aborted_by_hand",
                    error=error,
                    ends_run=Strategy.COMPENSATE,
                )
        error = {"kind": "critical", "code": "failed_by_hand", "message": "A person let this step fail."}
        return replace(change, status=B.FAILED, reason="failed_by_hand", error=error)

    def complete(
        self, planned: PlanBlock, change: Change, output: JSONValue, *, reviewed: bool = False
    ) -> Change:
        """As `judging.completed`, with large outputs put away.

        Raises:
            LargeUnavailable: it is made of a large value that cannot be read.
        """
        try:
            output = self.keep(output)
        except TooLarge as error:
            return replace(change, status=B.FAILED, reason=error.code, error=error.failure.as_json())
        refs = planned.conditions.block_refs - {planned.block_id} if planned.conditions else frozenset()
        return completed(planned, change, output, scope=lambda: self._scope(refs), reviewed=reviewed)


def _why_not(error: ExpressionError | LargeUnavailable) -> Failure:
    if isinstance(error, LargeUnavailable):
        return Failure(FailureKind.TRANSIENT, "output_unavailable", str(error))
    return Failure(FailureKind.CONFIGURATION, error.code, str(error))


def correlation_text(value: JSONValue) -> str:
    """A correlation as it is compared.

    Raises:
        ExpressionError: nothing, a list or an object says which event is meant.
    """
    return key_text(value, most=LIMITS.event_name_chars, code="not_a_correlation", field="wait.correlation")


def place_key(value: JSONValue) -> str:
    """A concurrency key as it is compared.

    Raises:
        ExpressionError: it is no text, empty or too long.
    """
    field, code = "concurrency.key", "not_a_key"
    text = key_text(value, most=LIMITS.concurrency_key_chars, code=code, field=field)
    if not text:
        raise ExpressionError(code, f"{field} gives an empty text.")
    return text


def simulated_event(facts: Facts, planned: PlanBlock) -> JSONObject:
    """What a block of a simulated run is said to have waited for: its scripted output, at once."""
    wait = planned.block.wait
    scripted = ((facts.simulation or {}).get("outputs") or {}).get(planned.block_id, {})
    return {
        "eventId": "simulated",
        "type": wait.event if wait is not None else None,
        "correlation": "",
        "payload": scripted,
        "at": None,
    }
