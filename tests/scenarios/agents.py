"""Agents of the scenarios: addresses of a small server of the test, called by API blocks."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from tests.servers import Exchange, HttpServer


def echo(block_id: str, *dependencies: str, **fields: Any) -> dict[str, Any]:
    """A block that is done at once."""
    return {"blockId": block_id, "agentId": "builtin.echo", "dependencies": list(dependencies), **fields}


def calling(
    server: HttpServer, block_id: str, *dependencies: str, path: str = "/", **fields: Any
) -> dict[str, Any]:
    """A block that asks the server; `effect` and the rest go as they are."""
    return {
        "blockId": block_id,
        "toolType": "API",
        "configuration": {"url": server.url(path), "method": fields.pop("method", "GET")},
        "dependencies": list(dependencies),
        **fields,
    }


def template(*blocks: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "name": "A scenario",
        "blocks": list(blocks),
        **({"globalSettings": settings} if settings else {}),
    }


class Held:
    """Answers when the test lets it.  Counts its calls by idempotency key, which names the block."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.calls[exchange.headers["idempotency-key"]] += 1
        self._open.wait(100)
        exchange.json({"answered": True})

    def release(self) -> None:
        self._open.set()

    def count(self, block_id: str = "") -> int:
        """Calls made for a block, or for all."""
        with self._lock:
            found = [n for key, n in self.calls.items() if not block_id or key.split(":")[1] == block_id]
        return sum(found)
