"""Whether enough people are there to pass the gates of a definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from agentflow.workflow.definition import Definition, HumanLevel, pointer
from agentflow.workflow.validation import Issue

from ..ports import approval_levels
from .references import ANYONE


def issues(definition: Definition, workspace_id: UUID) -> list[Issue]:
    """Warnings, for people come and go: names that lead to nobody, and gates that nobody could pass today,
    with distinct people.

    Looked at are gates that need more than any one approver; whom an expression names is not known yet.
    """
    gates = list(_gates(definition))
    if not gates:
        return []
    known = approval_levels().known_levels(workspace_id) | {ANYONE}  # others are an issue of their own
    gates = [(at, ladder) for at, ladder in gates if all(level.level in known for level in ladder)]
    named = {level.level for _, ladder in gates for level in ladder}
    people = approval_levels().people(workspace_id, named)
    issues: list[Issue] = []
    for at, ladder in gates:
        asked, unknown = _asked(workspace_id, ladder, people)
        issues += [_unknown(at, note) for note in unknown]
        issue = _issue(at, ladder, asked) if asked is not None else None
        issues += [issue] if issue is not None else []
    return issues


def _asked(
    workspace_id: UUID, ladder: Sequence[HumanLevel], people: Mapping[str, frozenset[int]]
) -> tuple[list[frozenset[int]] | None, list[str]]:
    """Who is asked level by level, None where only the run will tell; and what is said of unknown names.

    Where nobody who is named is known, the level's group is asked, as it will be then.
    """
    asked: list[frozenset[int]] = []
    unknown: list[str] = []
    told = True
    for level in ladder:
        given = level.assignees
        if given is None:
            asked.append(people[level.level])
            continue
        named, notes = approval_levels().assigned(workspace_id, given)
        known = len(notes) < len(given.users) + len(given.groups) + len(given.roles)
        asked.append(named if known else people[level.level])
        unknown += notes
        told = told and given.expression is None
    return asked if told else None, unknown


def _gates(definition: Definition) -> Iterator[tuple[str, tuple[HumanLevel, ...]]]:
    for index, block in enumerate(definition.blocks):
        human = definition.human_of(block)
        if human is None:
            continue
        first = human.ladder[0]
        plain = first.quorum == "any" and first.level == ANYONE and first.assignees is None
        if len(human.ladder) > 1 or not plain:
            yield pointer("blocks", index, "humanInLoop"), human.ladder


def _issue(at: str, ladder: Sequence[HumanLevel], asked: Sequence[frozenset[int]]) -> Issue | None:
    needed = 0
    together: frozenset[int] = frozenset()
    for level, there in zip(ladder, asked, strict=True):
        least = _least(level)
        if len(there) < least:
            return _warning(at, f"The level {level.level} needs {least}, and {len(there)} are there.")
        needed += least
        together |= there
    if len(together) < needed:
        return _warning(at, f"Its levels need {needed} different people, and {len(together)} are there.")
    return None


def _unknown(at: str, note: str) -> Issue:
    remedy = (
        "Mend the name, or give who is meant a role that decides; where nobody is known the level is asked."
    )
    return Issue("warning", "unknown_assignee", at, f"Of the assignees: {note}.", remedy)


def _least(level: HumanLevel) -> int:
    return level.quorum if isinstance(level.quorum, int) else 1


def _warning(at: str, message: str) -> Issue:
    remedy = "Add people to the level's group, with a role that decides, or ask for fewer."
    return Issue("warning", "not_enough_approvers", at, message, remedy)
