"""What the demo adds, for `local` and `test`.  Production has none of it."""

import sys
from pathlib import Path
from typing import Any

from config import env

from . import base

INSTALLED_APPS = [*base.INSTALLED_APPS, "demo"]
AGENTFLOW_HOME = base.BASE_DIR / Path(env.text("AGENTFLOW_HOME", ".agentflow"))
AGENTFLOW_BASE_URL = base.AGENTFLOW_BASE_URL or "http://127.0.0.1:8000"
_kept_port = AGENTFLOW_HOME / "demo_port"  # of `make run`, for a command beside it
AGENTFLOW_DEMO_PORT = env.integer(
    "AGENTFLOW_DEMO_PORT", int(_kept_port.read_text()) if _kept_port.exists() else 8790
)
AGENTFLOW_MCP_STDIO: dict[str, dict[str, Any]] = {
    **base.AGENTFLOW_MCP_STDIO,
    "refund-policies": {"command": [sys.executable, "-m", "demo.policies"], "cwd": str(base.BASE_DIR)},
}
