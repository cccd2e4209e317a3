"""Executions as rows.  The rows are the truth; every message is a hint to look at them."""

from __future__ import annotations

from ..faults import models as fault_models  # noqa: F401
from ..incidents import models as incident_models  # noqa: F401
from ..incidents import repair_models  # noqa: F401
from ..learning import models as learning_models  # noqa: F401
from ..recovery import rule_models  # noqa: F401
from .blobs import Blob, BlobPlace
from .blocks import AgentStep, AttemptOutcome, BlockAttempt, BlockExecution, LateResult, RoutingReceipt
from .places import AgentWindow, Place, PlaceKind
from .points import PointKind, RecoveryPoint
from .processes import DayTally, Process, ProcessKind
from .runs import Compensation, Durability, Execution, Pin
from .spending import BudgetScope, BudgetState, BudgetWait, DaySpending
from .waits import CallbackAnswer, EventWait, Timer, TimerKind

__all__ = [
    "AgentStep",
    "AgentWindow",
    "AttemptOutcome",
    "Blob",
    "BlobPlace",
    "BlockAttempt",
    "BlockExecution",
    "BudgetScope",
    "BudgetState",
    "BudgetWait",
    "CallbackAnswer",
    "Compensation",
    "DaySpending",
    "DayTally",
    "Durability",
    "EventWait",
    "Execution",
    "LateResult",
    "Pin",
    "Place",
    "PlaceKind",
    "PointKind",
    "Process",
    "ProcessKind",
    "RecoveryPoint",
    "RoutingReceipt",
    "Timer",
    "TimerKind",
]
