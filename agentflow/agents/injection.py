"""A fault in place of a call's answer, or around it: at the one place where agents are called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from ..integrations import waiting
from ..types import JSONObject
from ..workflow.failures import Failure, FailureKind
from ..workflow.faults import Fault, FaultKind
from .calls import TIMED_OUT, AwaitCallback, Call, Completed, Failed, Outcome

_CALLS = frozenset({FaultKind.SLOW, FaultKind.WRONG_OUTPUT, FaultKind.DIES_AFTER})


@dataclass(slots=True)
class Injection:
    """`mark` is kept with the attempt if the fault has `happened`.  `counts`: against the agent."""

    fault: Fault
    mark: JSONObject
    counts: bool = False
    happened: bool = False

    @property
    def calls(self) -> bool:
        """Whether the agent is called."""
        return self.fault.kind in _CALLS


def inject(call: Call, injection: Injection, run: Callable[[Call], Outcome]) -> Outcome:
    """What comes of the call.  `run` calls the agent."""
    fault = injection.fault
    failure = fault.failure("injected", timeout_s=call.timeout_s)
    call.log("warning", f"Injected fault: {fault.kind}" + (f", {fault.ms:g} ms." if fault.ms else "."))
    if fault.ms and (ended := _waited(call, injection)) is not None:
        return ended
    if not injection.calls:
        assert failure is not None
        injection.happened = True
        return Failed(failure)
    left_s = max(call.timeout_s - fault.ms / 1000, 0.001)
    outcome = run(replace(call, timeout_s=left_s) if fault.ms else call)
    if fault.kind is FaultKind.SLOW:
        injection.happened = True
    elif fault.kind is FaultKind.WRONG_OUTPUT and isinstance(outcome, Completed):
        injection.happened = True
        return replace(outcome, output=fault.output)
    elif failure is not None and isinstance(outcome, Completed | Failed | AwaitCallback):
        injection.happened = True
        usage = None if isinstance(outcome, AwaitCallback) else outcome.usage
        return Failed(failure, usage)
    return outcome


def _waited(call: Call, injection: Injection) -> Outcome | None:
    """Let the time pass; what comes of the call if it is over meanwhile."""
    wait_s = injection.fault.ms / 1000
    woken = threading.Event()
    call.cancel.on_cancel(woken.set)
    with waiting.outside() if waiting.held() else nullcontext():
        stopped = woken.wait(min(wait_s, call.timeout_s))
    if stopped and call.cancel.reason != TIMED_OUT:
        return Failed(Failure(FailureKind.TRANSIENT, "cancelled", "The call was cancelled."))
    if not stopped and wait_s < call.timeout_s:
        return None
    injection.happened = True
    fault = replace(injection.fault, kind=FaultKind.TIMEOUT, outcome_unknown=True)
    failure = fault.failure("injected", timeout_s=call.timeout_s)
    assert failure is not None
    return Failed(failure)


def marked(outcome: Outcome, injection: Injection) -> Outcome:
    """The outcome of a call that met a fault: its failure says so, also where the fault only led to it."""
    if not isinstance(outcome, Failed):
        return outcome
    evidence = {**outcome.failure.evidence, "injected": str(injection.fault.kind)}
    return replace(outcome, failure=replace(outcome.failure, evidence=evidence))
