"""Whether a failed attempt is tried again, and when."""

from __future__ import annotations

from collections.abc import Callable

from .definition import RetryPolicy
from .failures import Failure, FailureKind


def delay_s(policy: RetryPolicy, attempt: int, random: Callable[[], float]) -> float:
    """Seconds to wait after `attempt` (1 is the first) failed.

    fixed: d; linear: d * attempt; exponential: d * multiplier ** (attempt - 1); never more than the
    policy's greatest delay.  With jitter the wait lies evenly between 0 and that ("full jitter"), so
    that blocks which failed together do not come back together.

    `random` gives a number in [0, 1).
    """
    initial, most = policy.initial_delay / 1000, policy.max_delay / 1000
    steps = max(attempt, 1)
    if policy.backoff_strategy == "linear":
        delay = initial * steps
    elif policy.backoff_strategy == "exponential":
        try:
            delay = initial * policy.multiplier ** (steps - 1)
        except OverflowError:
            delay = most if initial else 0.0
    else:
        delay = initial
    delay = min(delay, most)
    return delay * random() if policy.jitter else delay


def wants_retry(policy: RetryPolicy, failure: Failure, attempt: int) -> bool:
    """Whether the policy asks for another attempt after `attempt` (1 is the first) failed so.

    A condition is a failure's kind or its code.  What nothing mends is not tried again, whatever
    the policy says.  Whether a repeat is safe at all (an unknown outcome of an effect that must
    happen once) is the engine's question, asked before this one.
    """
    if failure.kind is FailureKind.CRITICAL or attempt > policy.max_retries:
        return False
    return bool({str(failure.kind), failure.code} & set(policy.retry_conditions))
