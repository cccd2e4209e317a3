"""How long a client waits from `POST /api/v1/executions` until the first block starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .workloads import chain

STARTS = 30


def start_to_first_block(ours: Any, folder: Path) -> list[float]:
    """Milliseconds between the request and the first block's `startedAt`, on an idle system."""
    from executions.models import BlockExecution

    version = ours.prepare("start", chain(3, 0))
    ours.user.set_password("only-for-this-benchmark")
    ours.user.save()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "web.log"
    with log.open("wb") as out:
        web = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "config.asgi:application", "--port", str(port)],
            stdout=out,
            stderr=out,
            env={**os.environ, "AGENTFLOW_DATABASE_POOL": "10"},
        )
    base = f"http://127.0.0.1:{port}"
    found: list[float] = []
    try:
        _await(base, web, log)
        credentials = {"username": "bench", "password": "only-for-this-benchmark"}
        token = _post(f"{base}/api/v1/auth/token", credentials)["access"]
        body = {"templateId": str(version.template_id), "workspaceId": str(ours.workspace.pk)}
        for number in range(STARTS + 3):
            began = time.time()
            started = _post(f"{base}/api/v1/executions", body, token)
            first = BlockExecution.objects.filter(execution_id=started["executionId"], idx=0)
            until = time.monotonic() + 10
            while (at := first.values_list("started_at", flat=True).get()) is None:
                if time.monotonic() > until:
                    raise TimeoutError("the first block never started")
                time.sleep(0.005)
            if number >= 3:
                found.append(round((at.timestamp() - began) * 1000, 2))
            time.sleep(0.1)
    finally:
        web.terminate()
        web.wait(10)
    return found


def _await(base: str, web: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while web.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{base}/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"the web server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _post(url: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found
