"""What a definition says about recovery, checked: rungs that are never reached or can never be taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .definition import Block, Recovery

Path = tuple[str | int, ...]
Found = tuple[Literal["error", "warning"], str, Path, str, str]  # severity, code, path, message, remedy
LAST = frozenset({"ask", "compensate", "fail"})


def issues(recovery: Recovery, path: Path) -> Iterator[Found]:
    """Of a ladder by itself, wherever it is written."""
    for name, ladder in ladders(recovery):
        for place, rung in enumerate(ladder):
            at = (*path, name, place)
            if rung in ladder[:place]:
                yield _error("duplicate_strategy", at, f"{rung} stands here twice.", "Name each once.")
            elif place and ladder[place - 1] in LAST:
                message = f"After {ladder[place - 1]} nothing is tried any more."
                yield _error("unreachable_strategy", at, message, "Put it before, or remove it.")
    if len(set(recovery.alternatives)) < len(recovery.alternatives):
        at = (*path, "alternatives")
        yield _error("duplicate_agent", at, "An agent is named twice.", "Name each once.")


def of_template(recovery: Recovery, path: Path) -> Iterator[Found]:
    yield from issues(recovery, path)
    if recovery.alternatives:
        yield _error(
            "contradicting_fields",
            (*path, "alternatives"),
            "The agents that may take over belong to the block that names one.",
            "Move alternatives to the blocks.",
        )


def of_block(block: Block, recovery: Recovery, path: Path, *, called: bool, undoes: bool) -> Iterator[Found]:
    """`called`: the block calls somebody; `undoes`: the template has a compensation."""
    yield from issues(recovery, path)
    if not called:
        yield _error(
            "contradicting_fields", path, "Nobody is called here, so nothing fails.", "Remove recovery."
        )
        return
    if recovery.alternatives and block.agent_id is None:
        yield _error(
            "contradicting_fields",
            (*path, "alternatives"),
            "Alternatives are for a block that names its agent; here it is chosen.",
            "Remove alternatives, or name an agentId.",
        )
    if block.agent_id in recovery.alternatives:
        at = (*path, "alternatives", recovery.alternatives.index(str(block.agent_id)))
        yield _error("duplicate_agent", at, "It is the block's own agent.", "Name another.")
    chosen = block.agent_id is None and bool(block.capabilities)
    stated = block.on_unknown_outcome if "on_unknown_outcome" in block.model_fields_set else None
    if stated and recovery.unknown_outcome and stated not in recovery.unknown_outcome:
        yield _error(
            "contradicting_fields",
            (*path, "unknownOutcome"),
            f"onUnknownOutcome says {stated}.",
            "Say it at one place only.",
        )
    for name, ladder in ladders(recovery):
        for place, rung in enumerate(ladder):
            at = (*path, name, place)
            if rung == "reassign" and not chosen and not recovery.alternatives:
                message = "There is nobody to give it to: the block names its agent, and no alternatives."
                yield _error("no_alternatives", at, message, "Name alternatives, or use capabilities.")
            if rung == "compensate" and not undoes:
                message = "No block of the template has a compensation: the run just ends as failed."
                yield "warning", "nothing_to_compensate", at, message, "Add a compensation, or use fail."
            if rung == "retry" and block.retry_policy is not None and block.retry_policy.max_retries == 0:
                message = "retryPolicy.maxRetries is 0, so this is never tried."
                yield "warning", "never_retried", at, message, "Raise maxRetries, or remove it."


def ladders(recovery: Recovery) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each ladder that is written, with its name on the wire."""
    names = ("transient", "agent", "configuration", "critical", "unknownOutcome")
    found = (
        recovery.transient,
        recovery.agent,
        recovery.configuration,
        recovery.critical,
        recovery.unknown_outcome,
    )
    yield from ((name, ladder) for name, ladder in zip(names, found, strict=True) if ladder is not None)


def _error(code: str, path: Path, message: str, remedy: str) -> Found:
    return "error", code, path, message, remedy
