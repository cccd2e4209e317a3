"""The levels that a question goes through, fixed when it is asked.

A template names people; they are looked up once, and whom nobody knows is noted: then the level's group
is asked.  Levels that `climbs` are the rungs of the workspace's ladder above the last: they are reached
when time is over, and never have to agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group

from agentflow.governance import access
from agentflow.governance.models import WorkspaceRole
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from executions.ports import HumanAsk, LevelAsk

from ..models import ANY_APPROVER, Approval, ApprovalAssignee, ApprovalLevel

ANY, ALL = "any", "all"


@dataclass(frozen=True, slots=True)
class Level:
    """One level of one question; `users` and `groups` are ids, both empty for the level's own group."""

    level: str
    timeout_ms: int
    quorum: str = ANY
    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    note: str = ""
    reminders_ms: tuple[int, ...] = ()
    business_hours: bool = False
    climbs: bool = False

    @property
    def assigned(self) -> bool:
        return bool(self.users or self.groups)

    def as_json(self) -> JSONObject:
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Level:
        lists = {name: tuple(row[name]) for name in ("users", "groups", "reminders_ms")}
        return cls(**{**row, **lists})


def levels_of(approval: Approval) -> list[Level]:
    return [Level.of(row) for row in approval.levels]


def present(approval: Approval) -> Level:
    return Level.of(approval.levels[approval.level_index])


def following(approval: Approval) -> int | None:
    """The level that has to agree next, once the present one has."""
    index = approval.level_index + 1
    if index < len(approval.levels) and not approval.levels[index]["climbs"]:
        return index
    return None


def above(approval: Approval) -> int | None:
    """The level that is asked when the present one let its time pass."""
    index = approval.level_index + 1
    return index if index < len(approval.levels) else None


@dataclass(frozen=True, slots=True)
class Named:
    """Ids of those whom a level names, and why names lead to nobody."""

    users: tuple[int, ...]
    groups: tuple[int, ...]
    notes: tuple[str, ...]


class Book:
    """The names that a workspace knows, read once for any number of questions.

    Whoever may not decide in the workspace is nobody here: their name leads nowhere.
    """

    def __init__(self, workspace_id: UUID) -> None:
        self._workspace_id = workspace_id
        self._deciders: dict[str, int] | None = None
        self._groups: dict[str, int | None] = {}
        self._roles: dict[str, int] | None = None
        self._ladder: list[str] | None = None

    def resolve(self, ask: HumanAsk) -> list[Level]:
        asked = ask.levels or (LevelAsk(level=ask.level, timeout_ms=ask.timeout_ms),)
        found = [self._level(each, business_hours=ask.business_hours) for each in asked]
        if ask.escalate:
            found += [
                Level(
                    level=name,
                    timeout_ms=found[-1].timeout_ms,
                    reminders_ms=found[-1].reminders_ms,
                    business_hours=ask.business_hours,
                    climbs=True,
                )
                for name in self._rungs_above(found[-1].level)
            ]
        return found

    def named(self, asked: LevelAsk) -> Named:
        """The people and groups that a level names; whom nobody knows is noted."""
        users: list[int] = []
        groups: list[int] = []
        notes = [asked.note] if asked.note else []
        for name in asked.users:
            self._add(self._user(name), users, f"{name!r} may not decide here", notes)
        for name in asked.groups:
            self._add(self._group(name), groups, f"there is no group {name!r}", notes)
        for name in asked.roles:
            self._add(self._role(name), groups, f"nobody has the role {name!r}", notes)
        for name in asked.names:
            if (user := self._user(name)) is not None:
                users.append(user)
            else:
                words = f"{name!r} is neither somebody who may decide here nor a group"
                self._add(self._group(name), groups, words, notes)
        return Named(tuple(dict.fromkeys(users)), tuple(dict.fromkeys(groups)), tuple(notes))

    def _level(self, asked: LevelAsk, *, business_hours: bool) -> Level:
        named = self.named(asked)
        return Level(
            level=asked.level,
            timeout_ms=asked.timeout_ms,
            quorum=asked.quorum,
            users=named.users,
            groups=named.groups,
            note="; ".join(named.notes)[:1000],
            reminders_ms=asked.reminders_ms,
            business_hours=business_hours,
        )

    @staticmethod
    def _add(found: int | None, to: list[int], words: str, notes: list[str]) -> None:
        if found is None:
            notes.append(words)
        else:
            to.append(found)

    def _user(self, name: str) -> int | None:
        if self._deciders is None:
            people = access.holders(Permission.DECIDE, [self._workspace_id])
            self._deciders = dict(people.values_list("username", "pk"))
        return self._deciders.get(name)

    def _group(self, name: str) -> int | None:
        if name not in self._groups:
            self._groups[name] = Group.objects.filter(name=name).values_list("pk", flat=True).first()
        return self._groups[name]

    def _role(self, name: str) -> int | None:
        if self._roles is None:
            rows = WorkspaceRole.objects.filter(workspace=self._workspace_id)
            self._roles = dict(rows.values_list("role", "group_id"))
        return self._roles.get(name)

    def _rungs_above(self, level: str) -> Sequence[str]:
        if self._ladder is None:
            rows = ApprovalLevel.objects.filter(workspace=self._workspace_id).order_by("position")
            self._ladder = list(rows.values_list("name", flat=True))
        if level == ANY_APPROVER:
            return self._ladder
        return self._ladder[self._ladder.index(level) + 1 :] if level in self._ladder else ()


def columns(level: Level) -> dict[str, Any]:
    """What the row of a question says of its present level, beside the times."""
    return {
        "level": level.level,
        "quorum": level.quorum,
        "assigned": level.assigned,
        "assignment_note": level.note,
    }


def assign(approvals: Collection[Approval]) -> None:
    """Write down who is named at the present level of these questions."""
    rows = []
    for approval in approvals:
        level = present(approval)
        index = approval.level_index
        rows += [ApprovalAssignee(approval=approval, level_index=index, user_id=user) for user in level.users]
        rows += [ApprovalAssignee(approval=approval, level_index=index, group_id=id) for id in level.groups]
    if rows:
        ApprovalAssignee.objects.bulk_create(rows)
