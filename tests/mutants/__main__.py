"""`make mutants`: take each guard away in turn, in a copy of the code; some test must fail.

    python -m tests.mutants               all of them
    python -m tests.mutants lease gate    those whose name has one of these words

Exit code 1: a guard survived, or its entry in guards.toml is stale.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .guards import ROOT, Guard, guards

PER_GUARD_S = 300
PASSED, FAILED, UNENDED = 0, 1, -1  # of pytest; others mean that it could not even try
NOT_COPIED = (
    ".git",
    ".venv",
    ".agentflow",
    "test-artifacts",
    "staticfiles",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


def main(words: Sequence[str]) -> int:
    wanted = [guard for guard in guards() if not words or any(word in guard.name for word in words)]
    stale = {guard.name: why for guard in wanted if (why := guard.stale())}
    for name, why in stale.items():
        print(f"STALE     {name}: {why}")
    if stale or not wanted:
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="agentflow-mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        if not _passes_unchanged(copy, wanted):
            return 1
        survivors = [guard.name for guard in wanted if not _is_missed(guard, copy)]
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} guards are missed when taken away", end="")
    print(f", {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


def _passes_unchanged(copy: Path, wanted: list[Guard]) -> bool:
    """A test that fails anyway would prove nothing."""
    tests = sorted({test for guard in wanted for test in guard.tests})
    code, told = _pytest(copy, tests, 10 * PER_GUARD_S)
    if code != PASSED:
        print(f"With all guards in place the tests do not pass:\n{told}")
    return code == PASSED


def _is_missed(guard: Guard, copy: Path) -> bool:
    before = guard.remove(copy)
    began = time.monotonic()
    try:
        code, told = _pytest(copy, guard.tests, PER_GUARD_S)
    finally:
        (copy / guard.file).write_text(before)
    if code == FAILED:
        test = next(
            (line.split(" - ")[0] for line in told.splitlines() if line.startswith("FAILED")), "a test"
        )
        print(
            f"missed    {guard.name}  ({test.removeprefix('FAILED ')}, {time.monotonic() - began:.0f} s)",
            flush=True,
        )
        return True
    print(
        f"{'SURVIVED' if code == PASSED else 'UNTRIED '}  {guard.name}\n{'' if code == PASSED else told}",
        flush=True,
    )
    return False


def _pytest(copy: Path, tests: Sequence[str], timeout_s: float) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", *tests]
    try:
        ran = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:  # a test that hangs is failed by pytest before
        return UNENDED, f"no end within {timeout_s:.0f} s"
    return ran.returncode, ran.stdout[-3000:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
