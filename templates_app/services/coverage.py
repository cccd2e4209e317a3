"""Whether the people are there who can pass the gates of a definition."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from agentflow.governance.models import User
from agentflow.workflow.definition import Definition, HumanLevel
from agentflow.workflow.issues import pointer
from agentflow.workflow.validation import Issue

from ..ports import approval_levels
from . import duties
from .references import ANYONE

AGREEING = frozenset({"approval", "review"})  # types that agree to something, and fill in nothing


@dataclass(frozen=True, slots=True)
class Gate:
    at: str
    ladder: tuple[HumanLevel, ...]
    only: bool  # the only one of its template that agrees to something

    @property
    def plain(self) -> bool:
        """Any one approver passes it."""
        first = self.ladder[0]
        simple = first.quorum == "any" and first.level == ANYONE and first.assignees is None
        return len(self.ladder) == 1 and simple


def issues(definition: Definition, workspace_id: UUID, authors: Collection[int] = ()) -> list[Issue]:
    """Warnings, for people come and go: names that lead to nobody, and gates that nobody could pass today.

    A gate needs enough people, other ones at each level, and, where it is the only one, somebody besides the
    template's authors; whom an expression names is not known yet.
    """
    gates = list(_gates(definition))
    if not gates:
        return []
    known = approval_levels().known_levels(workspace_id) | {ANYONE}  # others are an issue of their own
    gates = [gate for gate in gates if all(level.level in known for level in gate.ladder)]
    loops = approval_levels().deputy_loops(workspace_id)
    barred = frozenset(() if approval_levels().author_may_pass(workspace_id) else authors)
    looked_at = [gate for gate in gates if not gate.plain or loops or (gate.only and barred)]
    named = {level.level for gate in looked_at for level in gate.ladder}
    people = approval_levels().people(workspace_id, named)
    found: list[Issue] = []
    for gate in looked_at:
        asked, unknown = _asked(workspace_id, gate.ladder, people)
        found += [_unknown(gate.at, note) for note in unknown]
        if asked is not None:
            found += _of_people(gate, asked, barred if gate.only else frozenset())
        found += _loops(workspace_id, gate, loops)
    return found


def _of_people(gate: Gate, asked: Sequence[frozenset[int]], authors: frozenset[int]) -> list[Issue]:
    """The first thing that is wrong: another follows from it."""
    least = [_least(level) for level in gate.ladder]
    if not gate.plain and (short := _short(gate, asked)) is not None:
        return [short]
    if authors and any(len(there - authors) < needed for there, needed in zip(asked, least, strict=True)):
        message = (
            f"{_names(sorted(authors))} wrote this template and may not pass its only gate;"
            " without them too few people are there."
        )
        remedy = "Add another person with a role that decides, or allow it by the policy `ownTemplates`."
        return [Issue("warning", "only_author_can_pass", gate.at, message, remedy)]
    needs = [
        duties.Need(level.level, there, len(there) if level.quorum == "all" else count)
        for level, there, count in zip(gate.ladder, asked, least, strict=True)
    ]
    twice = duties.needed_twice(needs)
    if twice is None:
        return []
    levels = " and ".join(twice.levels)
    message = f"{_names(twice.people)} would have to answer at {levels}, and nobody answers twice."
    remedy = "Ask other people at one of these levels, or fewer."
    return [Issue("warning", "same_person_twice", gate.at, message, remedy)]


def _names(people: Sequence[int]) -> str:
    names = User.objects.filter(pk__in=people[:5]).order_by("username").values_list("username", flat=True)
    return ", ".join(names)


def _asked(
    workspace_id: UUID,
    ladder: Sequence[HumanLevel],
    people: Mapping[str, frozenset[int]],
    *,
    absent: bool = False,
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
        named, notes = approval_levels().assigned(workspace_id, given, absent=absent)
        known = len(notes) < len(given.users) + len(given.groups) + len(given.roles)
        asked.append(named if known else people[level.level])
        unknown += notes
        told = told and given.expression is None
    return asked if told else None, unknown


def _loops(workspace_id: UUID, gate: Gate, loops: Sequence[tuple[int, ...]]) -> list[Issue]:
    """Of those who would be asked, if they were there."""
    if not loops:
        return []
    levels = {level.level for level in gate.ladder}
    people = approval_levels().people(workspace_id, levels, absent=True)
    asked, _ = _asked(workspace_id, gate.ladder, people, absent=True)
    together = frozenset().union(*(asked or ()))
    return [
        Issue(
            "warning",
            "delegation_loop",
            gate.at,
            f"{_names(loop)} stand in for each other at the same time, so nobody answers for them.",
            "End one of their absences, or name another deputy.",
        )
        for loop in loops
        if not together.isdisjoint(loop)
    ]


def _gates(definition: Definition) -> Iterator[Gate]:
    asked = [(index, definition.human_of(block)) for index, block in enumerate(definition.blocks)]
    agreeing = sum(human is not None and human.type in AGREEING for _, human in asked)
    for index, human in asked:
        if human is not None:
            only = agreeing == 1 and human.type in AGREEING
            yield Gate(pointer("blocks", index, "humanInLoop"), human.ladder, only)


def _short(gate: Gate, asked: Sequence[frozenset[int]]) -> Issue | None:
    needed = 0
    together: frozenset[int] = frozenset()
    for level, there in zip(gate.ladder, asked, strict=True):
        least = _least(level)
        if len(there) < least:
            return _warning(gate.at, f"The level {level.level} needs {least}, and {len(there)} are there.")
        needed += least
        together |= there
    if len(together) < needed:
        message = f"Its levels need {needed} different people, and {len(together)} are there."
        return _warning(gate.at, message)
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
