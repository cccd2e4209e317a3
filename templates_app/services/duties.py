"""Whether each level of a gate can have people of its own.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """So many of these people have to answer at a level."""

    level: str
    people: frozenset[int]
    count: int


@dataclass(frozen=True, slots=True)
class Twice:
    people: tuple[int, ...]
    levels: tuple[str, ...]


def needed_twice(needs: Sequence[Need]) -> Twice | None:
    """People who would be needed at more levels than one, however the answers are shared out.

    A matching of answers to people, by augmenting paths; where one cannot be placed, those tried on the way
    are too few for the levels that want them (Hall's condition).
    """
    total = sum(need.count for need in needs)
    answers = [need for need in needs if len(need.people) < total for _ in range(need.count)]
    taken: dict[int, int] = {}
    for answer in range(len(answers)):
        tried: dict[int, int] = {}
        if not _place(answer, answers, taken, tried):
            wanting = {answer, *(taken[person] for person in tried)}
            levels = dict.fromkeys(answers[each].level for each in sorted(wanting))  # by name: once each
            return Twice(tuple(sorted(tried)), tuple(levels))
    return None


def _place(answer: int, answers: Sequence[Need], taken: dict[int, int], tried: dict[int, int]) -> bool:
    """Find somebody for an answer, where need be by letting another be given by somebody else."""
    waiting = [answer]
    for wanting in waiting:  # grows meanwhile: breadth first
        for person in sorted(answers[wanting].people):
            if person in tried:
                continue
            tried[person] = wanting
            if person not in taken:
                _shift(person, tried, taken)
                return True
            waiting.append(taken[person])
    return False


def _shift(person: int, came_by: dict[int, int], taken: dict[int, int]) -> None:
    """Give the free person the answer that led there, and theirs to the one before, back to the first."""
    before = {wanting: someone for someone, wanting in taken.items()}
    while True:
        wanting = came_by[person]
        taken[person] = wanting
        if wanting not in before:
            return
        person = before[wanting]
