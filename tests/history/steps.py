"""I4 and I5 for agents that work in steps: each once, in order, and a tool only as a person allowed."""

from __future__ import annotations

from collections.abc import Iterator

from agentflow.agents.journal import StepKind, StepStatus
from executions.models import AgentStep, BlockExecution
from executions.states import BlockStatus as B

from .reading import Story
from .violations import Ledger, Violation

_OPEN = (StepStatus.BEGUN, StepStatus.ASKED, StepStatus.UNKNOWN)


def check(story: Story) -> list[Violation]:
    return [Violation("I4", story.execution.pk, what) for what in _in_order(story)]


def _in_order(story: Story) -> Iterator[str]:
    """Steps are 1 to n, and nothing comes after one that is open."""
    rows = {row.pk: row for row in story.own()}
    for operation, steps in story.steps.items():
        numbers = [step.number for step in steps]
        if numbers != list(range(1, len(steps) + 1)):
            yield f"{operation} has the steps {numbers}"
        for step in steps[:-1]:
            if step.status in _OPEN:
                yield f"{key(step)} is {step.status}, and others came after it"
        last = steps[-1]
        row = rows.get(last.block_id)
        if row is None:
            continue
        if last.attempt > row.attempt:
            yield f"{key(last)} was done by attempt {last.attempt} of {row.attempt}"
        answered = last.kind == StepKind.MODEL and last.status == StepStatus.DONE
        ended = row.status == B.COMPLETED and row.reason != "by_hand" and last.attempt == row.attempt
        if ended and not answered and operation == _operation(row):  # what failed below it was told
            yield f"{row.block_id} is completed, and its last step, {last.kind}, is {last.status}"


def key(step: AgentStep) -> str:
    """What the agent that a step calls is given."""
    return f"{step.operation}:step:{step.number}"


def keys(story: Story) -> set[str]:
    return {key(step) for steps in story.steps.values() for step in steps}


def check_ledger(story: Story, ledger: Ledger) -> list[Violation]:
    found = [
        what
        for steps in story.steps.values()
        for step in steps
        if step.kind == StepKind.TOOL
        for what in _against(story, step, ledger)
    ]
    return [Violation("I5", story.execution.pk, what) for what in found]


def _against(story: Story, step: AgentStep, ledger: Ledger) -> Iterator[str]:
    calls, effects = ledger.calls.get(key(step), 0), ledger.effects.get(key(step), 0)
    once = step.request.get("effect") == "once"
    allowed, asks = _allowed(story, step), _asks(story, step)
    if calls and asks and not allowed:
        yield f"{key(step)} was called, and nobody allowed it"
    most = max(allowed, 1) if asks else 1 + allowed
    if once and calls > most:
        yield f"{key(step)} is done once and was called {calls} times, {allowed} times allowed"
    if effects > (most if once else 1):
        yield f"{key(step)} had its effect {effects} times"
    if calls and step.status == StepStatus.DONE and step.failure is None and not effects:
        yield f"{key(step)} gave a result and had no effect"


def _allowed(story: Story, step: AgentStep) -> int:
    """How often a person said that the call is to be made; below an agent that is a tool, at most."""
    rows = {row.pk: row for row in story.rows.values()}
    found = 0
    for asked in story.approvals:
        made = asked.status == "approved" and (asked.response or {}).get("action") != "done"
        if asked.kind != "tool" or not made:
            continue
        facts, above = asked.request.get("facts", {}), _operation(rows[asked.block_execution_id])
        own = step.operation == above and facts.get("step") == step.number
        below = step.operation.startswith(f"{above}:") and facts.get("tool") == step.request.get("agentId")
        found += own or below
    return found


def _asks(story: Story, step: AgentStep) -> bool:
    """Whether the template says that a person is asked before each such call."""
    row = next((row for row in story.rows.values() if row.pk == step.block_id), None)
    if row is None or _operation(row) != step.operation:
        return False
    tools = story.plan[row.idx].block.configuration.get("tools", [])
    return any(
        isinstance(tool, dict)
        and tool.get("agentId") == step.request.get("agentId")
        and tool.get("policy") == "ask"
        for tool in tools
    )


def _operation(row: BlockExecution) -> str:
    return f"{row.execution_id}:{row.block_id}:{row.iteration}:{row.effect_seq}"
