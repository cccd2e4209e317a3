"""How a configuration refers to a secret: `${secrets.NAME}`, alone or within a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

from agentflow.types import JSONValue

Path: TypeAlias = tuple[str | int, ...]

NAME_CHARS = 100
NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{NAME_CHARS - 1}}}")
_REFERENCE = re.compile(r"\$\{\s*secrets\s*\.\s*(" + NAME.pattern + r")\s*\}")
_MEANT = re.compile(r"\$\{\s*secrets\b")


def names(value: JSONValue) -> frozenset[str]:
    """Every secret that the texts in a value refer to."""
    return frozenset(name for _, text in _texts(value) for name in _REFERENCE.findall(text))


def places(value: JSONValue) -> Iterator[tuple[Path, bool]]:
    """Where a text or a key refers to secrets, and whether it does so as one should."""
    for path, text in _texts(value, keys=True):
        meant = len(_MEANT.findall(text))
        if meant:
            yield path, meant == len(_REFERENCE.findall(text))


def replaced(value: JSONValue, secret: Callable[[str], str]) -> JSONValue:
    """The value with each reference in its texts, not in its keys, as what `secret` gives for its name."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: secret(match[1]), value) if "${" in value else value
    if isinstance(value, list):
        return [replaced(item, secret) for item in value]
    if isinstance(value, dict):
        return {key: replaced(item, secret) for key, item in value.items()}
    return value


def _texts(value: JSONValue, *, keys: bool = False) -> Iterator[tuple[Path, str]]:
    todo: list[tuple[Path, JSONValue]] = [((), value)]
    while todo:
        path, here = todo.pop()
        if isinstance(here, dict):
            todo.extend(((*path, key), item) for key, item in here.items())
            if keys:
                yield from (((*path, key), key) for key in here if "${" in key)
        elif isinstance(here, list):
            todo.extend(((*path, i), item) for i, item in enumerate(here))
        elif isinstance(here, str) and "${" in here:
            yield path, here
