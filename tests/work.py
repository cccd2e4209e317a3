"""How much is done, counted instead of timed: the same on every machine, and under any load."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any
from unittest import mock

import psycopg


def calls(done: Callable[[], Any]) -> int:
    """How many functions `done` calls in this thread, Python's and C's, with those they call."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    _watched(done, note)
    return count


def functions(done: Callable[[], Any]) -> set[tuple[str, str]]:
    """Which functions `done` calls in this thread, each with its module."""
    found: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found.add((str(frame.f_globals.get("__name__", "")), frame.f_code.co_name))

    _watched(done, note)
    return found


def times(done: Callable[[], Any], *names: str) -> dict[str, int]:
    """How often functions of these names are called by `done` in this thread."""
    found = dict.fromkeys(names, 0)

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name in found:
            found[frame.f_code.co_name] += 1

    _watched(done, note)
    return found


def statements(done: Callable[[], Any]) -> tuple[list[str], int]:
    """What `done` asks PostgreSQL in this process, and how often it commits a transaction of several."""
    asked: list[str] = []
    commits = 0
    execute, commit = psycopg.Cursor.execute, psycopg.Connection.commit

    def note(cursor: Any, query: Any, *args: Any, **more: Any) -> Any:
        asked.append(" ".join(str(query).split()))
        return execute(cursor, query, *args, **more)

    def note_commit(connection: Any) -> None:
        nonlocal commits
        commits += 1
        commit(connection)

    with (
        mock.patch.object(psycopg.Cursor, "execute", note),
        mock.patch.object(psycopg.Connection, "commit", note_commit),
    ):
        done()
    return asked, commits


def _watched(done: Callable[[], Any], note: Callable[[FrameType, str, Any], None]) -> None:
    before = sys.getprofile()
    gc.disable()  # what is collected meanwhile is not its work
    sys.setprofile(note)
    try:
        done()
    finally:
        sys.setprofile(before)
        gc.enable()
