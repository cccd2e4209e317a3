"""The questions that the engine puts to people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

from agentflow.agents.calls import AskTool
from agentflow.conf import LIMITS
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import Assignees, HumanInLoop, HumanLevel
from agentflow.workflow.expressions import Expression, ExpressionError
from agentflow.workflow.large import LargeUnavailable, holds_large, noted, too_large
from agentflow.workflow.plan import PlanBlock
from executions.blobs import TooLarge
from executions.ports import HumanAsk, LevelAsk
from executions.recovery.patching import step_of

from .facts import Facts, as_text
from .judging import FIX_SCHEMA, Change

_TITLES = {"input": "Fill in: {}", "approval": "Approve: {}?", "edit": "Correct what {} is given"}
MOST_NAMES = 100  # that an expression may give
FINGERPRINT_CHARS = 32  # nobody makes two values with the same


def question(
    facts: Facts,
    planned: PlanBlock,
    pk: int,
    shown: JSONValue,
    levels: tuple[LevelAsk, ...],
    state: JSONObject,
    calls: str,
) -> HumanAsk:
    """What the template asks before (`approval`, `edit`) or instead of (`input`) a block's work.

    `state` is what the blocks before it gave, by blockId: what an `edit` may change; `calls` the agent that
    works when it is approved.
    """
    human = planned.human
    assert human is not None
    name = planned.block.name or planned.block_id
    title = human.title or _TITLES[human.type].format(name)
    ask = _ask(
        facts,
        planned,
        pk,
        kind=human.type,
        level=levels[0].level,
        attempt=1,
        timeout_ms=levels[0].timeout_ms,
        input_schema=human.input_schema or {},
        request={
            "title": title,
            "description": human.description or planned.block.description or "",
            "facts": _bounded(shown if isinstance(shown, dict) else {"value": shown}),
            "onReject": human.on_reject,
            **({"calls": calls} if calls else {}),
            **({"editable": state} if human.type == "edit" else {}),
        },
    )
    return by_rules(ask, human, levels)


def review(facts: Facts, planned: PlanBlock, change: Change, levels: tuple[LevelAsk, ...]) -> HumanAsk:
    """Whether a block's output flows on, as it is or changed; too large to show is too large to change."""
    human = planned.human
    assert human is not None
    name = planned.block.name or planned.block_id
    request: JSONObject = {
        "title": human.title or f"Review: {name}",
        "description": human.description or planned.block.description or "",
        "facts": _bounded(change.output if isinstance(change.output, dict) else {"output": change.output}),
        "onReject": human.on_reject,
    }
    text = None if holds_large(change.output) else as_text(change.output)
    if text is not None and len(text) <= LIMITS.question_bytes:
        request["editable"] = change.output
    ask = _ask(
        facts,
        planned,
        change.pk,
        kind="review",
        level=levels[0].level,
        attempt=change.attempt or 0,
        timeout_ms=levels[0].timeout_ms,
        input_schema=human.input_schema or {},
        request=request,
    )
    return by_rules(ask, human, levels)


def by_rules(ask: HumanAsk, human: HumanInLoop, levels: tuple[LevelAsk, ...]) -> HumanAsk:
    """The question put to the template's levels, by its rules for time."""
    return replace(
        ask,
        levels=levels,
        on_timeout=human.on_timeout,
        escalate=human.escalate,
        business_hours=human.business_hours,
        sample=human.sample.inspect if human.sample is not None else 0,
        sample_of=(human.sample.of or 0) if human.sample is not None else 0,
    )


def levels(planned: PlanBlock, evaluate: Callable[[Expression], JSONValue]) -> tuple[LevelAsk, ...]:
    """Whom the template asks, level by level; `evaluate` tells whom its expressions name."""
    assert planned.human is not None
    return tuple(
        _level(level, expression, evaluate)
        for level, expression in zip(planned.human.ladder, planned.assignees, strict=True)
    )


def _level(
    level: HumanLevel, expression: Expression | None, evaluate: Callable[[Expression], JSONValue]
) -> LevelAsk:
    names, note = _named(expression, evaluate) if expression is not None else ((), "")
    named = level.assignees or Assignees()
    assert level.timeout is not None
    return LevelAsk(
        level=level.level,
        timeout_ms=level.timeout,
        quorum=str(level.quorum),
        users=named.users,
        groups=named.groups,
        roles=named.roles,
        names=names,
        note=note,
        reminders_ms=level.reminders or (),
    )


def _named(
    expression: Expression, evaluate: Callable[[Expression], JSONValue]
) -> tuple[tuple[str, ...], str]:
    """The names that an expression gives, or why it gives none."""
    try:
        value = evaluate(expression)
    except (ExpressionError, LargeUnavailable, TooLarge) as error:
        return (), f"assignees.expression: {error!s:.200}"
    found = value if isinstance(value, list) else [value]
    names = tuple(name for name in found if isinstance(name, str) and name)[:MOST_NAMES]
    return names, "" if names else f"assignees.expression names nobody: {as_text(value)!s:.100}"


def about(facts: Facts, planned: PlanBlock, change: Change) -> HumanAsk:
    """The question that a change asks for."""
    if change.tool is not None:
        return tool(facts, planned, change, change.tool)
    return budget(facts, planned, change) if change.budget is not None else fix(facts, planned, change)


