"""I9: a question is decided once, by the person recorded, on what they saw, and moves its block once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from approvals.models import Approval, ApprovalVote
from approvals.services.gate import content_hash, timer_key
from executions.states import BlockStatus as B

from .reading import Story
from .violations import Violation

_EVENTS = {
    "approved": "approval_responded",
    "rejected": "approval_responded",
    "expired": "approval_timeout",
    "cancelled": "approval_cancelled",
}
_AGREES = ("approve", "edit", "answer")
_ENDINGS = frozenset(_EVENTS.values())


def check(story: Story) -> list[Violation]:
    problems = [what for asked in story.approvals for what in _question(story, asked)]
    problems += _waiting(story)
    return [Violation("I9", story.execution.pk, what) for what in problems]


def _question(story: Story, asked: Approval) -> Iterator[str]:
    name = f"the question {asked.pk} of {asked.block_id}"
    told = [e.type for e in story.events if (e.payload or {}).get("approvalId") == str(asked.pk)]
    endings = [type for type in told if type in _ENDINGS]
    expected = [] if asked.status == "pending" else [_EVENTS[asked.status]]
    if asked.carried_from is not None:
        yield from _carried(name, asked, asked.carried_from, told)
    elif told.count("approval_requested") != 1 or endings != expected:
        yield f"{name} is {asked.status}, its events are {told}"
    seen = content_hash(
        request=asked.request,
        input_schema=asked.input_schema,
        version_hash=story.execution.template_version.content_hash,
        attempt=asked.attempt,
    )
    if seen != asked.content_hash:
        yield f"{name} is not what was asked: its content has another hash"
    yield from _agreed(story, name, asked)
    decided = [entry for entry in story.decisions if entry.target_id == str(asked.pk)]
    if asked.status in ("approved", "rejected"):
        for entry in decided:
            if entry.actor_id != asked.responder_id:
                yield f"{name} was answered by {entry.actor_name}, its row names another"
            elif entry.detail.get("contentHash") != asked.content_hash:
                yield f"{name} was answered on another content"
            elif entry.detail.get("approved") != (asked.status == "approved"):
                yield f"{name} is {asked.status}, and the answer was another"
    elif decided:
        yield f"{name} is {asked.status}, and somebody decided it"


def _agreed(story: Story, name: str, asked: Approval) -> Iterator[str]:
    """Of each level that had to agree there are enough people, and none who may not."""
    if asked.status != "approved" or asked.carried_from is not None or asked.released:
        return
    votes = [vote for vote in story.votes.get(asked.pk, []) if vote.counts]
    if any(str(vote.user_id) in asked.barred for vote in votes):
        yield f"{name} counts the vote of one who may not decide it"
    for index, level in enumerate(asked.levels[: asked.level_index + 1]):
        yes = [vote for vote in votes if vote.level_index == index and vote.decision in _AGREES]
        agreed = len({_seat(story, vote) for vote in yes})
        passed = index < asked.level_index and not agreed  # its time was over
        needed = int(level["quorum"]) if level["quorum"].isdigit() else 1
        if agreed < needed and not passed:
            yield f"{name} is approved by {agreed} of the {needed} that level {index} asks for"


def _seat(story: Story, vote: ApprovalVote) -> int:
    """Whose part a vote is: of who was absent, or gave it away first."""
    rows = story.delegations.get(vote.approval_id, [])
    givers = {row.user_id: row.delegated_by_id for row in rows if row.level_index == vote.level_index}
    seat: int = vote.on_behalf_of_id or vote.user_id
    passed = {seat}
    while (giver := givers.get(seat)) is not None and giver not in passed:
        seat = giver
        passed.add(seat)
    return seat


def _carried(name: str, asked: Approval, origin: UUID, told: list[str]) -> Iterator[str]:
    """One that was not asked has the answer to another that was asked the same."""
    if told != ["approval_carried"]:
        yield f"{name} is carried, its events are {told}"
    first = Approval.objects.filter(pk=origin).first()
    if first is None or first.carried_from is not None:
        yield f"{name} is carried from no question that was asked"
    elif any(
        getattr(first, each) != getattr(asked, each)
        for each in ("status", "content_hash", "responder_id", "response", "responded_at", "block_id")
    ):
        yield f"{name} has another answer than the one it is carried from"


def _waiting(story: Story) -> Iterator[str]:
    """Who waits for a person is asked about, by one question with its timer; nobody else is."""
    pending = Counter(a.block_execution_id for a in story.approvals if a.status == "pending")
    waiting = {row.pk: row for row in story.current() if row.status == B.WAITING_HUMAN}
    for pk, row in waiting.items():
        if pending[pk] != 1:
            yield f"{row.block_id}[{row.iteration}] waits for a person, {pending[pk]} questions are open"
    for asked in story.approvals:
        if asked.status == "pending" and asked.block_execution_id not in waiting:
            yield f"the question {asked.pk} is open, and {asked.block_id} does not wait for it"
        timed = timer_key(asked.pk) in story.timers
        if timed != (asked.status == "pending"):
            yield f"the question {asked.pk} is {asked.status} and has {'a' if timed else 'no'} timer"
    yield from _moved(story)


def _moved(story: Story) -> Iterator[str]:
    """Every question belongs to one time that its block began to wait."""
    begun: Counter[tuple[str, int]] = Counter()
    for event in story.events:
        payload = event.payload or {}
        if event.type == "block_changed" and payload.get("status") == B.WAITING_HUMAN:
            begun[event.block_id or "", payload.get("item", 0)] += 1
    places = {row.pk: (row.block_id, row.iteration) for row in story.rows.values()}
    asked = Counter(places[a.block_execution_id] for a in story.approvals if a.carried_from is None)
    for place, count in asked.items():
        if count > begun[place]:
            yield f"{place[0]}[{place[1]}] waited {begun[place]} times and was asked about {count} times"
