"""Why an execution is where it is: one reason for it and exactly one for each unsettled block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agentflow.agents.calls import CIRCUIT_OPEN
from agentflow.types import JSONObject

from . import facts, selectors, snapshot
from .engine.judging import AGENT, BUDGET, BUDGET_DAY, CHILD, TOOL_AGENT, TOOL_CHILD
from .facts import NOTHING_KNOWN, BlockFacts
from .models import Compensation, Execution
from .narration import reason_words
from .selectors import BlockRow
from .states import SETTLED, TERMINAL, BlockStatus, ExecutionStatus

NAMED_MAX = 20  # of what a block waits for, so many are named; the rest are counted


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is stable; `until` is when it ends by itself; `waits_for` are blockIds or executions' ids."""

    code: str
    message: str
    until: datetime | None = None
    since: datetime | None = None
    waits_for: tuple[str, ...] = ()
    key: str = ""  # a concurrency key, and its limit
    limit: int = 0

    def as_json(self) -> JSONObject:
        found: JSONObject = {"code": self.code, "message": self.message}
        if self.until:
            found["until"] = self.until
        if self.since:
            found["since"] = self.since
        if self.waits_for:
            found["waitsFor"] = list(self.waits_for[:NAMED_MAX])
            found["waitsForTotal"] = len(self.waits_for)
        if self.key:
            found |= {"key": self.key, "limit": self.limit}
        return found


@dataclass(frozen=True, slots=True)
class Scene:
    """What a reason is found from, besides the block's own row."""

    status: str
    now: datetime
    max_parallel: int
    running: int
    unsettled: frozenset[str]
    facts: Mapping[str, BlockFacts]
    questions: Mapping[int, Sequence[JSONObject]]  # by block row, as snapshot.interactions gives them
    children: Mapping[int, str]
    items: Mapping[str, Mapping[str, int]]  # by blockId of a `forEach`: how many items have which status
    agents: Mapping[int, Sequence[selectors.AgentQueue]]  # by block row that waits for one
    queues: Mapping[int | None, selectors.Queue]  # by block row, None: the run itself, where it has no place


def explain(execution: Execution) -> JSONObject:
    """The execution's reason and its unsettled blocks' reasons, in a constant number of queries."""
    rows = selectors.block_rows(execution)
    scene = read_scene(execution, rows, selectors.database_now())
    open_rows = [row for row in rows if not row.settled]
    reasons = [(row, reason_of(row, scene)) for row in open_rows]
    return {
        "executionId": execution.pk,
        "status": execution.status,
        "reason": overall(execution, [reason for _, reason in reasons], scene.queues.get(None)).as_json(),
        "blocks": [
            {"blockId": row.block_id, "status": row.status, "reason": reason.as_json()}
            for row, reason in reasons
        ],
    }


def read_scene(execution: Execution, rows: Sequence[BlockRow], now: datetime) -> Scene:
    people = [row.pk for row in rows if row.status == BlockStatus.WAITING_HUMAN]
    elsewhere = [row.pk for row in rows if row.status == BlockStatus.WAITING_EXTERNAL]
    return Scene(
        status=execution.status,
        now=now,
        max_parallel=execution.max_parallel,
        running=sum(row.status == BlockStatus.RUNNING for row in rows),
        unsettled=frozenset(row.block_id for row in rows if not row.settled),
        facts=facts.of_version(execution.template_version_id),
        questions=snapshot.interactions(execution, people) if people else {},
        children={pk: str(child) for pk, child in selectors.children(elsewhere).items()} if elsewhere else {},
        items=selectors.items_by_status(execution) if any(row.reason == "items" for row in rows) else {},
        agents=selectors.agents_waited_for(execution) if any(map(_waits_for_agent, rows)) else {},
        queues=selectors.place_queues(execution) if _may_queue(execution, rows) else {},
    )


def _waits_for_agent(row: BlockRow) -> bool:
    return row.reason in (AGENT, TOOL_AGENT)


def _may_queue(execution: Execution, rows: Sequence[BlockRow]) -> bool:
    return execution.status == ExecutionStatus.PENDING or any(row.reason == "concurrency" for row in rows)


def reason_of(row: BlockRow, scene: Scene) -> Reason:
    """Why this unsettled block is not settled."""
    return {
        BlockStatus.BLOCKED: _blocked,
        BlockStatus.READY: _ready,
        BlockStatus.RUNNING: _running,
        BlockStatus.WAITING_HUMAN: _waiting_human,
        BlockStatus.WAITING_EXTERNAL: _waiting_external,
    }[BlockStatus(row.status)](row, scene)


def _blocked(row: BlockRow, scene: Scene) -> Reason:
    known = scene.facts.get(row.block_id, NOTHING_KNOWN)
    if known.compensates:
        return Reason("compensation_order", "Waits until what was done later is undone.")
    before = tuple(block_id for block_id in known.dependencies if block_id in scene.unsettled)
    if before:
        return Reason("dependencies", f"Waits for {_named(before)}.", waits_for=before)
    if scene.status == ExecutionStatus.PAUSED:
        return _paused()
    return Reason("opening", "All it waited for is settled; it opens in a moment.")


