"""One locked run inside one transaction: the slow but complete way to move its blocks.

    with locked(facts) as run:
        run.settle(changes)     # blocks change; edges close; what that decides is opened, skipped or asked
        run.advance()           # blocks whose opening is still to be decided
                                # on leaving, the run ends if nothing is left

`turns` takes a shorter way for blocks that complete plainly and comes here for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Self, cast
from uuid import UUID

import psycopg
from django.db import connection, transaction

from agentflow.events import store
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.moments import check_wait_s
from agentflow.workflow.settlement import (
    Closings,
    Reason,
    close_completed,
    close_failed,
    close_skipped,
    uncaught,
)
from executions import blobs, dispatch
from executions.incidents import notes
from executions.models import Compensation, PointKind
from executions.ports import HumanAsk, given_up, human_gate
from executions.recovery.decision import Cause, Strategy
from executions.states import BLOCK, EXECUTION, SETTLED, TERMINAL
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from . import asking, points, statements
from .compensating import Compensating
from .deciding import Decisions
from .facts import Facts, as_text, blob_of
from .frontier import Position, first
from .items import Items
from .judging import REVIEW, Change
from .opening import Answered, Decided, Opener, SettledBlocks
from .places import Places
from .rows import int_array, loads

UNREAD_S = 5.0


def check_timer(execution_id: UUID) -> str:
    return f"check:{execution_id}"


class Run:
    """A run whose row this transaction holds."""

    def __init__(self, facts: Facts, cursor: psycopg.Cursor[Any], gate: Sequence[Any]) -> None:
        self.facts = facts = facts.patched(gate[11])
        self.cursor = cursor
        self.status = E(gate[0])
        self.epoch: int = gate[1]
        self.open_sinks: int = gate[2]
        self.failed_blocks: int = gate[3]
        self.ends_as: str = gate[4]
        self.compensation: str = gate[5]
        self.edits: int = gate[6]
        self.decisions_of: int | None = gate[7]
        self.rework = cast(JSONObject | None, loads(gate[8]))
        self.known: SettledBlocks = {}
        self.asks: list[HumanAsk] = []
        self._items = Items(self)
        self.opener = Opener(
            facts,
            outputs=self.outputs,
            keep=self._keep,
            seconds_until=self._seconds_until,
            asks=self.asks,
            decisions=Decisions(self),
            rework=lambda: self.rework,
            make_room=self._items.make_room,
        )
        self.places = Places(self)
        self._compensating = Compensating(self)
        self._sinks_closed = 0
        self._blocks_failed = 0
        self.children_to_check: list[UUID] = []
        self._point: tuple[PointKind, str, int | None] | None = None
        self.ready_from: Position | None = None if gate[9] is None else (gate[9], gate[10])
        self._noted = self.ready_from  # what its row says
        self.left_unread = False  # a large value could not be read: what needs it waits

    @property
    def works(self) -> bool:
        """Whether blocks may be claimed: its own, or its compensations, the only ones left open then."""
        return self.status is E.RUNNING or self.compensates

    @property
    def compensates(self) -> bool:
        return self.status is E.CANCELLING and self.compensation == Compensation.RUNNING

    # -- what was left ready --------------------------------------------------

    def opened(self, position: Position, *, noted: bool = False) -> None:
        """A block has become ready there; `noted`: its statement moved what the row says, too."""
        self.ready_from = first(self.ready_from, position)
        if noted:
            self._noted = first(self._noted, position)

    def looked(self, next: Position | None) -> None:
        """Nothing is ready before this, as the row says by now."""
        self.ready_from = self._noted = next

    def note_opened(self) -> None:
        """Let walkers at work see what has become ready, before they look further ahead."""
        if self.ready_from != self._noted and self.ready_from is not None and self.status not in TERMINAL:
            idx, iteration = self.ready_from
            self.execute(statements.LEFT_READY, ready_idx=idx, ready_iteration=iteration)
            self._noted = self.ready_from

    # -- statements -----------------------------------------------------------

    def execute(self, statement: str, **parameters: Any) -> psycopg.Cursor[Any]:
        parameters["execution"] = self.facts.execution_id
        parameters["workspace"] = self.facts.workspace_id
        parameters["epoch"] = self.epoch
        return self.cursor.execute(statement, parameters)

    def outputs(self, idxs: Iterable[int]) -> SettledBlocks:
        """The settled blocks among `idxs`; a block that gave nothing has output None."""
        wanted = set(idxs)
        missing = [idx for idx in wanted if idx not in self.known]
        if missing:
            for idx, status, output, blob in self.execute(statements.OUTPUTS, idxs=int_array(missing)):
                if B(status) in SETTLED:
                    self.known[idx] = {"output": blobs.of_row(output, blob), "status": status}
        return {idx: self.known[idx] for idx in wanted if idx in self.known}

    def _keep(self, output: JSONValue) -> JSONValue:
        return blobs.kept(output, workspace_id=self.facts.workspace_id, locked=True)

    def answered(self, block: Answered, *, kind: str, approved: bool, response: JSONValue) -> Change:
        """As `Opener.answered`."""
        return self.opener.answered(block, kind=kind, approved=approved, response=response)

    def after_wait(self, pk: int, idx: int, event: JSONObject | None = None) -> Change:
        """As `Opener.after_wait`."""
        return self.opener.after_wait(pk, idx, event)

    def complete(self, change: Change, output: JSONValue, *, reviewed: bool = False) -> Change:
        """As `Opener.complete`."""
        return self.opener.complete(self.facts.plan[change.idx], change, output, reviewed=reviewed)

    def ask_about(self, change: Change) -> None:
        """Put the question that a change needs, as the run is left."""
        planned = self.facts.plan[change.idx]
        if change.ask == REVIEW:
            levels = self.opener.levels(planned, {})
            self.asks.append(asking.review(self.facts, planned, change, levels))
        else:
            self.asks.append(asking.about(self.facts, planned, change))

    # -- moving blocks --------------------------------------------------------

    def settle(self, changes: list[Change], *, leaving: B) -> set[int]:
        """Move blocks out of one status, and follow what that decides as far as it goes.

        Returns the primary keys of the blocks that moved; a block that is missing had moved before.
        """
        moved = self.move(changes, leaving)
        accepted = [change for change in changes if change.pk in moved]
        while accepted:
            accepted = self._follow(accepted)
        return moved

    def advance(self) -> None:
        """Decide the blocks that have no open edge and were not decided yet."""
        if self.status is not E.RUNNING:
            return
        self._decide(self.execute(statements.UNDECIDED, partial=list(self.facts.plan.partial)).fetchall())

    def _decide(self, rows: Iterable[Sequence[Any]]) -> None:
        self.open([Decided(*row) for row in rows])
        for idx in self.facts.plan.fans:  # items that a pause held back, or whose outputs nobody could read
            accepted = self._items.next(self.facts.plan[idx]) + self._items.finish(self.facts.plan[idx])
            while accepted:
                accepted = self._follow(accepted)

    def open(self, decided: list[Decided]) -> None:
        """Open, skip, ask about or settle blocks that are decided, in one go."""
        changes = self.opener.open(decided)
        if changes:
            self.settle(changes, leaving=B.BLOCKED)
            self._end_races(changes)

    def _follow(self, changes: list[Change]) -> list[Change]:
        """Close the edges behind settled blocks; the changes that this opens have been made."""
        closings = Closings()
        for change in changes:
            if change.iteration:
                self._items.after(change)
            else:
                self._after(change, closings)
            if change.ends_run is not None and self.status in (E.RUNNING, E.PAUSED):
                self._give_up(change)
        if self.status in TERMINAL or self.status is E.CANCELLING:
            return []
        settled = [c for c in changes if c.iteration and c.status in SETTLED]
        followed = self._items.count([c.idx for c in settled])
        decided = self._close(closings)
        if self.status is not E.RUNNING:
            return followed
        followed += self._items.begin([c.idx for c in changes if c.items is not None])
        followed += self._items.replace([(c.idx, c.iteration) for c in settled])
        openings = self.opener.open(decided)
        moved = self.move(openings, B.BLOCKED)
        self._end_races(openings)
        return followed + [change for change in openings if change.pk in moved]

    def _end_races(self, openings: list[Change]) -> None:
        """Cancel what worked for partial joins alone that are decided now, whether they run or not."""
        partial = self.facts.plan.partial
        decided = {change.idx for change in openings if change.idx in partial}
        if decided and len(partial) > 1:
            rows = self.execute(statements.DECIDED_JOINS, partial=list(partial))
            decided |= {row[0] for row in rows.fetchall()}
        rivals = self.facts.plan.rivals(decided) if decided else set()
        if rivals:
            self.cancel(rivals, first=0, reason=str(Reason.LOST_RACE))

    def cancel(self, idxs: Iterable[int], *, first: int, reason: str) -> None:
        """Cancel what is open of these blocks (`first` 1: of their items alone), and what it waits for."""
        self.places.sweep = True
        lost = self.execute(statements.CANCEL_LOSERS, idxs=list(idxs), first=first, reason=reason).fetchall()
        pks = [pk for pk, _ in lost]
        human_gate().cancel(execution_id=self.facts.execution_id, block_pks=pks, reason=reason)
        self.children_to_check += [child for _, child in lost if child is not None]
        self.asks[:] = [ask for ask in self.asks if ask.block_pk not in pks]

    def withdraw(self, block_pk: int, idx: int, attempt: int, *, reason: str) -> None:
        """Take back what a block waited for outside: its child, its items.  The block itself is settled."""
        children = self.execute(
            "SELECT id FROM executions_execution WHERE parent_block_id = %(block)s"
            " AND parent_attempt = %(attempt)s AND completed_at IS NULL",
            block=block_pk,
            attempt=attempt,
        )
        self.children_to_check += [row[0] for row in children]
        if self.facts.plan[idx].items is not None:
            self.cancel([idx], first=1, reason=reason)

    def _after(self, change: Change, closings: Closings) -> None:
        planned = self.facts.plan[change.idx]
        if change.status is B.COMPLETED:
            self.known[change.idx] = {"output": change.output, "status": "completed"}
            close_completed(self.facts.plan, change.idx, change.choice, closings)
        elif change.status is B.FAILED:
            self._blocks_failed += planned.block.on_error != "continue"
            close_failed(self.facts.plan, change.idx, closings)
        elif change.status is B.SKIPPED:
            close_skipped(self.facts.plan, change.idx, change.reason, closings)
        elif change.ask:
            self.ask_about(change)
        elif change.delay_s is not None:  # a backoff, or a wait
            self.look_again(change.delay_s)
        if change.items is not None:
            self._items.add(change)
        if change.place is not None:
            self.places.ask(change.pk, *change.place)
        if change.wait_for is not None:
            self._await_event(change.pk, *change.wait_for)
        if change.child is not None:
            self.children_to_check.append(change.child.insert(change))
        if change.status in SETTLED and not planned.succs and planned.compensates is None:
            self._sinks_closed += 1
        if change.status is B.COMPLETED and planned.block.checkpoint:
            self.mark(PointKind.CHECKPOINT, planned.block.name or planned.block_id)
        if change.status is B.COMPLETED and planned.block.end and self.status in (E.RUNNING, E.PAUSED):
            ends_as = E(planned.block.end)
            self.stop(ends_as=ends_as, reason="run_ended", error=None, compensate=ends_as is E.FAILED)

    def _give_up(self, change: Change) -> None:
        """Recovery ends the run for what happened to one block."""
        error = change.error or {}
        block_id = self.facts.plan[change.idx].block_id
        why: JSONObject = {
            "code": error.get("code", "block_failed"),
            "message": f"{block_id}: {error.get('message', 'failed')}",
            "blocks": [block_id],
        }
        compensate = change.ends_run is Strategy.COMPENSATE
        self.stop(ends_as=E.FAILED, reason="recovery", error=why, compensate=compensate)
        if change.ends_run is Strategy.RESTART:
            point = error["recovery"]["recoveryPointId"]
            timer = f"recovery:{self.facts.execution_id}"
            self.execute(statements.GO_BACK, timer=timer, point=point)

    def _await_event(self, pk: int, type: str, correlation: str) -> None:
        """Begin to wait, and look after the commit: the event may be there already."""
        self.execute(statements.AWAIT_EVENT, block=pk, type=type, correlation=correlation)
        self.look_again(0)
        dispatch.on_commit_look_at(self.facts.execution_id)

    def move(self, changes: list[Change], leaving: B) -> set[int]:
        if not changes:
            return set()
        changes = sorted(self._with_agents(changes), key=lambda change: change.pk)
        for change in changes:
            BLOCK.check(leaving, change.status)
            if change.status is B.READY and not change.delay_s:
                self.opened((change.idx, change.iteration))
        spent = any(c.usage for c in changes)
        rows = self.execute(
            statements.MOVE_AND_COUNT if spent else statements.MOVE,
            ids=[c.pk for c in changes],
            attempts=[c.attempt for c in changes],
            statuses=[str(c.status) for c in changes],
            outputs=[as_text(c.output) for c in changes],
            inputs=[as_text(c.input) for c in changes],
            errors=[as_text(c.error) for c in changes],
            reasons=[c.reason for c in changes],
            choices=[as_text(list(c.choice)) if c.choice is not None else None for c in changes],
            delays=[c.delay_s for c in changes],
            endings=[str(c.ended or "") for c in changes],
            agents=[c.agent_id for c in changes],
            afresh=[c.afresh for c in changes],
            again=[c.again for c in changes],
            items=[None if c.items is None else len(c.items) for c in changes],
            output_blobs=[blob_of(c.output) for c in changes],
            input_blobs=[blob_of(c.input) for c in changes],
            usages=[as_text(c.usage) for c in changes],
            injections=[as_text(c.injected) for c in changes],
            leaving=[str(leaving)],
        )
        moved = {pk for pk, _ in rows}
        if any(change.error is not None for change in changes):
            notes.note(self, changes, moved)
        return moved

    def _with_agents(self, changes: list[Change]) -> list[Change]:
        """Attempts that end elsewhere than with the walker that chose their agent, with that agent."""
        routed = self.facts.plan.routed
        unnamed = [c.pk for c in changes if c.ended and not c.agent_id and c.idx in routed] if routed else []
        if not unnamed:
            return changes
        rows = self.execute(statements.CHOSEN_AGENTS, ids=unnamed)
        agents = {(pk, attempt): agent_id for pk, attempt, agent_id in rows}
        return [replace(c, agent_id=agents.get((c.pk, c.attempt), c.agent_id)) for c in changes]

    def _close(self, closings: Closings) -> list[Decided]:
        items = sorted(closings.by_idx.items())
        if not items:
            return []
        rows = self.execute(
            statements.CLOSE,
            idxs=[idx for idx, _ in items],
            closed=[c.closed for _, c in items],
            dead=[c.dead for _, c in items],
            failed=[c.failed for _, c in items],
        ).fetchall()
        return sorted(
            (
                Decided(pk, idx, todo, dead, failed)
                for pk, idx, todo, dead, failed, status in rows
                if status == B.BLOCKED and (todo == 0 or idx in self.facts.plan.partial)
            ),
            key=lambda block: block.idx,
        )

    def mark(self, kind: PointKind, name: str = "", *, by_id: int | None = None) -> None:
        """Take a recovery point as the run is left; one is enough for a transaction."""
        self._point = self._point or (kind, name, by_id)

    # -- ending ---------------------------------------------------------------

    def begin(self) -> None:
        """The first walker has come: pending becomes running, and the roots are decided."""
        EXECUTION.check(self.status, E.RUNNING)
        self.status = E.RUNNING
        self._decide(self.execute(statements.BEGIN, partial=int_array(self.facts.plan.partial)).fetchall())

    def move_to(self, status: E) -> None:
        EXECUTION.check(self.status, status)
        self.status = status
        self.execute(
            "UPDATE executions_execution SET status = %(status)s,"
            " started_at = coalesce(started_at, statement_timestamp()) WHERE id = %(execution)s",
            status=str(status),
        )
        self._event(status)

    def stop(self, *, ends_as: E, reason: str, error: JSONObject | None, compensate: bool = False) -> None:
        """Cancel what waits; what runs is stopped by its workers, and the last of them ends the run.

        With `compensate` it undoes what it did before it ends.
        """
        EXECUTION.check(self.status, E.CANCELLING)
        self.status = E.CANCELLING
        self.ends_as = str(ends_as)
        self.execute(
            "UPDATE executions_execution SET status = 'cancelling', ends_as = %(ends_as)s,"
            " error = coalesce(%(error)s::jsonb, error) WHERE id = %(execution)s",
            ends_as=str(ends_as),
            error=as_text(error),
        )
        if compensate:
            self.set_compensation(Compensation.DUE)
        self._event(E.CANCELLING)
        self._cancel_waiting(reason)

    def undoable(self) -> bool:
        """Whether a block has completed that has a compensation."""
        return bool(self._compensating.wanted())

    def stop_compensating(self, reason: str) -> None:
        """Give up what is left to undo; calls in flight are stopped by their workers."""
        self.set_compensation(Compensation.STOPPED)
        self.tell_compensation()
        self._cancel_waiting(reason)

    def tell_compensation(self) -> None:
        payload: JSONObject = {"status": str(self.status), "compensation": self.compensation}
        self.execute(statements.EXECUTION_EVENT, level=20, payload=as_text(payload))

    def set_compensation(self, compensation: Compensation | None) -> None:
        self.compensation = str(compensation or "")
        self.execute(
            "UPDATE executions_execution SET compensation = %(compensation)s WHERE id = %(execution)s",
            compensation=self.compensation,
        )

    def _cancel_waiting(self, reason: str) -> None:
        children = self._open_children()
        self.places.sweep = True
        self.execute(statements.CANCEL_WAITING, reason=reason)
        human_gate().cancel(execution_id=self.facts.execution_id, block_pks=None, reason=reason)
        self.children_to_check += children
        self.asks.clear()
        self.look_again(0)

    def leave(self) -> None:
        """Write what was counted, ask what was collected, and end the run when nothing is left."""
        if self._sinks_closed or self._blocks_failed:
            self.open_sinks -= self._sinks_closed
            self.failed_blocks += self._blocks_failed
            self.execute(
                "UPDATE executions_execution SET open_sinks = %(sinks)s, failed_blocks = %(failed)s"
                " WHERE id = %(execution)s",
                sinks=max(self.open_sinks, 0),
                failed=self.failed_blocks,
            )
        self.opener.decisions.leave()
        if self.asks and (self.status in (E.RUNNING, E.PAUSED) or self.compensates):
            human_gate().open(self.asks)
        if self._point is not None:
            kind, name, by_id = self._point
            points.write(self, kind, name=name, by_id=by_id)
        if self.status is E.RUNNING and self.open_sinks <= 0:
            self._all_settled()
        if self.status is E.CANCELLING and self._compensating.go_on():
            self._finish(E(self.ends_as or E.CANCELLED))
        for child in self.children_to_check:
            self._tell(child)
        self.places.leave()  # takes locks of its own: nothing that locks may follow

    def leave_unread(self) -> None:
        """Let what needs a large value wait until blob storage gives it."""
        self.left_unread = True
        self.look_again(UNREAD_S)

    def _all_settled(self) -> None:
        if not self._failed_for_good():
            self._finish(E.COMPLETED)
        elif self.undoable():
            self.stop(ends_as=E.FAILED, reason="failed", error=_why_failed(self._failures()), compensate=True)
        else:
            self._finish(E.FAILED)

    def look_again(self, seconds: float) -> None:
        self.execute(statements.LOOK_AGAIN, timer=check_timer(self.facts.execution_id), seconds=seconds)

    def _tell(self, other: UUID) -> None:
        """Let another run take the news by itself: its rows and its own timer are never locked under ours."""
        self.execute(statements.NEWS, timer=f"news:{other}:{self.facts.execution_id}", other=other)
        dispatch.on_commit_look_at(other)

    def _finish(self, status: E) -> None:
        EXECUTION.check(self.status, status)
        self.status = status
        failures = self._failures() if status is E.FAILED else []
        self.execute(
            statements.FINISH,
            status=str(status),
            error=as_text(_why_failed(failures) if status is E.FAILED else None),
            level=40 if status is E.FAILED else 20,
            payload=as_text({"status": str(status)}),
        )
        parent = self.facts.parent_execution_id
        if parent is not None:
            self._tell(parent)
        elif self.facts.simulation is None and any(map(_gave_up, failures)):
            given_up()(execution_id=self.facts.execution_id)

    def _failed_for_good(self) -> bool:
        if not self.failed_blocks or not self.facts.plan.handles_failure:
            return bool(self.failed_blocks)
        rows = self.execute(
            "SELECT idx, status, reason FROM executions_blockexecution"
            " WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND iteration = 0"
        )
        return bool(uncaught(self.facts.plan, {idx: (status, reason) for idx, status, reason in rows}))

    def _seconds_until(self, moment: datetime) -> float:
        row = self.execute(
            "SELECT extract(epoch FROM %(moment)s::timestamptz - statement_timestamp())::float8",
            moment=moment,
        ).fetchone()
        assert row is not None
        return check_wait_s(row[0])

    def _event(self, status: E) -> None:
        self.execute(statements.EXECUTION_EVENT, level=20, payload=as_text({"status": str(status)}))

    def _open_children(self) -> list[UUID]:
        rows = self.execute(
            "SELECT c.id FROM executions_blockexecution b JOIN executions_execution c"
            " ON c.parent_block_id = b.id AND c.parent_attempt = b.attempt"
            " WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.status = 'waiting_external'"
        )
        return [row[0] for row in rows]

    def _failures(self) -> list[tuple[str, JSONObject]]:
        """The failed blocks with their errors, the first ones first."""
        rows = self.execute(
            "SELECT block_id, error FROM executions_blockexecution WHERE execution_id = %(execution)s"
            " AND epoch = %(epoch)s AND status = 'failed' AND idx < %(blocks)s"
            " ORDER BY completed_at, idx LIMIT 20",
            blocks=len(self.facts.plan.blocks),
        )
        return [(block_id, loads(error) or {}) for block_id, error in rows]


def _why_failed(failures: list[tuple[str, JSONObject]]) -> JSONObject:
    if not failures:
        return {"code": "ended_as_failed", "message": "A block ended the run as failed.", "blocks": []}
    block_id, first = failures[0]
    return {
        "code": first.get("code", "block_failed"),
        "message": f"{block_id}: {first.get('message', 'failed')}",
        "blocks": [name for name, _ in failures],
    }


def _gave_up(failure: tuple[str, JSONObject]) -> bool:
    """Whether recovery, or a person who was asked, let it come to this, or the failure was critical."""
    error = failure[1]
    decided = error.get("recovery") or {}
    return (
        error.get("code") == "failed_by_hand"
        or decided.get("strategy") == Strategy.COMPENSATE
        or decided.get("cause") == Cause.CRITICAL
    )


class _Cursor(psycopg.Cursor[Any]):
    """Fails with Django's exceptions: who waits for a lost database catches those."""

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        with connection.wrap_database_errors:
            return super().execute(*args, **kwargs)


def raw_cursor() -> psycopg.Cursor[Any]:
    """A psycopg cursor on Django's connection: prepared statements, no wrapper per row."""
    connection.ensure_connection()
    assert connection.connection is not None
    return _Cursor(connection.connection)


def lock_row(cursor: psycopg.Cursor[Any], execution_id: UUID) -> Sequence[Any] | None:
    cursor.execute(statements.GATE, {"execution": execution_id})
    return cursor.fetchone()


@contextmanager
def locked(facts: Facts) -> Iterator[Run]:
    """Hold a run's lock for one transaction."""
    with transaction.atomic():
        cursor = raw_cursor()
        gate = lock_row(cursor, facts.execution_id)
        if gate is None:
            raise LookupError(facts.execution_id)
        run = Run(facts, cursor, gate)
        run.places.sweep = True
        yield run
        run.leave()
        run.note_opened()
        transaction.on_commit(lambda: poke(facts), robust=True)


def poke(facts: Facts) -> None:
    """Tell open pages that there is something to read."""
    store.poke(execution_id=facts.execution_id)
