"""Workflows that other people published: a folder named by AGENTFLOW_CORPUS, never part of this project.

Beside the files lie `convert.py`, which makes templates of them, and `facts.json`, which says what
must come out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = (ROOT / os.environ.get("AGENTFLOW_CORPUS", "../shared/corpus")).resolve()
FILES = sorted(path for path in (CORPUS / "dev").glob("*") if path.suffix != ".md")
ABSENT = pytest.mark.skip(reason=f"no sample workflows under {CORPUS}: AGENTFLOW_CORPUS names their folder")


def every_file() -> list[Any]:
    """One parameter per file; a single skipped one where there are none."""
    found = [pytest.param(path, id=path.stem) for path in FILES]
    return found or [pytest.param(CORPUS, id="absent", marks=ABSENT)]


def path_of(stem: str) -> Path:
    """The file of that name; skips the test where it is absent."""
    for path in FILES:
        if path.stem == stem:
            return path
    pytest.skip(f"no {stem} under {CORPUS}: AGENTFLOW_CORPUS names its folder")


@dataclass(frozen=True)
class Workflow:
    """One file as a template, with its facts."""

    template: dict[str, Any]
    facts: dict[str, Any]

    @property
    def blocks(self) -> dict[str, dict[str, Any]]:
        return {block["blockId"]: block for block in self.template["blocks"]}

    @property
    def synthetic(self) -> set[str]:
        """Blocks that the conversion had to add."""
        return {name for name, block in self.blocks.items() if block["configuration"].get("synthetic")}


class Corpus:
    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("corpus_convert", folder / "convert.py")
        assert spec is not None
        assert spec.loader is not None
        self._convert: Any = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "dont_write_bytecode", True)  # the folder is not ours
            spec.loader.exec_module(self._convert)
        self._facts = json.loads((folder / "facts.json").read_text())["files"]

    def workflow(self, path: Path) -> Workflow:
        template, _ = self._convert.convert_file(str(path))
        return Workflow(self._convert.runnable(template), self._facts[path.stem])


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    if not FILES:
        pytest.skip(f"no sample workflows under {CORPUS}: AGENTFLOW_CORPUS names their folder")
    return Corpus(CORPUS)
