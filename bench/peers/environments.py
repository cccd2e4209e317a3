"""A virtual environment for each peer, made once and kept under a cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = "AGENTFLOW_BENCH_CACHE"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which holds exactly what `PEER.txt` pins."""
    lock = (HERE / f"{peer}.txt").read_text()
    folder = _cache() / f"{peer}-{sys.version_info.major}.{sys.version_info.minor}"
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != lock:
        print(f"Making the environment of {peer} in {folder} (once)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "-r", str(HERE / f"{peer}.txt")], check=True)
        installed.write_text(lock)
    return python


def _cache() -> Path:
    named = os.environ.get(CACHE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "agentflow-bench"
