"""What tools share whose other side works on its own and is asked how far it is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from ...integrations import http, http_failures, waiting
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from .. import registry
from ..builtin import BuiltinFailure
from ..calls import Call, Outcome

FIRST_LOOK_S = 0.1
BETWEEN_LOOKS_S = 2.0  # at most
STOP_S = 3.0  # to tell the other side that nobody waits any more


class Remote:
    """One call's conversation with one server."""

    def __init__(self, call: Call, configuration: JSONObject) -> None:
        headers = configuration.get("headers") or {}
        if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
            raise bad("configuration.headers must be an object of texts.")
        self.call = call
        self.headers = {str(name).lower(): text for name, text in headers.items()}
        self.policy = EgressPolicy(registry.egress_allowed(call.workspace_id))
        self.ends_at = time.monotonic() + call.timeout_s
        self._woken = threading.Event()
        call.cancel.on_cancel(self._woken.set)

    def remaining_s(self) -> float:
        return self.ends_at - time.monotonic()

    def ask(
        self,
        method: str,
        url: str,
        body: JSONValue = None,
        *,
        more: dict[str, str] | None = None,
        stopping: bool = False,
    ) -> JSONValue:
        """Send JSON, get JSON; None for an empty answer.

        Raises:
            EgressError: no whole answer, a bad status, or no JSON.
        """
        left_s = STOP_S if stopping else self.remaining_s()
        if left_s <= 0:
            raise http_failures.TimedOut(self.call.timeout_s, sent=True)
        headers = {"accept": "application/json", **self.headers, **(more or {})}
        content = None
        if method == "POST":
            headers["content-type"] = "application/json"
            content = json.dumps(body, ensure_ascii=False).encode()
        response = http.client(self.policy).request(
            method,
            url,
            headers=headers,
            content=content,
            timeout_s=left_s,
            on_cancel=None if stopping else self.call.cancel.on_cancel,
        )
        http_failures.check_status(response.status, response.headers, method=method, body=response.body)
        if not response.body:
            return None
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError) as error:
            raise http_failures.BadResponse(f"The answer is no JSON: {str(error)[:200]}") from None

    def until(self, look: Callable[[], Outcome | None], stop: Callable[[], object]) -> Outcome:
        """What `look` gives at last; `stop` tells the other side when nobody waits for it any more.

        A look that fails for a moment is tried again: the work goes on meanwhile.

        Raises:
            EgressError: the deadline passed, the call was cancelled, or a look failed for good.
        """
        failure: EgressError = http_failures.TimedOut(self.call.timeout_s, sent=True)
        for _ in self._looks():
            try:
                found = look()
            except EgressError as error:
                if self.call.cancel.cancelled or self.remaining_s() <= 0:
                    break
                if error.failure.kind is not FailureKind.TRANSIENT:
                    raise
                continue
            if found is not None:
                return found
        with suppress(EgressError):
            stop()
        if self.call.cancel.cancelled:
            failure = http_failures.CallCancelled(sent=True)
        raise failure

    def _looks(self) -> Iterator[None]:
        wait_s = FIRST_LOOK_S
        while self.remaining_s() > 0:
            with waiting.outside():
                stopped = self._woken.wait(min(wait_s, max(self.remaining_s(), 0.0)))
            if stopped:
                return
            yield
            wait_s = min(wait_s * 1.5, BETWEEN_LOOKS_S)


def bad(message: str) -> BuiltinFailure:
    return BuiltinFailure(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))


def failed(code: str, message: str, *, unknown: bool = False) -> Failure:
    """The other side says that it did not work out."""
    return Failure(FailureKind.AGENT, code, message[:1000], outcome_unknown=unknown)
