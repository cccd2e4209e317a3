"""The steps of an agent that works in several, as rows: `agentflow.agents.journal` for one claim.

A step begins in a transaction that holds the run's lock, so after a pause or a cancel, or once the block
is another worker's, none begins.  What came of a step is written without the lock: it is fenced by the
attempt that began the step, and only a worker that begins it anew takes that away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from django.db import transaction

from agentflow.agents.calls import Completed, Failed, StartChild
from agentflow.agents.journal import Busy, Held, Step, StepKind, StepStatus
from agentflow.events import store
from agentflow.types import JSONObject
from agentflow.workflow.failures import Failure
from executions.services import starting
from executions.states import ExecutionStatus as E

from . import budgets, children, daily, statements
from .choosing import limits_of, take_for_tool
from .facts import Facts, as_text
from .judging import Change, Claim
from .rows import loads
from .run import Run, lock_row, locked, poke, raw_cursor

T = TypeVar("T")
STEP = ":step:"  # in the operation of an agent that a step calls, before that step's number
Patiently = Callable[[Callable[[bool], T]], T]

_COLUMNS = "number, kind, name, status, request, request_hash, result, usage, failure, decision, seconds"

_READ = f"SELECT {_COLUMNS} FROM executions_agentstep WHERE operation = %(operation)s ORDER BY number"

_BEGIN = """
INSERT INTO executions_agentstep AS s (block_id, attempt, operation, number, kind, name, status, request,
    request_hash, failure, decision, seconds, began_at)
SELECT b.id, b.attempt, %(operation)s, %(number)s, %(kind)s, %(name)s, %(status)s, %(request)s::jsonb,
    %(request_hash)s, %(failure)s::jsonb, %(decision)s::jsonb, 0, statement_timestamp()
FROM executions_blockexecution b
WHERE b.id = %(block)s AND b.attempt = %(attempt)s AND b.status = 'running'
ON CONFLICT (operation, number) DO UPDATE
  SET block_id = excluded.block_id, attempt = excluded.attempt, kind = excluded.kind, name = excluded.name,
      status = excluded.status, request = excluded.request, request_hash = excluded.request_hash,
      failure = excluded.failure, decision = excluded.decision, began_at = excluded.began_at, ended_at = NULL
  WHERE s.status NOT IN ('done', 'failed')
RETURNING number
"""

# Down to the agent that asks: on the way to it each last step is a call that is under way.
_DECIDE = """
WITH RECURSIVE below AS (
  SELECT %(operation)s::text AS operation
  UNION ALL
  SELECT b.operation || ':step:' || l.number FROM below b CROSS JOIN LATERAL (
    SELECT number, status FROM executions_agentstep
    WHERE operation = b.operation ORDER BY number DESC LIMIT 1) l
  WHERE l.status = 'begun')
UPDATE executions_agentstep s SET decision = %(decision)s::jsonb FROM below b
WHERE s.operation = b.operation AND s.status IN ('asked', 'unknown')
  AND s.number = (SELECT max(number) FROM executions_agentstep WHERE operation = b.operation)
