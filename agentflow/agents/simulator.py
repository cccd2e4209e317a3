"""In place of the agent: sleep as long as it would have, then answer from the script."""

from __future__ import annotations

import threading

from ..workflow.failures import Failure, FailureKind
from .calls import TIMED_OUT, Call, Completed, Failed, Outcome, SimulatedBlock


def simulate(call: Call, script: SimulatedBlock) -> Outcome:
    if script.seconds > 0:
        woken = threading.Event()
        call.cancel.on_cancel(woken.set)
        stopped = woken.wait(min(script.seconds, call.timeout_s))
        if stopped and call.cancel.reason != TIMED_OUT:
            return Failed(Failure(FailureKind.TRANSIENT, "cancelled", "The call was cancelled."))
        if stopped or script.seconds > call.timeout_s:
            return Failed(
                Failure(FailureKind.TRANSIENT, "timeout", f"No answer within {call.timeout_s:g} s.")
            )
    return Failed(script.failure) if script.failure else Completed(script.output)
