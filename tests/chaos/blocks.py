"""What the rig's templates are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Block = dict[str, Any]

QUICK_RETRY = {"maxRetries": 6, "backoffStrategy": "fixed", "initialDelay": 100, "jitter": False}


@dataclass(frozen=True)
class Case:
    """A template, what share of the executions run it, and what a client does to such a run."""

    name: str
    blocks: list[Block]
    weight: int = 0
    script: str = ""  # a method of `people.Scripts`
    alone: bool = False  # one such start, with its script, at a time
    settings: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)

    @property
    def definition(self) -> dict[str, Any]:
        settings = {"globalSettings": self.settings} if self.settings else {}
        return {"name": f"Chaos: {self.name}", "blocks": self.blocks, **settings}


def echo(block_id: str, *after: str, **fields: Any) -> Block:
    return {"blockId": block_id, "agentId": "builtin.echo", "dependencies": list(after), **fields}


def named(block_id: str, agent_id: str, *after: str, **fields: Any) -> Block:
    """A call of a registered agent."""
    block = {"blockId": block_id, "agentId": agent_id, "dependencies": list(after), "effect": "keyed"}
    return {**block, "retryPolicy": QUICK_RETRY, **fields}


class Calls:
    """Blocks that call the rig's agents; `url` is the address of one."""

    def __init__(self, url: Callable[[str], str]) -> None:
        self._url = url

    def call(
        self, block_id: str, *after: str, path: str = "/keyed", effect: str = "keyed", **more: Any
    ) -> Block:
        return {
            "blockId": block_id,
            "toolType": "API",
            "configuration": self.to(path),
            "dependencies": list(after),
            "effect": effect,
            "retryPolicy": QUICK_RETRY,
            **more,
        }

    def to(self, path: str) -> dict[str, Any]:
        """How an agent at this path is called."""
        return {"url": self._url(path), "method": "POST"}

    def booked(self, block_id: str, *after: str, path: str = "/keyed") -> Block:
        """A call that another one undoes."""
        undo = {"toolType": "API", "configuration": self.to(path)}
        return self.call(
            block_id, *after, compensation={**undo, "effect": "keyed", "retryPolicy": QUICK_RETRY}
        )
