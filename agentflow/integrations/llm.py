"""Asks a language model behind any OpenAI-compatible address, through the egress transport."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings

from ..types import JSONObject
from ..workflow.classification import of_model
from ..workflow.failures import FailureKind
from . import http, http_failures, http_watch
from .egress import EgressError, EgressPolicy

if TYPE_CHECKING:
    import openai

TELL_S = 0.1  # a text that grows is told so often at most,
TOLD_CHARS = 4000  # and of it what was written last
DIMENSIONS = 8192  # of an embedding
MOST_COST = 1e9  # of one answer: a provider that says more is not believed


@dataclass(frozen=True, slots=True)
class Question:
    """One request for a completion."""

    model: str
    messages: list[JSONObject]
    options: JSONObject = field(default_factory=dict)  # as the OpenAI API spells them
    schema: JSONObject | None = None  # of the answer, when it must be JSON
    tools: list[JSONObject] = field(default_factory=list)  # as the OpenAI API spells them


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that the model asks for.  `arguments` is its own text, which may be no JSON at all."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    model: str
    finish_reason: str  # stop | length | content_filter | ...
    refusal: str
    usage: JSONObject
    wanted: tuple[Wanted, ...] = ()


def ask(
    question: Question,
    *,
    base_url: str,
    api_key: str,
    policy: EgressPolicy,
    timeout_s: float,
    idempotency_key: str,
    on_cancel: http_watch.OnCancel | None = None,
    on_text: Callable[[str], object] | None = None,
) -> Answer:
    """Ask once; repeating is the engine's business.  With `on_text` the text so far is told now and then.

    Raises:
        EgressError: no answer came, or one that cannot be understood.
    """
    import openai

    asked: JSONObject = {**question.options, "model": question.model, "messages": question.messages}
    if question.schema is not None:
        asked["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": question.schema},
        }
    if question.tools:
        asked["tools"] = question.tools
    headers = {"Idempotency-Key": idempotency_key}
    with http_watch.watched(timeout_s=timeout_s, on_cancel=on_cancel) as watch:
        completions = _client(base_url, api_key, policy).chat.completions
        try:
            if on_text is not None:
                asked |= {"stream": True, "stream_options": {"include_usage": True}}
                with completions.with_streaming_response.create(**asked, extra_headers=headers) as stream:
                    return _answer(_assembled(stream.iter_lines(), on_text))
            raw = completions.with_raw_response.create(**asked, extra_headers=headers)
        except openai.APIStatusError as error:
            raise _status(error) from error
        except openai.OpenAIError as error:
            raise http_watch.translated(error, watch) from error
        return _answer(raw.http_response.content)


def installation() -> tuple[str, str, EgressPolicy]:
    """The address that the installation names, empty if none, its key, and what may be reached: only that."""
    base_url = settings.AGENTFLOW_LLM_BASE_URL
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return base_url, settings.AGENTFLOW_LLM_API_KEY, EgressPolicy((f"{host}:{port}",) if base_url else ())


def embed(
    texts: Sequence[str], *, model: str, base_url: str, api_key: str, policy: EgressPolicy, timeout_s: float
) -> list[list[float]]:
    """A vector for each text, in their order.

    Raises:
        EgressError: no answer came, or one that is not so many vectors of one length.
    """
    import openai

    with http_watch.watched(timeout_s=timeout_s, on_cancel=None) as watch:
        embeddings = _client(base_url, api_key, policy).embeddings
        try:
            raw = embeddings.with_raw_response.create(model=model, input=list(texts), encoding_format="float")
        except openai.APIStatusError as error:
            raise _status(error) from error
        except openai.OpenAIError as error:
            raise http_watch.translated(error, watch) from error
    try:
        rows = sorted(json.loads(raw.http_response.content)["data"], key=lambda row: int(row["index"]))
        vectors = [[float(number) for number in row["embedding"]] for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unusable(f"{type(error).__name__}: {error}"[:200]) from error
    lengths = {len(vector) for vector in vectors}
    numbers = all(map(math.isfinite, (number for vector in vectors for number in vector)))
    if len(vectors) != len(texts) or len(lengths) != 1 or not 0 < max(lengths) <= DIMENSIONS or not numbers:
        raise _unusable("these are not the vectors of the texts")
    return vectors


@functools.lru_cache(maxsize=64)
def _client(base_url: str, api_key: str, policy: EgressPolicy) -> openai.OpenAI:
    import openai

    return openai.OpenAI(
        base_url=base_url,
        api_key=api_key or "none",  # a local server wants none, the library wants one
        organization="",  # else both are taken from the environment
        project="",
        max_retries=0,
        timeout=None,
        http_client=http.client(policy).raw,
    )


def _status(error: openai.APIStatusError) -> EgressError:
    told: Any = error.body if isinstance(error.body, dict) else {}
    code = str(told.get("code") or told.get("type") or "")
    said = str(told.get("message") or error.message)[:300]
    evidence: JSONObject = {"status": error.status_code, "code": code}
    sort = of_model(code, said)
    if sort is not None:
        ours, kind = sort
        return EgressError(kind, ours, said, evidence=evidence)
    try:
        http_failures.check_status(
            error.status_code, error.response.headers, method="POST", body=said.encode("utf-8", "replace")
        )
    except EgressError as failed:
        if error.status_code == 429:
            failed.failure = replace(failed.failure, code="llm_rate_limited")
        return failed
    return _unusable(said)


def _assembled(lines: Iterable[str], on_text: Callable[[str], object]) -> bytes:
    """The answer that a stream of events amounts to; a server that does not stream answers with it whole."""
    text: list[str] = []
    calls: dict[int, JSONObject] = {}
    message: JSONObject = {}
    choice: JSONObject = {"message": message}
    told: JSONObject = {"choices": [choice]}
    plain: list[str] = []
    due = 0.0  # when the text so far may be told again
    for line in lines:
        if not line.startswith("data:"):
            plain.append(line)
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        try:
            event = json.loads(data)
            told |= {name: event[name] for name in ("model", "usage") if event.get(name)}
            for part in event.get("choices") or ():
                choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
                delta = part.get("delta") or {}
                if delta.get("refusal"):
                    message["refusal"] = message.get("refusal", "") + str(delta["refusal"])
                for call in delta.get("tool_calls") or ():
                    _add(calls, call)
                if delta.get("content"):
                    text.append(str(delta["content"]))
                    if time.monotonic() >= due:
                        due = time.monotonic() + TELL_S
                        on_text("".join(text)[-TOLD_CHARS:])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _unusable(f"{type(error).__name__}: {error}"[:200]) from error
    if not text and not calls and not choice.keys() - {"message"}:
        return "\n".join(plain).encode()
    if choice.get("finish_reason") is None:
        raise _unusable("the stream broke off")
    message["content"] = "".join(text)
    message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return json.dumps(told).encode()


def _add(calls: dict[int, JSONObject], part: JSONObject) -> None:
    """A piece of a call: its name comes first, its arguments bit by bit."""
    call = calls.setdefault(
        int(part.get("index") or 0), {"id": "", "function": {"name": "", "arguments": ""}}
    )
    call["id"] = call["id"] or str(part.get("id") or "")
    for name in ("name", "arguments"):
        call["function"][name] += str((part.get("function") or {}).get(name) or "")


def _answer(body: bytes) -> Answer:
    """Read the reply ourselves: the library accepts any shape and fails later, on some attribute."""
    try:
        told = json.loads(body)
        choice = told["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if not isinstance(text, str | None):
            raise TypeError("content is no text")
        return Answer(
            text=text or "",
            model=str(told.get("model") or ""),
            finish_reason=str(choice.get("finish_reason") or ""),
            refusal=str(message.get("refusal") or ""),
            usage=_usage(told.get("usage")),
            wanted=tuple(map(_wanted, message.get("tool_calls") or ())),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(f"{type(error).__name__}: {error}"[:200]) from error


def _wanted(told: Any) -> Wanted:
    function = told["function"]
    given = function.get("arguments")
    arguments = given if isinstance(given, str) else json.dumps(given or {})
    return Wanted(str(told.get("id") or ""), str(function["name"]), arguments)


def _usage(told: Any) -> JSONObject:
    given = told if isinstance(told, dict) else {}
    names = {
        "prompt_tokens": "inputTokens",
        "completion_tokens": "outputTokens",
        "total_tokens": "totalTokens",
    }
    used: JSONObject = {
        ours: given[theirs] for theirs, ours in names.items() if type(given.get(theirs)) is int
    }
    cost: Any = given.get("cost")
    if type(cost) in (int, float) and 0 <= cost < MOST_COST:
        used["cost"] = cost
    return used


def _unusable(said: str) -> EgressError:
    return EgressError(
        FailureKind.AGENT,
        "llm_bad_response",
        f"The model's server did not answer with a completion: {said}",
        outcome_unknown=True,
    )
