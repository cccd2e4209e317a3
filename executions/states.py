"""The two state machines of the engine, in the words of the wire."""

from __future__ import annotations

from django.db.models import TextChoices

from agentflow.lifecycle import Lifecycle


class ExecutionStatus(TextChoices):
    PENDING = "pending"  # accepted; the first walker moves it on, once its concurrency key has a place
    RUNNING = "running"  # the last settled block, a command or the deadline moves it on
    PAUSED = "paused"  # running calls finish, nothing opens; only resume or cancel moves it on
    CANCELLING = "cancelling"  # calls in flight are being stopped; the last of them, or its lease, ends it
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BlockStatus(TextChoices):
    BLOCKED = "blocked"  # waits for its predecessors
    READY = "ready"  # a worker may claim it, from `available_at` on
    RUNNING = "running"  # one worker holds it; if that dies, the clock moves it on after its lease
    WAITING_HUMAN = "waiting_human"  # only a decision, its timer or cancel moves it on
    # Its child's end, its event, its callback, a place, its moment (`available_at`) or cancel moves it on.
    WAITING_EXTERNAL = "waiting_external"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


E = ExecutionStatus
B = BlockStatus

EXECUTION: Lifecycle[ExecutionStatus] = Lifecycle(
    {
        E.PENDING: {E.RUNNING, E.PAUSED, E.CANCELLING},
        E.RUNNING: {E.PAUSED, E.CANCELLING, E.COMPLETED, E.FAILED},
        # One that was paused while it waited for its concurrency key waits on.
        E.PAUSED: {E.PENDING, E.RUNNING, E.CANCELLING},
        # A block with `end` stops what is in flight, then the run is what `end` says.
        E.CANCELLING: {E.CANCELLED, E.COMPLETED, E.FAILED},
        E.COMPLETED: set(),
        E.FAILED: set(),
        E.CANCELLED: set(),
    }
)
BLOCK: Lifecycle[BlockStatus] = Lifecycle(
    {
        B.BLOCKED: {
            B.READY,
            B.RUNNING,
            B.WAITING_HUMAN,
            B.WAITING_EXTERNAL,
            B.COMPLETED,
            B.FAILED,
            B.SKIPPED,
            B.CANCELLED,
        },
        # A person may settle by hand what nobody works on.
        B.READY: {B.RUNNING, B.COMPLETED, B.SKIPPED, B.CANCELLED},
        B.RUNNING: {
            B.READY,
            B.WAITING_HUMAN,
            B.WAITING_EXTERNAL,
            B.COMPLETED,
            B.FAILED,
            B.CANCELLED,
        },
        # An answer that leads nowhere (no branch fits it) asks again.
        B.WAITING_HUMAN: {
            B.READY,
            B.WAITING_HUMAN,
            B.WAITING_EXTERNAL,
            B.COMPLETED,
            B.SKIPPED,
            B.FAILED,
            B.CANCELLED,
        },
        # After its wait a block may wait for its items.
        B.WAITING_EXTERNAL: {
            B.READY,
            B.WAITING_HUMAN,
            B.WAITING_EXTERNAL,
            B.COMPLETED,
            B.SKIPPED,
            B.FAILED,
            B.CANCELLED,
        },
        B.COMPLETED: set(),
        B.FAILED: set(),
        B.SKIPPED: set(),
        B.CANCELLED: set(),
    }
)
# From one epoch to the next; within one, what has ended stays as it is.
RESTART: Lifecycle[ExecutionStatus] = Lifecycle(
    {E.COMPLETED: {E.RUNNING}, E.FAILED: {E.RUNNING}, E.CANCELLED: {E.RUNNING}}
)
# By hand, while nothing behind the block has moved: a failure is taken back.
REPAIR: Lifecycle[BlockStatus] = Lifecycle({B.FAILED: {B.READY, B.BLOCKED}})
SETTLED = BLOCK.final
TERMINAL = EXECUTION.final
