"""Values too large to be looked into: handed on as they are, fetched only by who needs them whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from agentflow.types import JSONValue


@dataclass(frozen=True, slots=True)
class Large:
    """Stands for a value in blob storage.  Expressions refuse to look into it.

    `text` gives the value's JSON text; it raises `LargeUnavailable` where the storage does not answer.
    """

    key: UUID
    text: Callable[[], str] = field(repr=False, compare=False)


NOTE = "Too large to show here: see the step that gave it."


class LargeUnavailable(Exception):
    """Blob storage does not give the value now."""


def holds_large(value: JSONValue) -> bool:
    if isinstance(value, Large):
        return True
    if isinstance(value, dict):
        return any(holds_large(item) for item in value.values())
    return isinstance(value, list) and any(holds_large(item) for item in value)


def replaced(value: JSONValue, by: Callable[[Large], JSONValue]) -> JSONValue:
    """The value with something else in the place of each large one."""
    if isinstance(value, Large):
        return by(value)
    if isinstance(value, dict):
        return {key: replaced(item, by) for key, item in value.items()}
    return [replaced(item, by) for item in value] if isinstance(value, list) else value


def noted(value: JSONValue) -> JSONValue:
    """The value as it may be shown: a note in the place of each large one, which tells it from others.

    Equal values have one key for as long as a row refers to one of them.
    """
    return replaced(value, lambda large: too_large(f"fingerprint {large.key.hex}"))


def too_large(about: str) -> str:
    return f"Too large to show here ({about}): see the step that gave it."
