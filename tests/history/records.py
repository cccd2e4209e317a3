"""I10 to I12: bounds, the pinned version, and one audit entry for every command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from agentflow.workflow.definition import content_hash
from agentflow.workflow.parsing import parse
from executions.incidents.notes import NO_FAULT
from executions.models import AttemptOutcome
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E

from .effects import check_budget
from .reading import Story
from .violations import Violation


def check(story: Story) -> list[Violation]:
    pk = story.execution.pk
    return [
        *check_budget(story),
        *(Violation("I11", pk, what) for what in _pinned(story)),
        *(Violation("I12", pk, what) for what in (*_recorded(story), *_counted(story), *_isolated(story))),
    ]


def _pinned(story: Story) -> Iterator[str]:
    version = story.execution.template_version
    if content_hash(parse(version.definition)) != version.content_hash:
        yield "the definition of its version has another hash"
    for entry in story.audit:
        if entry.action == "execution.start" and (
            entry.detail.get("version") != version.number
            or entry.detail.get("templateId") != str(version.template_id)
        ):
            yield f"it was started with version {entry.detail.get('version')}, its row names {version.number}"
    names = [planned.block_id for planned in (*story.plan.blocks, *story.plan.compensations)]
    for row in story.rows.values():
        if row.idx >= len(names) or row.block_id != names[row.idx]:
            yield f"the row at {row.idx} in epoch {row.epoch} is {row.block_id!r}, not the version's"
            return


def _recorded(story: Story) -> Iterator[str]:
    execution = story.execution
    entries = Counter(entry.action for entry in story.audit)
    changes: Counter[str] = Counter()
    before = ""
    for event in story.events:
        if event.type == "execution_changed":
            payload = event.payload or {}
            after = payload["status"]
            changes[after] += 1
            changes["resumed"] += before == E.PAUSED and after in (E.RUNNING, E.PENDING)
            changes["restarted"] += "epoch" in payload and payload.get("reason") != "rework"
            changes["sent_back"] += payload.get("reason") == "rework"
            before = after
    expected = {
        "execution.start": int(execution.parent_block_id is None and execution.forked_from_id is None),
        "execution.fork": int(execution.forked_from_id is not None),
        "execution.pause": changes[E.PAUSED],
        "execution.resume": changes["resumed"],
        "execution.restart": changes["restarted"],
    }
    for action, count in expected.items():
        if entries[action] != count:
            yield f"{count} times {action}, and {entries[action]} audit entries"
    sent_back = sum(entry.detail.get("decision") == "rework" for entry in story.decisions)
    if sent_back != changes["sent_back"]:
        yield f"{changes['sent_back']} times sent back, and {sent_back} audit entries"
    by_command = (execution.error or {}).get("code") == "cancelled"
    if entries["execution.cancel"] < by_command or entries["execution.cancel"] > changes[E.CANCELLING]:
        yield f"it was stopped {changes[E.CANCELLING]} times, {entries['execution.cancel']} audit entries"
    answered = Counter(entry.target_id for entry in story.decisions if entry.action == "approval.respond")
    for asked in story.approvals:
        decided = asked.status in ("approved", "rejected") and asked.carried_from is None
        if answered[str(asked.pk)] != decided:
            yield f"the answer to {asked.block_id} has {answered[str(asked.pk)]} audit entries"
    by_hand = Counter(row.block_id for row in story.own() if row.reason == "by_hand")
    told = Counter(
        entry.detail.get("blockId")
        for entry in story.audit
        if entry.action in ("execution.skip_block", "execution.complete_block")
    )
    told.update(asked.block_id for asked in story.approvals if asked.kind == "fix")
    for block_id, count in by_hand.items():
        items = any(row.block_id == block_id and row.iteration for row in story.own())
        if not items and told[block_id] < count:
            yield f"{block_id} was settled by hand, and nobody is named"


def _counted(story: Story) -> Iterator[str]:
    """Each failed attempt is counted by an incident once; so are blocks that failed before any call."""
    asked = Counter(each.block_execution_id for each in story.approvals if each.kind == "fix")
    for row in story.own():
        failed = sum(
            attempt.outcome in (AttemptOutcome.ERROR, AttemptOutcome.RESCUED)
            and (attempt.failure or {}).get("code", "") not in NO_FAULT
            for attempt in story.attempts.get(row.pk, [])
        )
        most = failed + asked[row.pk] + (row.status == B.FAILED)
        counted = story.counted.get(row.pk, 0)
        if not failed <= counted <= most:
            yield f"{row.block_id} failed {failed} times, and incidents count {counted}"


def _isolated(story: Story) -> Iterator[str]:
    workspace = story.execution.workspace_id
    if story.execution.template_version.template.workspace_id != workspace:
        yield "its template belongs to another workspace"
    for kind, owners in (
        ("events", {event.workspace_id for event in story.events}),
        ("questions", {asked.workspace_id for asked in story.approvals}),
        ("audit entries", {entry.workspace_id for entry in (*story.audit, *story.decisions)}),
        ("children", {child.workspace_id for child in story.children.values()}),
    ):
        if owners - {workspace}:
            yield f"some of its {kind} belong to another workspace"