RETURNING s.number
"""


def operation(execution_id: UUID, block_id: str, iteration: int, effect_seq: int) -> str:
    """What an idempotency key stands for, the same across attempts and restarts that repeat it."""
    return f"{execution_id}:{block_id}:{iteration}:{effect_seq}"


def path_of(root: str, operation: str, number: int) -> list[int]:
    """Where a step is: its number, behind those of the calls that it is a part of."""
    return [*map(int, operation[len(root) :].split(STEP)[1:]), number]


class Journal:
    """The journal of one claim."""

    def __init__(
        self,
        facts: Facts,
        claim: Claim,
        *,
        agent_id: str | None,
        patiently: Patiently[Any],
        holding: Callable[[], None],
    ) -> None:
        """`agent_id` is who was called.  `holding` is told before the attempt holds a place, which its
        settling then gives back.
        """
        self._facts = facts
        self._claim = claim
        self._agent_id = agent_id
        self._planned = facts.plan[claim.idx]
        self._block_id = self._planned.block_id
        self._patiently = patiently
        self._holding = holding
        self._callers: tuple[str, ...] = ()  # those above it, where it is a tool itself
        self._held: set[str] = set()  # agents of which there is a place in hand
        self._root = operation(facts.execution_id, self._block_id, claim.iteration, claim.effect_seq)
        self._operation = self._root

    def inside(self, agent_id: str, key: str) -> Journal:
        found = copy(self)  # the places in hand are one set
        found._agent_id, found._operation = agent_id, key
        found._callers = (*self._callers, self._agent_id or "")
        return found

    def steps(self) -> list[Step]:
        rows: Sequence[Sequence[Any]] = self._patiently(
            lambda _: raw_cursor().execute(_READ, {"operation": self._operation}).fetchall()
        )
        return [_step(row) for row in rows]

    def begin(self, step: Step) -> None:
        if step.kind is StepKind.MODEL:
            for agent_id in (*self._callers, self._agent_id):
                self._afford(agent_id, own=not self._callers)
        self._patiently(lambda _: self._begin(step))
        poke(self._facts)

    def end(self, step: Step) -> None:
        self._patiently(lambda _: self._end(step))
        poke(self._facts)

    def _afford(self, agent_id: str | None, *, own: bool) -> None:
        """`own`: of the block's agent; another's budgets are looked at where it has any, and the block's."""
        drawn = (own or agent_id == self._agent_id) and budgets.apply(self._facts, self._planned)
        if not drawn and (own or not daily.of_its_own(self._facts, agent_id)):
            return
        check = partial(
            budgets.check, self._facts, self._planned, self._claim, agent_id=agent_id, on_its_way=not own
        )
        held = self._patiently(lambda _: check())
        if isinstance(held, Change):
            raise Held("budget", held)

    def take(self, agent_id: str) -> None:
        self._afford(agent_id, own=False)
        place = limits_of(self._facts, agent_id)
        if place is None:
            return
        self._holding()
        if not self._patiently(lambda _: take_for_tool(self._facts, self._claim, place)):
            raise Busy(agent_id, place.limit, place.rate)
        self._held.add(agent_id)

    def give_back(self, agent_id: str) -> None:
        if agent_id in self._held:
            self._held.remove(agent_id)
            self._patiently(lambda _: self._give_back(agent_id))

    def child(self, wanted: StartChild) -> starting.Child | Failure:
        found: starting.Child | Failure = self._patiently(
            lambda _: starting.resolve_child(self._facts, wanted)
        )
        return found

    def came_of(self, step: Step) -> Completed | Failed | None:
        child_id = UUID(step.request["executionId"])
        came: Completed | Failed | None = self._patiently(lambda _: children.end_of(child_id))
        return came

    def _give_back(self, agent_id: str) -> None:
        with locked(self._facts) as run:
            run.places.give_back(self._claim.pk, self._claim.attempt, agent_id)

    def _begin(self, step: Step) -> None:
        with transaction.atomic():
            cursor = raw_cursor()
            gate = lock_row(cursor, self._facts.execution_id)
            if gate is None:
                raise Held("lost")
            run = Run(self._facts, cursor, gate)
            if not run.works:
                raise Held("paused" if run.status is E.PAUSED else "cancelled")
            if cursor.execute(_BEGIN, self._given(step)).fetchone() is None:
                raise Held("lost")
            if step.status is StepStatus.ASKED:
                self._tell(step)

    def _end(self, step: Step) -> None:
        with transaction.atomic():
            ended = statements.STEP_ENDED_AND_COUNT if step.usage else statements.STEP_ENDED
            if raw_cursor().execute(ended, self._given(step)).fetchone() is None:
                raise Held("lost")
            self._tell(step)

    def _given(self, step: Step) -> JSONObject:
        return {
            "workspace": self._facts.workspace_id,
            "agent": self._agent_id or "",
            "beside": self._beside(step),
            "block": self._claim.pk,
            "attempt": self._claim.attempt,
            "operation": self._operation,
            "number": step.number,
            "kind": str(step.kind),
            "name": step.name,
            "status": str(step.status),
            "request": as_text(step.request),
            "request_hash": step.request_hash,
            "result": as_text(step.result),
            "usage": as_text(step.usage),
            "failure": as_text(step.failure),
            "decision": as_text(step.decision),
            "seconds": step.seconds,
            "called": step.called,
        }

    def _beside(self, step: Step) -> list[str]:
        """For whom else counts what a step used: whose tool it called, and for whom this agent works."""
        tool = step.request.get("agentId") if step.kind is StepKind.TOOL else None
        return sorted({*self._callers, tool or ""} - {"", self._agent_id})

    def _tell(self, step: Step) -> None:
        payload: JSONObject = {"number": step.number, "kind": str(step.kind), "name": step.name}
        payload["path"] = path_of(self._root, self._operation, step.number)
        payload["status"] = str(step.status)
        if step.failure is not None:
            payload["error"] = {key: step.failure[key] for key in ("kind", "code", "message")}
        store.append(
            type="block_step",
            workspace_id=self._facts.workspace_id,
            execution_id=self._facts.execution_id,
            block_id=self._block_id,
            payload=payload,
        )


def decide(cursor: psycopg.Cursor[Any], operation: str, decision: JSONObject) -> bool:
    """Write down what a person decided about the step that waits.  False: none does."""
    given = {"operation": operation, "decision": as_text(decision)}
    return cursor.execute(_DECIDE, given).fetchone() is not None


def _step(row: Sequence[Any]) -> Step:
    number, kind, name, status, request, request_hash, result, usage, failure, decision, seconds = row
    return Step(
        number=number,
        kind=StepKind(kind),
        name=name,
        status=StepStatus(status),
        request=loads(request),
        request_hash=request_hash,
        result=loads(result),
        usage=loads(usage),
        failure=loads(failure),
        decision=loads(decision),
        seconds=seconds,
    )
