"""What a block asks of people, checked: levels, quorums, assignments and times that cannot come true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .definition import ForEach, HumanInLoop, Sampling

Path = tuple[str | int, ...]
Found = tuple[Literal["error", "warning"], str, Path, str, str]  # severity, code, path, message, remedy
ALONE = frozenset({"input", "edit"})  # what one person fills in


def issues(human: HumanInLoop, own: HumanInLoop, path: Path) -> Iterator[Found]:
    """`human` is what is asked, the template's defaults laid under; `own` what is written at `path`."""
    if own.levels and own.model_fields_set & {"approval_level", "quorum", "assignees"}:
        yield _error(
            "contradicting_fields",
            (*path, "levels"),
            "With levels, each says itself who is asked.",
            "Move approvalLevel, quorum and assignees into the levels.",
        )
    if human.type in ALONE and any(level.quorum not in ("any", 1) for level in human.ladder):
        yield _error(
            "contradicting_fields",
            (*path, "levels" if own.levels else "quorum"),
            f"A person's {human.type} is filled in by one person.",
            "Remove the quorum.",
        )
    if human.type == "input" and human.on_timeout == "approve":
        yield _error(
            "contradicting_fields",
            (*path, "onTimeout"),
            "An input that nobody filled in has nothing to approve.",
            "Use fail, reject or wait.",
        )
    if human.sample is not None and human.type in ALONE:
        yield _error(
            "contradicting_fields",
            (*path, "sample"),
            f"An {human.type} is filled in for each item; no item answers for others.",
            "Remove the sample, or ask for an approval or a review.",
        )
    yield from _times(human, own, path)


def sample_issues(sample: Sampling, each: ForEach | None, path: Path) -> Iterator[Found]:
    """Of a block that has a sample; `each` is its `forEach`."""
    if each is None and sample.of is None:
        yield _error(
            "sample_without_items",
            (*path, "sample"),
            "A sample is drawn from the items of a forEach, and the block has none.",
            "Give the block a forEach, or say by sample.of of how many questions of successive executions.",
        )
    elif each is not None and sample.of is not None:
        yield _error(
            "contradicting_fields",
            (*path, "sample", "of"),
            "The sample of a forEach is drawn from its items, however many there are.",
            "Remove sample.of.",
        )
    elif each is not None and each.max_concurrency is not None:
        yield _error(
            "sample_of_waiting_items",
            (*path, "sample"),
            "With forEach.maxConcurrency items wait until others were answered, perhaps those drawn.",
            "Remove maxConcurrency; how many calls an agent takes at once its own limits say.",
        )
    if sample.of is not None and sample.inspect >= sample.of:
        yield _error(
            "sample_of_all",
            (*path, "sample", "inspect"),
            "Where all are inspected, nothing is left to be released.",
            "Inspect fewer than sample.of, or remove the sample.",
        )


def _times(human: HumanInLoop, own: HumanInLoop, path: Path) -> Iterator[Found]:
    for index, level in enumerate(human.ladder):
        late = [ms for ms in level.reminders or () if level.timeout is not None and ms >= level.timeout]
        if late:
            at = (*path, "levels", index, "reminders") if own.levels else (*path, "reminders")
            yield (
                "warning",
                "never_sent",
                at,
                f"A reminder {late[0]} ms before the end would come before the question.",
                "Use less than the timeout.",
            )


def expressions(own: HumanInLoop, path: Path) -> Iterator[tuple[str, Path]]:
    """The expressions that say who is asked, with their places."""
    if own.assignees is not None and own.assignees.expression is not None:
        yield own.assignees.expression, (*path, "assignees", "expression")
    for index, level in enumerate(own.levels):
        if level.assignees is not None and level.assignees.expression is not None:
            yield level.assignees.expression, (*path, "levels", index, "assignees", "expression")


def _error(code: str, path: Path, message: str, remedy: str) -> Found:
    return ("error", code, path, message, remedy)
