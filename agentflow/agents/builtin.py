"""Agents that are plain Python functions: `(input, configuration) -> output`.

They are named in `AGENTFLOW_BUILTIN_AGENTS` and go through the same claim, call and settle as all
others.  One that wants more than its arguments is not a builtin: it is a tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..types import JSONObject, JSONValue
from ..workflow.failures import Failure, FailureKind


class BuiltinFailure(Exception):
    """A builtin says what went wrong, instead of crashing."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def echo(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """The input, unchanged; `configuration.output`, where it is given, instead."""
    return configuration.get("output", input)


def noop(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """Nothing: for a block that only holds others together."""
    return None


_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]{1,200}?)\s*\}\}")


def text(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """A text made from `configuration.template`, whose `{{a.b}}` are looked up in the input.

    Answers like an LLM agent (`{"text", "model"}`), so that a workflow can be tried where no model is
    configured; `model` says plainly that none was asked.
    """
    template = configuration.get("template")
    if not isinstance(template, str):
        raise BuiltinFailure(
            Failure(FailureKind.CONFIGURATION, "bad_configuration", "configuration.template must be a text.")
        )

    return {"text": fill(template, input), "model": "builtin.text (no language model)"}


def has_placeholders(template: str) -> bool:
    return _PLACEHOLDER.search(template) is not None


def fill(template: str, value: JSONValue) -> str:
    """The text with every `{{a.b}}` replaced by what the value has there, texts bare and the rest as JSON.

    One pass: what is filled in is not looked through again.
    """

    def one(match: re.Match[str]) -> str:
        found = look_up(value, match[1])
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return _PLACEHOLDER.sub(one, template)


def look_up(value: JSONValue, path: str) -> JSONValue:
    """`order.lines.0.sku` inside a JSON value.

    Raises:
        BuiltinFailure: nothing is there.
    """
    found = value
    for step in path.split("."):
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise BuiltinFailure(
                Failure(FailureKind.CONFIGURATION, "missing_input", f"The input has no {path!r}.")
            )
    return found


def fibonacci(n: int) -> int:
    """By plain recursion: a known amount of work for the processor, not a fast answer."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def fib(input: JSONValue, configuration: JSONObject) -> JSONValue:
    """The benchmark's block: `{"v": (1 + fib(n) + the sum of the inputs' v) mod 1000003}`.

    Each answer depends on all that came before it, so a lost or doubled block shows in the last one.
    """
    n = configuration.get("n", 0)
    if type(n) is not int or not 0 <= n <= 40:
        raise BuiltinFailure(
            Failure(FailureKind.CONFIGURATION, "bad_configuration", "configuration.n must be from 0 to 40.")
        )
    return {"v": (1 + fibonacci(n) + sum(_values(input))) % 1_000_003}


def _values(value: JSONValue) -> Iterator[int]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and type(value.get("v")) is int:
        yield value["v"]
        return
    for item in items:
        yield from _values(item)
