"""The list of guards fits the code; that each is missed is shown by `make mutants`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .guards import Guard, guards


@pytest.mark.parametrize("guard", guards(), ids=lambda guard: guard.name)
def test_a_guard_of_the_list_is_in_the_code(guard: Guard) -> None:
    assert guard.stale() == ""


def test_guards_have_names_of_their_own() -> None:
    assert [name for name, n in Counter(guard.name for guard in guards()).items() if n > 1] == []


def test_a_stale_entry_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("if x:\nif x:\nif y:\n")
    (tmp_path / "test_a.py").write_text("def test_y() -> None: ...\n")
    twice = Guard("twice", "a.py", "if x", "", ("test_a.py",))
    once = Guard("once", "a.py", "if y", "if z", ("test_a.py::test_y",))
    lost = Guard("lost", "a.py", "if y", "if z", ("test_a.py::test_z",))
    assert "2 times" in twice.stale(tmp_path)
    assert "no test_z" in lost.stale(tmp_path)
    assert once.stale(tmp_path) == ""
    assert once.remove(tmp_path) == "if x:\nif x:\nif y:\n"
    assert (tmp_path / "a.py").read_text() == "if x:\nif x:\nif z:\n"
