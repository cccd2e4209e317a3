"""A WebSocket client that talks to an ASGI application in this process.

The one of channels needs daphne, which the product does not use.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from asgiref.testing import ApplicationCommunicator

from tests.waiting import PATIENCE_S


class Socket(ApplicationCommunicator):
    def __init__(
        self, application: Any, address: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        parts = urlsplit(address)
        scope = {
            "type": "websocket",
            "path": parts.path,
            "query_string": parts.query.encode("latin1"),
            "headers": headers or [],
            "subprotocols": [],
        }
        super().__init__(application, scope)  # type: ignore[no-untyped-call]  # asgiref's is untyped

    async def connect(self) -> bool:
        """Whether the server accepted."""
        await self.send_input({"type": "websocket.connect"})
        answer = await self.receive_output(PATIENCE_S)
        return bool(answer["type"] == "websocket.accept")

    async def send_text(self, text: str) -> None:
        await self.send_input({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        await self.send_input({"type": "websocket.receive", "bytes": data})

    async def receive_json(self) -> Any:
        message = await self.receive_output(PATIENCE_S)
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def close_code(self) -> int:
        """The code the server closes with; what it sends before is passed over."""
        while True:
            message = await self.receive_output(PATIENCE_S)
            if message["type"] == "websocket.close":
                return int(message["code"])

    async def leave(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        # A refused socket's listening on Valkey ends only with its blocking read, seconds later.
        await self.wait(0.5)