def _ready(row: BlockRow, scene: Scene) -> Reason:
    if scene.status == ExecutionStatus.PAUSED:
        return _paused()
    if row.available_at and row.available_at > scene.now:
        seconds = (row.available_at - scene.now).total_seconds()
        if row.reason == CIRCUIT_OPEN:
            said = "Calls of its agent fail just now: it waits until the agent's circuit closes."
            return Reason(CIRCUIT_OPEN, said, until=row.available_at)
        if row.reason == BUDGET:
            said = "A budget is used up: it waits for the answer to the question about it."
            return Reason("budget_asked", said, until=row.available_at)
        if row.reason == BUDGET_DAY:
            said = (
                "The budget of the day is used up: it goes on with the next day (00:00 UTC), or a larger one."
            )
            return Reason("budget_of_day", said, until=row.available_at)
        return Reason(
            "backoff",
            f"Attempt {row.attempt} failed; it is tried again in {max(1, round(seconds))} s.",
            until=row.available_at,
        )
    if scene.running >= scene.max_parallel:
        return Reason(
            "no_slot", f"Waits for one of the {scene.max_parallel} places the template allows at a time."
        )
    return Reason("queued", "Waits for a worker to take it.")


def _running(row: BlockRow, scene: Scene) -> Reason:
    if row.lease_expires_at and row.lease_expires_at < scene.now:
        return Reason(
            "worker_silent",
            f"The worker of attempt {row.attempt} is silent; it is taken from it in a moment.",
            since=row.lease_expires_at,
        )
    return Reason("running", f"Attempt {row.attempt} is at work.", since=row.started_at)


def _waiting_human(row: BlockRow, scene: Scene) -> Reason:
    known = scene.facts.get(row.block_id, NOTHING_KNOWN)
    asked = next(
        (one for one in reversed(scene.questions.get(row.pk, ())) if one["respondedAt"] is None), None
    )
    kind = str(asked["type"]) if asked else (known.human_kind or "approval")
    level = str(asked["level"]) if asked else (known.human_level or "user")
    who = "any approver of the workspace" if level == "user" else f"the level {level}"
    what = {
        "approval": "an approval",
        "input": "a form to be filled in",
        "fix": "a decision on how to go on",
        "review": "a review",
        "edit": "an edit",
        "tool": "a decision about a call that its agent wants to make",
        "budget": "a decision about a budget that is used up",
    }.get(kind, kind)
    why = f" because {reason_words(row.reason)}" if kind == "fix" and row.reason not in ("", "fix") else ""
    return Reason(
        f"waiting_{kind}",
        f"Waits for {what} by {who}{why}.",
        until=asked["respondBy"] if asked else None,
        since=asked["requestedAt"] if asked else None,
    )


def _waiting_external(row: BlockRow, scene: Scene) -> Reason:
    child = scene.children.get(row.pk)
    if child and row.reason in (CHILD, TOOL_CHILD):
        who = "it" if row.reason == CHILD else "its agent"
        return Reason("child", f"Waits for the execution {child} that {who} started.", waits_for=(child,))
    if row.pk in scene.queues:
        return _waiting_for_a_place(scene.queues[row.pk], since=row.started_at)
    if _waits_for_agent(row):
        return _waiting_for_an_agent(row, scene)
    if row.reason == "timer":
        return Reason("timer", "Waits for its moment.", until=row.available_at, since=row.started_at)
    if row.reason == "items":
        return _waiting_for_items(row, scene.items.get(row.block_id, {}))
    if row.reason == "event":
        return Reason(
            "event", "Waits for an event from outside.", until=row.available_at, since=row.started_at
        )
    if row.reason == "callback":
        return Reason(
            "waiting_callback",
            f"Its agent took on attempt {row.attempt} and will bring the result.",
            until=row.available_at,
            since=row.started_at,
        )
    return Reason("external", "Waits for an answer from outside.", since=row.started_at)


def _waiting_for_items(row: BlockRow, counts: Mapping[str, int]) -> Reason:
    total, settled = sum(counts.values()), sum(counts.get(status, 0) for status in SETTLED)
    said = f"Waits for its items: {settled} of {total} are settled"
    people = counts.get(BlockStatus.WAITING_HUMAN, 0)
    if people:
        said += f", {people} {'waits' if people == 1 else 'wait'} for a person"
    return Reason("items", f"{said}.", since=row.started_at)


def _waiting_for_a_place(queue: selectors.Queue, since: datetime | None = None) -> Reason:
    at_a_time = "one works" if queue.limit == 1 else f"{queue.limit} work"
    return Reason(
        "waiting_concurrency",
        f"Waits for a place of the key “{queue.key}”, of which {at_a_time} at a time; "
        f"{len(queue.holders)} hold one and {len(queue.before)} come before it.",
        since=since,
        waits_for=(*queue.holders, *queue.before),
        key=queue.key,
        limit=queue.limit,
    )


