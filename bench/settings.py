"""`make run`'s settings and the benchmark's block."""

import sys

from config.settings.local import *  # noqa: F403
from config.settings.local import AGENTFLOW_BUILTIN_AGENTS as _agents

AGENTFLOW_BUILTIN_AGENTS = {
    **_agents,
    # No word on speed: `n` decides whether this takes a microsecond or a second.
    "bench.block": {"function": "bench.blocks.agent", "effect": "pure"},
}

AGENTFLOW_MCP_STDIO = {"echo": {"command": [sys.executable, "-m", "bench.echo_mcp"]}}