def budget(facts: Facts, planned: PlanBlock, change: Change) -> HumanAsk:
    """Whether to go on though a budget is used up; shown is what was spent on what."""
    spent = change.budget
    held = spent.held
    name = planned.block.name or planned.block_id
    options: list[JSONValue] = [{"action": "extend", "label": "Extend the budget"}]
    if spent.agents:
        options.append({"action": "cheaper", "label": "Go on with a cheaper agent"})
    spent_on = {row["name"]: row["words"] for row in spent.rows}
    return _ask_about(
        facts,
        planned,
        change,
        kind="budget",
        input_schema=_budget_schema(list(spent.allowed), [each["agentId"] for each in spent.agents]),
        request={
            "title": f"{name} waits: {spent.words}",
            "description": "Extend it by what you name, or by as much once more; or stop.",
            "facts": _bounded({"allowed": spent.allowed, "spent": spent.used, "spentOn": spent_on}),
            "options": [*options, {"action": "stop", "label": "Stop here"}],
            "budget": {
                "scope": str(held.scope),
                "agentId": held.agent_id or None,
                "currency": held.budget.currency,
                "usual": {part: getattr(held.budget, part) for part in spent.allowed},
                "rows": list(spent.rows),
                "agents": list(spent.agents),
            },
        },
    )


def _budget_schema(parts: list[str], agents: list[str]) -> JSONObject:
    amounts: JSONObject = {
        "tokens": {"type": "integer", "minimum": 0},
        "cost": {"type": "number", "minimum": 0},
        "time": {"type": "integer", "minimum": 0, "description": "Milliseconds"},
    }
    actions = ["extend", *(["cheaper"] if agents else []), "stop"]
    schema: JSONObject = {
        "type": "object",
        "properties": {
            "action": {"enum": actions, "default": "extend"},
            **{part: amounts[part] for part in parts},
        },
    }
    if agents:
        schema["properties"]["agentId"] = {"enum": agents}
        cheaper = {"properties": {"action": {"const": "cheaper"}}, "required": ["action"]}
        schema |= {"if": cheaper, "then": {"required": ["agentId"]}}
    return schema


def tool(facts: Facts, planned: PlanBlock, change: Change, asked: AskTool) -> HumanAsk:
    """An agent's: may it make this call, with these arguments or with those that a person makes of them?"""
    name = planned.block.name or planned.block_id
    title = f"{name} wants to use {asked.agent_id}"
    description = asked.description
    if asked.unknown is not None:
        title = f"{name} used {asked.agent_id}, and what came of it is not known"
        description = (
            "The call was sent and no answer came, so what it does may have happened. Approve to make it"
            ' again, or answer {"action": "done", "result": ...}; refuse to let the agent go on without it.'
        )
    return _ask_about(
        facts,
        planned,
        change,
        kind="tool",
        input_schema=asked.schema,
        request={
            "title": title,
            "description": description,
            "facts": {
                "tool": asked.agent_id,
                "step": asked.step,
                **({"calledBy": " for ".join(reversed(asked.within))} if asked.within else {}),
            },
            "editable": asked.arguments,
            "requestHash": asked.request_hash,
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
        {"action": "abort", "label": "Undo what was done and end as failed"},
    ]
    return _ask_about(
        facts,
        planned,
        change,
        kind="fix",
        input_schema=FIX_SCHEMA,
        request={
            "title": f"{name} needs a decision: {error.get('message', 'it failed')}",
            "description": _situation(facts, change),
            "facts": _bounded({"attempt": change.attempt or 0, **evidence}),
            "error": {key: value for key, value in error.items() if key != "evidence"},
            "options": options,
            **_step(planned),
        },
    )


def _step(planned: PlanBlock) -> JSONObject:
    """How the block is called, which the answer may change; what is too large to show is not shown."""
    step = step_of(planned.block) if planned.compensates is None else None
    shown = step is not None and len(as_text(step) or "") <= LIMITS.question_bytes
    return {"step": step} if shown else {}


def _ask_about(
    facts: Facts,
    planned: PlanBlock,
    change: Change,
    *,
    kind: str,
    input_schema: JSONObject,
    request: JSONObject,
) -> HumanAsk:
    """A question that the template did not foresee, for those who decide about its block."""
    return _ask(
        facts,
        planned,
        change.pk,
        kind=kind,
        level=planned.human.ladder[0].level if planned.human else "user",
        attempt=change.attempt or 0,
        timeout_ms=LIMITS.approval_timeout_ms,
        input_schema=input_schema,
        request=request,
    )


def _bounded(facts: JSONObject) -> JSONObject:
    """What is shown stays small: words and a fingerprint stand for what is too large.

    So a question's content hash, which a decision is bound to, is over what is not shown, too.
    """
    left = LIMITS.question_bytes
    shown: JSONObject = {}
    whole: JSONObject = noted(facts)
    for name, value in whole.items():
        size = len(as_text(value) or "") + len(name)
        if size > left:
            value = too_large(f"{size} characters, fingerprint {_fingerprint(value)}")
            size = len(name)
        shown[name] = value
        left -= size
        if left <= 0:
            break
    more = len(whole) - len(shown)
    if more:
        shown[f"and {more} more"] = f"Not shown here (fingerprint of all {_fingerprint(whole)})."
    return shown


def _fingerprint(value: JSONValue) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]


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
