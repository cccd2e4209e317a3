"""What the engine needs from the apps above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from django.db.models import QuerySet

from agentflow.bus import Port
from agentflow.types import JSONObject, JSONValue


@dataclass(frozen=True, slots=True)
class LevelAsk:
    """One level that a question goes through; people, groups and roles by name, none for the level's group.

    `names` are usernames or names of groups, as an expression gave them; `note` says why it gave none.
    """

    level: str
    timeout_ms: int
    quorum: str = "any"  # any | all | a number
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    note: str = ""
    reminders_ms: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HumanAsk:
    """A question for people that holds one block.

    `kind` is one of `approvals.models.ApprovalKind`.  `request` is what is shown: `{"title", "description",
    "facts": {...}, "options": [...]}`, and under `editable` a value that whoever approves may change: the
    answer's `response` then holds it as `edited`.  `input_schema` is the JSON Schema that the answer must
    fit, or the edited value where there is one.
    """

    workspace_id: UUID
    execution_id: UUID
    block_pk: int
    block_id: str
    attempt: int
    version_hash: str
    kind: str
    level: str
    request: JSONObject
    input_schema: JSONObject
    timeout_ms: int
    block_name: str = ""  # as people call the block; its id where it has no name
    levels: tuple[LevelAsk, ...] = ()  # none: `level` alone, for `timeout_ms`, anybody of it
    on_timeout: str = "fail"  # fail | approve | reject | wait
    escalate: bool = False  # after the last level, up the workspace's ladder
    business_hours: bool = False  # times count while the workspace works
    sample: int = 0  # so many are inspected for all: of the items of a `forEach`; 0: each is
    sample_of: int = 0  # or, where it is not 0, of so many successive questions of the block in its version


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person answered about a block; `content_hash` stands for what they were asked."""

    approval_id: UUID
    content_hash: str
    approved: bool
    response: JSONValue


class HumanGate(Protocol):
    """Holds blocks until a person decides.  Bound by approvals.

    All but `unasked` are called inside the transaction that holds the execution's lock.
    """

    def open(self, asks: Sequence[HumanAsk]) -> None: ...

    def decisions(self, *, execution_id: UUID, epoch: int, idx: int) -> Mapping[int, Decision]:
        """The latest decisions about a block in an epoch, by iteration; fixes are none."""

    def content_hash(self, ask: HumanAsk) -> str:
        """As it would be in the `Decision` about this question."""

    def carry(self, asks: Sequence[tuple[HumanAsk, Decision]]) -> None:
        """Record that these were not asked, for the same had been decided."""

    def stale(self, asks: Sequence[HumanAsk]) -> Sequence[HumanAsk]:
        """Those whose block is asked about otherwise now: the open question shows something else."""

    def renew(self, asks: Sequence[HumanAsk]) -> None:
        """Withdraw what these blocks are asked, and ask these instead."""

    def cancel(self, *, execution_id: UUID, block_pks: Sequence[int] | None, reason: str) -> None:
        """Withdraw open questions of these blocks, or of the whole execution."""

    def unasked(self) -> int:
        """Blocks of open executions that wait for a person whom nobody has asked: there are none, or a bug.

        It reads only, and needs no lock.
        """


class TimerHandler(Protocol):
    """Does what a timer of one kind is for, and deletes the timer, in one transaction of its own."""

    def __call__(self, *, subject: UUID, execution_id: UUID) -> None: ...


@dataclass(frozen=True, slots=True)
class HumanInteraction:
    """One question that was put to people, and what came of it.

    `status` is the approval's; `approver` the username of who decided, empty while nobody has.
    """

    approval_id: UUID
    block_pk: int
    kind: str
    level: str
    status: str
    requested_at: datetime
    respond_by: datetime | None
    responded_at: datetime | None
    approved: bool | None
    response: JSONValue
    comments: str
    approver: str
    carried_from: UUID | None = None  # the approval that was answered, where its answer was taken again


class HumanHistory(Protocol):
    """What people were asked in one execution, oldest first.  Bound by approvals."""

    def __call__(
        self, *, execution_id: UUID, block_pks: Sequence[int] | None = None
    ) -> Sequence[HumanInteraction]: ...


class PeopleAsked(Protocol):
    """How many people are asked just now about some blocks of one workspace.  Bound by approvals."""

    def __call__(self, *, workspace_id: UUID, blocks: QuerySet[Any, Any]) -> int: ...


class ClockDuty(Protocol):
    """What an app above does by the clock, in every clock process."""

    def start_due(self) -> None:
        """Begin what is due, about once a second; what waits for somebody outside has a thread of its own."""

    def tidy(self) -> None:
        """Remove what nobody needs any more."""


class GivenUp(Protocol):
    """Tells those whom an execution concerns that it was given up, in the transaction that ends it.

    Never raises for what it finds: who cannot be told holds nothing up.  Bound by approvals.
    """

    def __call__(self, *, execution_id: UUID) -> None: ...


human_gate: Port[HumanGate] = Port("executions.human_gate")
approval_timeout: Port[TimerHandler] = Port("executions.approval_timeout")
human_history: Port[HumanHistory] = Port("executions.human_history")
people_asked: Port[PeopleAsked] = Port("executions.people_asked")
given_up: Port[GivenUp] = Port("executions.given_up")
# Makes the duty of one clock process.
notifications: Port[Callable[[], ClockDuty]] = Port("executions.notifications")
