"""What the demo adds, for `local` and `test`.  Production has none of it."""

import sys
from pathlib import Path
from typing import Any

from config import env

from . import base

INSTALLED_APPS = [*base.INSTALLED_APPS, "demo"]
AGENTFLOW_HOME = base.BASE_DIR / Path(env.text("AGENTFLOW_HOME", ".agentflow"))
AGENTFLOW_BASE_URL = env.text("AGENTFLOW_BASE_URL", "http://127.0.0.1:8000")
AGENTFLOW_DEMO_PORT = env.integer("AGENTFLOW_DEMO_PORT", 8790)
AGENTFLOW_MCP_STDIO: dict[str, dict[str, Any]] = {
    **base.AGENTFLOW_MCP_STDIO,
    "refund-policies": {"command": [sys.executable, "-m", "demo.policies"], "cwd": str(base.BASE_DIR)},
}
