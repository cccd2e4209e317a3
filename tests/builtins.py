"""Agents of the tests: plain functions, registered by the tests that call them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from agentflow.agents.builtin import BuiltinFailure
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.failures import Failure, FailureKind
from tests.waiting import PATIENCE_S

calls: list[Any] = []
on_call: dict[str, Callable[[], Any]] = {}  # what `record` does first, by its configured name
gate = threading.Event()  # `hold` waits for it
arrived = threading.Semaphore(0)  # `hold` says that it was called


def record(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Remembers that it was called."""
    calls.append(configuration.get("name"))
    on_call.get(str(configuration.get("name")), lambda: None)()
    return {"calls": len(calls)}


def hold(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Answers when the test opens the gate."""
    arrived.release()
    if not gate.wait(PATIENCE_S):
        raise TimeoutError("the test never opened the gate")
    return {"held": True}


def unsure(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Does its work, and then nobody hears of it."""
    calls.append("unsure")
    failure = Failure(FailureKind.TRANSIENT, "connection_lost", "No answer came.", outcome_unknown=True)
    raise BuiltinFailure(failure)


def nan(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Does its work, and answers what cannot be stored."""
    calls.append("nan")
    return float("nan")


def crash(input: JSONValue, configuration: JSONObject) -> JSONValue:
    raise RuntimeError("a bug in the agent")


def odd(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Takes odd numbers only."""
    if input["n"] % 2:
        return {"odd": input["n"]}
    raise BuiltinFailure(Failure(FailureKind.TRANSIENT, "even", "That is an even number."))


def absent(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Takes odd numbers only, and says which it did not take."""
    if input["n"] % 2:
        return {"odd": input["n"]}
    message = f"Order {input['n']} of 10.0.0.{input['n']}:80 is not there."
    raise BuiltinFailure(Failure(FailureKind.TRANSIENT, "absent", message))


def count(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """One more than the round before."""
    return {"n": (input["before"] or {"n": 0})["n"] + 1, "round": input["round"]}


def big(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Just within what one output may have."""
    return "x" * 250_000


given: dict[str, list[JSONValue]] = {}  # what `give` gives, by name, one after the other; the last again


def give(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """What the test has laid down under `configuration.name`."""
    values = given[configuration["name"]]
    return values.pop(0) if len(values) > 1 else values[0]


AGENTS = {
    "test.give": {"function": "tests.builtins.give", "effect": "pure"},
    "test.big": {"function": "tests.builtins.big", "effect": "pure"},
    "test.odd": {"function": "tests.builtins.odd", "effect": "pure"},
    "test.absent": {"function": "tests.builtins.absent", "effect": "pure"},
    "test.count": {"function": "tests.builtins.count", "effect": "pure"},
    "test.record": {"function": "tests.builtins.record", "effect": "pure"},
    "test.once": {"function": "tests.builtins.record", "effect": "once"},
    "test.hold": {"function": "tests.builtins.hold", "effect": "pure"},
    "test.unsure": {"function": "tests.builtins.unsure", "effect": "keyed"},
    "test.nan": {"function": "tests.builtins.nan", "effect": "pure"},
    "test.crash": {"function": "tests.builtins.crash", "effect": "pure"},
}
