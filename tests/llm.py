"""An OpenAI-compatible server that says what a test has written down for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentflow.types import JSONObject

from .servers import Exchange, HttpServer

PATH = "/v1/chat/completions"
Says = JSONObject | Callable[[Exchange], None]


def completion(text: str | None, **message: Any) -> JSONObject:
    finish = message.pop("finish_reason", "stop")
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "small-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


def wants(*calls: tuple[str, Any], text: str | None = None) -> JSONObject:
    """An answer that asks for tools: `wants(("search", {"q": "x"}))`; a text is sent as it is."""
    return completion(
        text,
        finish_reason="tool_calls",
        tool_calls=[
            {
                "id": f"call-{number}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": given if isinstance(given, str) else json.dumps(given),
                },
            }
            for number, (name, given) in enumerate(calls, 1)
        ],
    )


@dataclass
class ScriptedModel:
    """Answers in the order of its script, which tells by the number of the model's turns so far.

    So it answers the same to whoever asks the same again, and `answered` counts how often it was asked.
    """

    server: HttpServer
    script: list[Says] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.server.on(PATH, self._answer)

    def says(self, *script: Says) -> None:
        self.script[:] = script

    @property
    def asked(self) -> list[JSONObject]:
        return [json.loads(each.body) for each in self.server.seen if each.path == PATH]

    @property
    def keys(self) -> list[str]:
        return [each.headers["idempotency-key"] for each in self.server.seen if each.path == PATH]

    def _answer(self, exchange: Exchange) -> None:
        asked = json.loads(exchange.body)
        turn = sum(message["role"] == "assistant" for message in asked["messages"])
        says = self.script[min(turn, len(self.script) - 1)]
        self.answered[turn] += 1
        if callable(says):
            says(exchange)
        else:
            exchange.json(says)
