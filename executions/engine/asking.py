"""The questions that the engine puts to people."""

from __future__ import annotations

from agentflow.conf import LIMITS
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.large import noted
from agentflow.workflow.plan import PlanBlock
from executions.ports import HumanAsk

from .facts import Facts, as_text
from .judging import FIX_SCHEMA, Change


def question(facts: Facts, planned: PlanBlock, pk: int, shown: JSONValue) -> HumanAsk:
    """What the template asks before (`approval`) or instead of (`input`) a block's work."""
    human = planned.human
    assert human is not None
    name = planned.block.name or planned.block_id
    title = human.title or (f"Fill in: {name}" if human.type == "input" else f"Approve: {name}?")
    return _ask(
        facts,
        planned,
        pk,
        kind=human.type,
        level=human.approval_level,
        attempt=1,
        timeout_ms=human.timeout,
        input_schema=human.input_schema or {},
        request={
            "title": title,
            "description": human.description or planned.block.description or "",
            "facts": _bounded(shown if isinstance(shown, dict) else {"value": shown}),
            "onReject": human.on_reject,
        },
    )


def fix(facts: Facts, planned: PlanBlock, change: Change) -> HumanAsk:
    """Recovery's question: the block cannot go on by itself."""
    error = change.error or {}
    name = planned.block.name or planned.block_id
    evidence = error.get("evidence") or {}
    options = [
        {"action": "retry", "label": "Run again"},
        {"action": "complete", "label": "Done, with this output"},
        {"action": "skip", "label": "Skip this step"},
        {"action": "fail", "label": "Let it fail"},
    ]
    return _ask(
        facts,
        planned,
        change.pk,
        kind="fix",
        level=planned.human.approval_level if planned.human else "user",
        attempt=change.attempt or 0,
        timeout_ms=LIMITS.approval_timeout_ms,
        input_schema=FIX_SCHEMA,
        request={
            "title": f"{name} needs a decision: {error.get('message', 'it failed')}",
            "description": _situation(facts, change),
            "facts": _bounded({"attempt": change.attempt or 0, **evidence}),
            "error": {key: value for key, value in error.items() if key != "evidence"},
            "options": options,
        },
    )


def _bounded(facts: JSONObject) -> JSONObject:
    """What is shown stays small: a value that is too large is named instead."""
    left = LIMITS.question_bytes
    shown: JSONObject = {}
    for name, value in noted(facts).items():
        size = len(as_text(value) or "") + len(name)
        if size > left:
            value = f"Too large to show here ({size} characters): see the step that gave it."
            size = len(name)
        shown[name] = value
        left -= size
        if left <= 0:
            break
    return shown


def _situation(facts: Facts, change: Change) -> str:
    if change.reason == "unknown_outcome":
        said = (
            "The call was sent and no answer came, so what it does may have happened. "
            "It is not repeated without your decision."
        )
        if change.idx in facts.plan.compensated_by:
            said += " It is compensated only if you say that it is done: what failed or is skipped is not."
        return said
    if change.reason == "poison":
        return "Every worker that took this step vanished. It is not given to another without your decision."
    if facts.plan[change.idx].compensates is not None:
        return "The execution undoes what it did, and this step could not be undone."
    return "The step cannot go on by itself."


def _ask(
    facts: Facts,
    planned: PlanBlock,
    pk: int,
    *,
    kind: str,
    level: str,
    attempt: int,
    timeout_ms: int,
    input_schema: JSONObject,
    request: JSONObject,
) -> HumanAsk:
    return HumanAsk(
        workspace_id=facts.workspace_id,
        execution_id=facts.execution_id,
        block_pk=pk,
        block_id=planned.block_id,
        attempt=attempt,
        version_hash=facts.version.content_hash,
        kind=kind,
        level=level,
        request=request,
        input_schema=input_schema,
        timeout_ms=timeout_ms,
        block_name=planned.block.name or planned.block_id,
    )
