"""What the pages of one execution draw and say.

`graph` is fetched once and `state` again and again, so both are compact: lists in one order instead
of objects, moments as milliseconds since 1970.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, F, Q

from agentflow.agents.journal import StepKind, StepStatus
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue
from templates_app.models import TemplateVersion

from . import explain, facts, selectors, snapshot, spending
from .facts import NOTHING_KNOWN, BlockFacts
from .models import AgentStep, BlockAttempt, BlockExecution, Compensation, Execution
from .narration import reason_words
from .states import BlockStatus, ExecutionStatus

S = BlockStatus
LABEL_CHARS = 40
# Reasons that a page says first: nothing is at work, and time or somebody outside ends them.
PASSING = frozenset(
    {"backoff", "child", "timer", "items", "waiting_callback", "waiting_concurrency", "worker_silent"}
)


@dataclass(frozen=True, slots=True)
class ListRow:
    """One line of the list."""

    execution: Execution
    progress: selectors.Progress | None
    waiting: int  # steps that wait for people

    @property
    def percent(self) -> int:
        return (
            100 * self.progress.settled // self.progress.total if self.progress and self.progress.total else 0
        )

    @property
    def status(self) -> str:
        """The state to show: a run that waits for people says so, though it is running."""
        running = self.execution.status == ExecutionStatus.RUNNING
        return S.WAITING_HUMAN if running and self.waiting else self.execution.status

    @property
    def duration_s(self) -> float | None:
        started, ended = self.execution.started_at, self.execution.completed_at
        return (ended - started).total_seconds() if started and ended else None


def waiting_for_people(executions: Sequence[Execution]) -> dict[UUID, int]:
    """How many steps of each execution wait for people, in one query."""
    rows = (
        BlockExecution.objects.filter(
            execution__in=[execution.pk for execution in executions], epoch=F("execution__epoch")
        )
        .values_list("execution")
        .annotate(waiting=Count("pk", filter=Q(status=S.WAITING_HUMAN)))
        .order_by()
    )
    return dict(rows)


# -- the graph -----------------------------------------------------------------


def graph(execution: Execution) -> JSONObject:
    """Steps and edges: `{"steps": [[id, name, tool, once], ...], "edges": [[from, to, branch, label], ...]}`.

    Edges name steps by position.  `branch` is the index of the branch of `from` that leads to `to`,
    or null where no branch decides about the edge.
    """
    definition = TemplateVersion.objects.values_list("definition", flat=True).get(
        pk=execution.template_version_id
    )
    blocks = definition.get("blocks") or []
    at = {block["blockId"]: index for index, block in enumerate(blocks)}
    edges: list[list[object]] = []
    chosen: set[tuple[int, int]] = set()
    for index, block in enumerate(blocks):
        branches = (block.get("conditions") or {}).get("branches") or ()
        for number, branch in enumerate(branches):
            label = str(branch.get("condition", ""))[:LABEL_CHARS]
            for target in branch.get("nextBlocks") or ():
                chosen.add((index, at[target]))
                edges.append([index, at[target], number, label])
    for index, block in enumerate(blocks):
        before = [at[name] for name in dict.fromkeys(block.get("dependencies") or ())]
        edges += [[one, index, None, ""] for one in before if (one, index) not in chosen]
    known = facts.of_version(execution.template_version_id)
    steps = [_step(block, known.get(block["blockId"], NOTHING_KNOWN)) for block in blocks]
    for block_id in selectors.compensations(execution) if undoing(execution) else ():
        one = known.get(block_id, NOTHING_KNOWN)
        edges.append([at[one.compensates], len(steps), None, "undo"])
        steps.append([block_id, one.name, one.tool_type or "", 0])
    return {"steps": steps, "edges": edges}


def undoing(execution: Execution) -> int:
    """The epoch whose compensations have rows, which are steps of the graph then; 0: there are none."""
    return execution.epoch if execution.compensation not in ("", Compensation.DUE) else 0


def _step(block: JSONObject, known: BlockFacts) -> list[object]:
    if known.human_kind == "input":
        tool = "Person"
    elif block.get("conditions"):
        tool = "Decision"
    else:
        tool = known.tool_type or ("Person" if known.human_kind else "")
    return [block["blockId"], known.name or block["blockId"], tool, int(block.get("effect") == "once")]


def state(execution: Execution) -> JSONObject:
    """`steps`, in the order of the plan: `[id, status, attempt, reason, started, ended, again, choice,
    edited]`.

    `tries` are ended attempts that failed and `waits` the questions put to people, by block id, each
    as `[from, to or null, words]`.
    """
    rows = selectors.block_rows(execution)
    by_pk = {row.pk: row.block_id for row in rows}
    tries: dict[str, list[list[object]]] = {}
    edited = selectors.edited_by(execution)
    carried = selectors.carried(execution)
    worked_on = {shown: origin for origin, shown in carried.items()}
    by_pk |= {origin: by_pk[shown] for origin, shown in carried.items() if shown in by_pk}
    again = [worked_on.get(row.pk, row.pk) for row in rows if row.attempt > 1 or row.status == S.FAILED]
    failed = (
        BlockAttempt.objects.filter(block__in=again)
        .exclude(outcome__in=("ok", "waited"))
        .order_by("block", "attempt")
    )
    for attempt in failed if again else ():
        words = str((attempt.failure or {}).get("message") or attempt.outcome)[:120]
        tries.setdefault(by_pk[attempt.block_id], []).append(
            [_ms(attempt.started_at), _ms(attempt.ended_at), words]
        )
    waits: dict[str, list[list[object]]] = {}
    for pk, asked in snapshot.interactions(execution).items():
        if pk in by_pk:
            # A withdrawn question has no answer; its bar ends with the step.
            waits[by_pk[pk]] = [
                [_ms(one["requestedAt"]), _ms(one["respondedAt"]), str(one["approver"] or ""), one["status"]]
                for one in asked
            ]
    return {
        "status": execution.status,
        "started": _ms(execution.started_at or execution.created_at),
        "ended": _ms(execution.completed_at),
        "undo": undoing(execution),
        "now": _ms(selectors.database_now()),
        "steps": [
            [
                row.block_id,
                row.status,
                row.attempt,
                reason_words(row.reason) if row.reason else "",
                _ms(row.started_at),
                _ms(row.completed_at),
                _ms(row.available_at) if row.status == S.READY else None,
                row.choice,
                int(row.block_id in edited),
            ]
            for row in rows
        ],
        "tries": tries,
        "waits": waits,
    }


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


# -- words ---------------------------------------------------------------------


class Why(NamedTuple):
    """The one sentence about a run, and the one thing to do about it."""

    status: str  # the state whose colour and icon it bears
    sentence: str
    until: datetime | None = None
    link: str = ""
    link_word: str = ""
    step: str = ""  # the step it is about, to be shown beside


def why(execution: Execution, user: User) -> Why | None:
    """Why the run is where it is; None where its state says enough."""
    if execution.status == ExecutionStatus.RUNNING:
        return _why_running(execution, user)
    if execution.status == ExecutionStatus.FAILED:
        return _why_failed(execution)
    if execution.status == ExecutionStatus.PENDING:
        queue = selectors.place_queues(execution).get(None)
        return Why(execution.status, explain.overall(execution, (), queue).message)
    if execution.compensation == Compensation.RUNNING:
        return _why_running(execution, user) or _why_compensating(execution)
    if execution.status in {ExecutionStatus.PAUSED, ExecutionStatus.CANCELLING}:
        return Why(execution.status, explain.overall(execution, ()).message)
    return None


def _why_compensating(execution: Execution) -> Why:
    rows = [row for row in selectors.block_rows(execution) if not row.settled]
    scene = explain.read_scene(execution, rows, selectors.database_now())
    reasons = [explain.reason_of(row, scene) for row in rows]
    return Why(execution.status, explain.overall(execution, reasons).message)


def _why_running(execution: Execution, user: User) -> Why | None:
    now = selectors.database_now()
    waiting = selectors.block_rows(execution, statuses=[S.WAITING_HUMAN], limit=100)
    if not waiting:
        backing_off = selectors.block_rows(
            execution, statuses=[S.READY, S.RUNNING, S.WAITING_EXTERNAL], limit=100
        )
        scene = explain.read_scene(execution, backing_off, now)
        reasons = [explain.reason_of(row, scene) for row in backing_off]
        if reasons and all(reason.code in PASSING for reason in reasons):
            row, reason = backing_off[0], reasons[0]
            link = (
                f"/executions/{reason.waits_for[0]}/" if reason.code == "child" and reason.waits_for else ""
            )
            message = "Waits for the execution it started." if link else reason.message
            return Why(
                S.WAITING_EXTERNAL,
                f"{_name(scene.facts, row.block_id)}: {message}",
                reason.until,
                link,
                "Open it" if link else "",
                row.block_id,
            )
        return None
    scene = explain.read_scene(execution, waiting, now)
    row = waiting[0]
    reason = explain.reason_of(row, scene)
    sentence = f"{_name(scene.facts, row.block_id)} {reason.message[:1].lower()}{reason.message[1:]}"
    if len(waiting) > 1:
        sentence += (
            f" {len(waiting) - 1} more {'step waits' if len(waiting) == 2 else 'steps wait'} for people."
        )
    asked = next((one for one in scene.questions.get(row.pk, ()) if one["respondedAt"] is None), None)
    may = access.can(user, Permission.DECIDE, execution.workspace_id)
    link = f"/inbox/{asked['approvalId']}/" if asked and may else ""
    return Why(
        S.WAITING_HUMAN, sentence, reason.until, link, "Open the question" if link else "", row.block_id
    )


def _why_failed(execution: Execution) -> Why:
    said = str((execution.error or {}).get("message") or "")
    failed = selectors.block_rows(execution, statuses=[S.FAILED], limit=1)
    if not failed:
        return Why(S.FAILED, said or "It failed.")
    row = failed[0]
    message = str((row.error or {}).get("message") or said) if isinstance(row.error, dict) else said
    name = _name(facts.of_version(execution.template_version_id), row.block_id)
    return Why(S.FAILED, f"{name} failed{': ' + message if message else '.'}", step=row.block_id)


def step_sentence(execution: Execution, block: BlockExecution) -> str:
    """Why a step is where it is, in one sentence."""
    row = snapshot.row_of(block)
    if not row.settled:
        scene = explain.read_scene(execution, selectors.block_rows(execution), selectors.database_now())
        return explain.reason_of(row, scene).message
    if block.status == S.COMPLETED:
        return "It completed." if block.attempt <= 1 else f"It completed at try {block.attempt}."
    if block.status == S.FAILED:
        message = str((block.error or {}).get("message") or "")
        return f"It failed: {message}" if message else "It failed."
    verb = "skipped" if block.status == S.SKIPPED else "cancelled"
    return f"It was {verb}: {reason_words(block.reason)}." if block.reason else f"It was {verb}."


def step_facts(execution: Execution, detail: JSONObject) -> list[tuple[str, str]]:
    """Label and value of what is worth knowing about a step."""
    known = facts.of_version(execution.template_version_id)
    after = [one.name for one in known.values() if detail["blockId"] in one.dependencies]
    effects = {
        "pure": "May run again freely",
        "keyed": "Runs again without doing it twice",
        "once": "Runs once",
    }
    choice = detail["choice"]
    called = detail["attempts"][-1]["agentId"] if detail["attempts"] else None
    found = [
        ("Waits for", _some([_name(known, name) for name in detail["dependencies"]])),
        ("Then", _some(after)),
        ("Undoes", _name(known, known.get(str(detail["blockId"]), NOTHING_KNOWN).compensates)),
        ("Agent", str(detail["agentId"] or called or "")),
        ("Kind", str(detail["toolType"] or "")),
        ("Effect", effects.get(str(detail["effect"]), "")),
        ("Used", spending.words(detail["usage"])),
        ("Chose branch", ", ".join(str(number + 1) for number in choice) if choice else ""),
        ("Reason code", str(detail["reason"] or "")),
        ("Step id", str(detail["blockId"])),
    ]
    return [(label, value) for label, value in found if value]


AGENT_STEPS = 200  # on the page; the API has all
ASKED_SHOWN = 600  # characters of what a model said or a tool was asked


def agent_step(step: AgentStep) -> JSONObject:
    """One step of an agent as the timeline of its block tells it."""
    result: JSONValue = step.result
    if step.kind == StepKind.MODEL:
        words = str((result or {}).get("text") or "")
        named = ", ".join(str(call["name"]) for call in (result or {}).get("calls") or ())
        says = " ".join(part for part in (words, f"Wants to use {named}." if named else "") if part)
    else:
        says = str(result or "")
    decision = step.decision or {}
    if decision:
        who = decision.get("by") or "A person"
        changed = "with changes" if "edited" in (decision.get("response") or {}) else ""
        verb = "approved" if decision.get("approved") else "refused"
        decided = f"{who} {verb} it {changed}".strip() + "."
    return {
        "number": ".".join(map(str, step.path)),  # type: ignore[attr-defined]  # annotated by the selector
        "name": step.name,
        "kind": step.kind,
        "status": step.status,
        "state": _STEP_STATES[StepStatus(step.status)],
        "asked": json.dumps(step.request.get("arguments"), ensure_ascii=False)[:ASKED_SHOWN]
        if step.kind == StepKind.TOOL
        else "",
        "says": says[:ASKED_SHOWN],
        "error": (step.failure or {}).get("message") or "",
        "decided": decided if decision else "",
        "used": spending.words(step.usage),
        "began": step.began_at,
        "ended": step.ended_at,
    }


_STEP_STATES = {
    StepStatus.BEGUN: S.RUNNING,
    StepStatus.ASKED: S.WAITING_HUMAN,
    StepStatus.DONE: S.COMPLETED,
    StepStatus.FAILED: S.FAILED,
    StepStatus.UNKNOWN: S.WAITING_HUMAN,
}


def _name(known: Mapping[str, BlockFacts], block_id: str) -> str:
    return known.get(block_id, NOTHING_KNOWN).name or block_id


def _some(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
