"""What the rig's corpus goes through, and why the rest is left out.

Compared with the code by tests/chaos/test_corpus.py: what is added to the engine is added to the corpus, or
its absence gets a reason.
"""

from __future__ import annotations

# What the cases above go through.
EXERCISED: dict[str, set[str]] = {
    "tool kinds": {"API", "UseCase", "LLM", "MCP", "Script"},
    "approval kinds": {"approval", "input", "review", "edit", "fix", "tool", "budget"},
    "recovery strategies": {"retry", "reassign", "queue", "restart", "ask", "compensate", "fail"},
    "steps of models": {"begun", "asked", "done", "failed", "unknown"},
    "execution statuses": {"pending", "running", "paused", "cancelling", "completed", "failed", "cancelled"},
    "block statuses": {
        "blocked",
        "ready",
        "running",
        "waiting_human",
        "waiting_external",
        "completed",
        "failed",
        "skipped",
        "cancelled",
    },
    "block fields": {
        "agent_id", "block_id", "budget", "checkpoint", "compensation", "concurrency", "conditions",
        "configuration", "dependencies", "effect", "end", "for_each", "human_in_loop", "join", "on_error",
        "recovery", "repeat", "retry_policy", "run_on", "timeout", "tool_type", "wait",
    },
}  # fmt: skip

EXERCISED["block changes"] = {
    f"{before} -> {after}"
    for before, nexts in {
        "blocked": "ready running waiting_human waiting_external skipped cancelled",
        "ready": "running",
        "running": "ready waiting_human waiting_external completed failed cancelled",
        "waiting_human": "ready waiting_external completed skipped failed cancelled",
        "waiting_external": "ready waiting_external waiting_human completed failed skipped cancelled",
    }.items()
    for after in nexts.split()
}

LEFT_OUT: dict[str, dict[str, str]] = {
    "tool kinds": {},
    "approval kinds": {},
    "recovery strategies": {},
    "steps of models": {},
    "execution statuses": {},
    "block statuses": {},
    "block changes": {
        "blocked -> completed": "no work: settled in the transaction that opens it",
        "blocked -> failed": "no work: settled in the transaction that opens it",
        "ready -> completed": "by hand, before a worker takes it: tests/executions/test_repairs.py",
        "ready -> skipped": "by hand, before a worker takes it: tests/executions/test_repairs.py",
        "ready -> cancelled": "a cancel before a worker takes it: tests/executions/test_races.py",
        "waiting_human -> waiting_human": "an answer that leads nowhere: tests/executions/test_failures.py",
    },
    "block fields": {
        "name": "for people",
        "description": "for people",
        "agent_type": "a way to choose an agent, which is over before anything can fail",
        "capabilities": "a way to choose an agent, which is over before anything can fail",
        "input": "pure, computed from settled outputs",
        "when": "pure; a skipped branch is there",
        "agent_patience": "a timer of the execution, as `wait`; tests/executions/test_agent_patience.py",
        "on_unknown_outcome": "`fail` is the shorter way of what `once` asks",
        "priority": "an order among ready blocks, not a state",
    },
}
