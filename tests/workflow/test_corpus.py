"""Workflows as their authors published them, converted to templates, are taken without an error."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agentflow.workflow.definition import content_hash, dump
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check

pytestmark = pytest.mark.corpus

ROOT = Path(__file__).resolve().parents[2]
CORPUS = (ROOT / os.environ.get("AGENTFLOW_CORPUS", "../shared/corpus")).resolve()
FILES = sorted(path for path in (CORPUS / "dev").glob("*") if path.suffix != ".md")


@pytest.fixture(scope="module")
def convert() -> Any:
    """The converter that lies beside the files; it is not ours, so nothing is written next to it."""
    spec = importlib.util.spec_from_file_location("corpus_convert", CORPUS / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
    return module


ABSENT = pytest.mark.skip(reason=f"no sample workflows under {CORPUS}: AGENTFLOW_CORPUS names their folder")


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem) for path in FILES] or [pytest.param(CORPUS, marks=ABSENT)]
)
def test_a_published_workflow_has_no_error(path: Path, convert: Any) -> None:
    template, _ = convert.convert_file(str(path))
    body = convert.runnable(template)
    definition = parse(body)
    issues = check(definition)
    assert [issue for issue in issues if issue.severity == "error"] == []
    assert len(definition.blocks) == len(body["blocks"])
    assert content_hash(parse(dump(definition))) == content_hash(definition)
