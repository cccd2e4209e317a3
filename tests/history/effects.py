"""I4 and I5: attempts without gap, one accepted outcome, and one effect for each key."""

from __future__ import annotations

from collections.abc import Iterator

from agentflow.conf import LIMITS
from executions.models import AttemptOutcome, BlockExecution
from executions.states import BlockStatus as B

from . import steps
from .reading import Story
from .violations import Ledger, Violation

_ENDED_ATTEMPTS = {"agent", "tool_agent", "tool_child"}  # what is waited for before the next attempt


def check_attempts(story: Story) -> list[Violation]:
    return [
        Violation("I4", story.execution.pk, what) for row in story.own() for what in _attempts(story, row)
    ]


def _attempts(story: Story, row: BlockExecution) -> Iterator[str]:
    name = f"{row.block_id}[{row.iteration}] in epoch {row.epoch}"
    ended = story.attempts.get(row.pk, [])
    numbers = [attempt.attempt for attempt in ended]
    waits = row.status == B.WAITING_EXTERNAL and row.reason not in _ENDED_ATTEMPTS
    in_flight = row.attempt > 0 and (row.status == B.RUNNING or waits)
    if numbers != list(range(1, row.attempt + 1 - in_flight)):
        yield f"{name}: attempts {numbers} have ended, {row.attempt} were begun"
    accepted = [attempt.attempt for attempt in ended if attempt.outcome == AttemptOutcome.OK]
    rounds = row.round + 1
    if len(accepted) > rounds or (rounds == 1 and accepted and accepted != [row.attempt]):
        yield f"{name}: of {row.attempt} attempts {accepted} were accepted"
    for late in story.late.get(row.pk, []):
        if late.attempt > row.attempt:
            yield f"{name}: a late result of attempt {late.attempt}, which was never begun"
    if row.status != B.RUNNING and (row.lease_owner or row.lease_expires_at):
        yield f"{name} is {row.status} and has a lease"


def check_keys(story: Story) -> list[Violation]:
    """What the rows say about keys; what the agents say is `check_ledger`."""
    return [Violation("I5", story.execution.pk, what) for what in (*_shared(story), *_unasked(story))]


def _shared(story: Story) -> Iterator[str]:
    """A block that was done, or a round of it, and runs again in a later epoch does so under a new key."""
    done: dict[tuple[int, int], int] = {}
    for row in story.own():  # by epoch
        place = (row.idx, row.iteration)
        if place in done and row.effect_seq <= done[place]:
            yield f"{row.block_id}[{row.iteration}] in epoch {row.epoch} has the key of what was done before"
        if row.status == B.COMPLETED or _accepted(story, row):
            done[place] = row.effect_seq


def _unasked(story: Story) -> Iterator[str]:
    """A `once` block whose outcome is unknown is not tried again by itself."""
    once = {(row.epoch, row.idx) for row in story.own() if row.effect == "once"}
    if not once:
        return
    epoch = 1
    for event in story.events:
        payload = event.payload or {}
        epoch = payload.get("epoch", epoch) if event.type == "execution_changed" else epoch
        if event.type != "block_changed" or payload.get("status") != B.READY:
            continue
        idx = story.plan.index.get(event.block_id or "")
        if idx is not None and (epoch, idx) in once and (payload.get("error") or {}).get("outcomeUnknown"):
            yield f"{event.block_id} in epoch {epoch} is tried again although its effect may have happened"


def check_ledger(story: Story, ledger: Ledger) -> list[Violation]:
    found = [Violation("I5", story.execution.pk, what) for what in _against(story, ledger)]
    return found + steps.check_ledger(story, ledger)


def _against(story: Story, ledger: Ledger) -> Iterator[str]:
    keys: dict[str, list[BlockExecution]] = {}
    for row in story.own():
        for seq in range(row.effect_seq + 1):
            keys.setdefault(_key(row, seq), []).append(row)
    known = keys.keys() | steps.keys(story)
    strange = [key for key in ledger.calls if key.startswith(f"{story.execution.pk}:") and key not in known]
    for key in strange:
        yield f"{key} was called, and no row has such a key"
    for key, rows in keys.items():
        said = sum(_decisions(story, row) for row in rows)
        effects, calls, once = ledger.effects.get(key, 0), ledger.calls.get(key, 0), rows[0].effect == "once"
        allowed = 1 + (said if once else 0) + (len(rows) - 1 if once else 0)
        if effects > allowed:
            yield f"{key} had its effect {effects} times"
        harmless = sum(_harmless(story, row) for row in rows)
        if once and calls > allowed + harmless:
            yield f"{key} is done once and was called {calls} times"
    for row in story.own():
        if _was_done(story, row) and not ledger.effects.get(_key(row, row.effect_seq), 0):
            yield f"{_key(row, row.effect_seq)} is completed and had no effect"


def _key(row: BlockExecution, seq: int) -> str:
    return f"{row.execution_id}:{row.block_id}:{row.iteration}:{seq}"


def _was_done(story: Story, row: BlockExecution) -> bool:
    if row.effect == "pure" or row.status != B.COMPLETED:
        return False
    return _accepted(story, row)


def _accepted(story: Story, row: BlockExecution) -> bool:
    return any(
        attempt.attempt == row.attempt and attempt.outcome == AttemptOutcome.OK
        for attempt in story.attempts.get(row.pk, [])
    )


def _harmless(story: Story, row: BlockExecution) -> int:
    """Attempts that are known to have had no effect."""
    return sum(
        attempt.outcome == AttemptOutcome.ERROR and not (attempt.failure or {}).get("outcomeUnknown")
        for attempt in story.attempts.get(row.pk, [])
    )


def _decisions(story: Story, row: BlockExecution) -> int:
    """How often a person wanted the block to run again."""
    fixes = [
        asked
        for asked in story.approvals
        if asked.block_execution_id == row.pk
        and asked.kind == "fix"
        and asked.status == "approved"
        and (asked.response or {}).get("action") == "retry"
    ]
    retries = [
        entry
        for entry in story.audit
        if entry.action == "execution.retry_block" and entry.detail.get("blockId") == row.block_id
    ]
    return len(fixes) + len(retries)


def check_budget(story: Story) -> list[Violation]:
    """I10's bounds that are counted on rows."""
    found = []
    if story.execution.depth > LIMITS.usecase_depth:
        found.append(f"it is {story.execution.depth} deep")
    owners = {row.lease_owner for row in story.current() if row.status == B.RUNNING}
    if len(owners) > story.execution.max_parallel:
        found.append(f"{len(owners)} walkers hold blocks of {story.execution.max_parallel} allowed")
    for row in story.own():
        repeat = story.plan[row.idx].block.repeat
        if row.round and (repeat is None or row.round >= repeat.max_iterations + _decisions(story, row)):
            found.append(f"{row.block_id} is in round {row.round}")
    for idx in story.plan.fans:
        each = story.plan[idx].block.for_each
        active = sum(
            row.idx == idx and row.iteration > 0 and row.status in ("ready", "running", "waiting_human")
            for row in story.current()
        )
        if each is not None and each.max_concurrency is not None and active > each.max_concurrency:
            found.append(f"{active} items of {story.plan[idx].block_id} are open at once")
    return [Violation("I10", story.execution.pk, what) for what in found]
