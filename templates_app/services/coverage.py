"""Whether enough people are there to pass the gates of a definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from agentflow.workflow.definition import Definition, HumanLevel, pointer
from agentflow.workflow.validation import Issue

from ..ports import approval_levels
from .references import ANYONE


def issues(definition: Definition, workspace_id: UUID) -> list[Issue]:
    """Warnings, for people come and go: a gate that nobody could pass today, with distinct people.

    Looked at are gates that need more than any one approver.
    """
    gates = list(_gates(definition))
    if not gates:
        return []
    known = approval_levels().known_levels(workspace_id) | {ANYONE}  # others are an issue of their own
    gates = [(at, ladder) for at, ladder in gates if all(level.level in known for level in ladder)]
    named = {level.level for _, ladder in gates for level in ladder}
    people = approval_levels().people(workspace_id, named)
    found = (_issue(at, ladder, people) for at, ladder in gates)
    return [issue for issue in found if issue is not None]


def _gates(definition: Definition) -> Iterator[tuple[str, tuple[HumanLevel, ...]]]:
    for index, block in enumerate(definition.blocks):
        human = definition.human_of(block)
        if human is None or any(level.assignees is not None for level in human.ladder):
            continue
        if len(human.ladder) > 1 or human.ladder[0].quorum != "any" or human.ladder[0].level != ANYONE:
            yield pointer("blocks", index, "humanInLoop"), human.ladder


def _issue(at: str, ladder: tuple[HumanLevel, ...], people: Mapping[str, frozenset[int]]) -> Issue | None:
    needed = 0
    together: frozenset[int] = frozenset()
    for level in ladder:
        there, least = people[level.level], _least(level)
        if len(there) < least:
            return _warning(at, f"The level {level.level} needs {least}, and {len(there)} are there.")
        needed += least
        together |= there
    if len(together) < needed:
        return _warning(at, f"Its levels need {needed} different people, and {len(together)} are there.")
    return None


def _least(level: HumanLevel) -> int:
    return level.quorum if isinstance(level.quorum, int) else 1


def _warning(at: str, message: str) -> Issue:
    remedy = "Add people to the level's group, with a role that decides, or ask for fewer."
    return Issue("warning", "not_enough_approvers", at, message, remedy)