def _waiting_for_an_agent(row: BlockRow, scene: Scene) -> Reason:
    queues = scene.agents.get(row.pk, ())
    if not queues:
        known = scene.facts.get(row.block_id, NOTHING_KNOWN)
        wanted = ", ".join(known.capabilities)
        message = f"No agent that can do {wanted} is fit just now."
        if not wanted:
            message = f"The agent “{known.agent_id}” is not available just now."
        return Reason("waiting_agent", message, until=row.available_at)
    first = queues[0]
    bears = [f"{first.limit} at a time"] if first.limit is not None else []
    bears += [f"{first.rate} a minute"] if first.rate is not None else []
    others = f", or another of {len(queues) - 1}" if len(queues) > 1 else ""
    return Reason(
        "waiting_agent",
        f"Waits for the agent “{first.agent_id}”{others}, which takes {' and '.join(bears) or 'no more'}; "
        f"{first.held} {'is' if first.held == 1 else 'are'} at work and {first.before} come before it.",
        until=row.available_at,
        waits_for=tuple(queue.agent_id for queue in queues),
        key=first.agent_id,
        limit=first.limit or first.rate or 0,
    )


def _paused() -> Reason:
    return Reason("paused", "The execution is paused; it goes on when somebody resumes it.")


def _named(block_ids: Sequence[str]) -> str:
    shown = ", ".join(f"“{block_id}”" for block_id in block_ids[:3])
    more = len(block_ids) - 3
    return shown if more <= 0 else f"{shown} and {more} more"


# -- the execution itself ------------------------------------------------------

# What is said when blocks wait for different things: where somebody can act comes before what ends by itself.
_ORDER = (
    ("waiting_fix", "{n} waiting for a decision on how to go on."),
    ("waiting_approval", "{n} waiting for an approval."),
    ("waiting_input", "{n} waiting for a form to be filled in."),
    ("waiting_review", "{n} waiting for a review."),
    ("waiting_edit", "{n} waiting for an edit."),
    ("waiting_tool", "{n} waiting for a decision about a call that an agent wants to make."),
    ("waiting_budget", "{n} waiting for a decision about a budget that is used up."),
    ("worker_silent", "{n} to be taken from a silent worker."),
    ("running", "{n} at work."),
    ("queued", "{n} waiting for a worker."),
    ("waiting_concurrency", "{n} waiting for a place of a concurrency key."),
    ("waiting_agent", "{n} waiting for an agent."),
    ("child", "{n} waiting for a child execution."),
    ("items", "{n} working through its items."),
    ("event", "{n} waiting for an event from outside."),
    ("waiting_callback", "{n} waiting for an agent to bring its result."),
    ("external", "{n} waiting for an answer from outside."),
    ("timer", "{n} waiting for its moment."),
    ("circuit_open", "{n} waiting for the circuit of an agent to close."),
    ("budget_asked", "{n} waiting for the answer to a question about a budget."),
    ("budget_of_day", "{n} waiting for the budget of the next day."),
    ("backoff", "{n} to be tried again."),
)


def overall(execution: Execution, reasons: Sequence[Reason], queue: selectors.Queue | None = None) -> Reason:
    """Why the execution as a whole is where it is."""
    status = execution.status
    if status in TERMINAL:
        error = execution.error if isinstance(execution.error, dict) else {}
        said = str(error.get("message") or "")
        return Reason(status, f"It {_ENDED[ExecutionStatus(status)]}" + (f": {said}" if said else "."))
    if status == ExecutionStatus.PENDING and queue is not None:
        return _waiting_for_a_place(queue)
    if status == ExecutionStatus.PENDING:
        return Reason("queued", "It was accepted and waits for a worker.")
    if status == ExecutionStatus.PAUSED:
        return _paused()
    if status == ExecutionStatus.CANCELLING:
        running = sum(reason.code in {"running", "worker_silent"} for reason in reasons)
        if execution.compensation == Compensation.RUNNING:
            return _compensating(reasons)
        then = ", then what it did is undone" if execution.compensation == Compensation.DUE else ""
        return Reason("cancelling", f"It is being stopped; {_steps(running)} still at work{then}.")
    for code, words in _ORDER:
        alike = [reason for reason in reasons if reason.code == code]
        if alike:
            ends = [reason.until for reason in alike if reason.until]
            return Reason(code, words.format(n=_steps(len(alike))), until=min(ends, default=None))
    return Reason("advancing", "It is about to go on.")


def _compensating(reasons: Sequence[Reason]) -> Reason:
    people = sum(reason.code == "waiting_fix" for reason in reasons)
    said = f"It undoes what it did; {_steps(len(reasons))} still to be undone"
    if people:
        said += f", {_steps(people)} waiting for a decision on how to go on"
    return Reason("compensating", f"{said}.")


_ENDED = {
    ExecutionStatus.COMPLETED: "completed",
    ExecutionStatus.FAILED: "failed",
    ExecutionStatus.CANCELLED: "was cancelled",
}


def _steps(count: int) -> str:
    return f"{count} step is" if count == 1 else f"{count} steps are"
