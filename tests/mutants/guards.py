"""The list of guards, and whether it still fits the code."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Guard:
    name: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]

    def stale(self, root: Path = ROOT) -> str:
        """Why the entry no longer fits the code; empty if it does."""
        try:
            found = (root / self.file).read_text().count(self.text)
        except OSError:
            return f"{self.file} is not there"
        if found != 1:
            return f"its text stands {found} times in {self.file}, not once"
        for test in self.tests:
            path, _, name = test.partition("::")
            if not (root / path).exists():
                return f"{path} is not there"
            if name and f"def {name}(" not in (root / path).read_text():
                return f"{path} has no {name}"
        return "" if self.text != self.without else "it changes nothing"

    def remove(self, root: Path) -> str:
        """Take the guard out of a copy of the code; gives what the file was."""
        path = root / self.file
        before = path.read_text()
        path.write_text(before.replace(self.text, self.without))
        return before


def guards() -> list[Guard]:
    entries = tomllib.loads(Path(__file__).with_name("guards.toml").read_text())["guard"]
    return [Guard(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
