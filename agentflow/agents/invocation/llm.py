"""LLM: one completion.  What the model says is data; nothing in it is ever followed."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import urlsplit

from django.conf import settings

from ...integrations import llm
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from .. import registry, usage
from ..builtin import BuiltinFailure, fill, has_placeholders
from ..calls import Call, Completed, Failed, Outcome
from ..output import BadOutput, check_schema
from ..registry import NOT_SAID, AgentSpec

_OPTIONS = {
    "temperature": "temperature",
    "topP": "top_p",
    "maxTokens": "max_tokens",
    "maxCompletionTokens": "max_completion_tokens",
    "seed": "seed",
    "stop": "stop",
}


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """Ask the model and answer `{"text", "model", "finishReason", "usage", "data"?}`.

    `configuration {"model", "system", "prompt": "Answer {{customer.name}}", "responseSchema", "baseUrl",
    "apiKey", "temperature", "maxTokens", ...}`.  A prompt without `{{names}}` is followed by the input.
    """
    configuration = registry.merged_configuration(spec, call.configuration)
    base_url, api_key, policy = _endpoint(call, configuration)
    model = configuration.get("model") or settings.AGENTFLOW_LLM_MODEL
    if not isinstance(model, str) or not model:
        raise _bad("configuration.model must name a model (or AGENTFLOW_LLM_MODEL).")
    schema = configuration.get("responseSchema")
    if schema is not None and not isinstance(schema, dict):
        raise _bad("configuration.responseSchema must be a JSON Schema.")
    question = llm.Question(
        model=model,
        messages=_messages(configuration, call.input),
        options={theirs: configuration[ours] for ours, theirs in _OPTIONS.items() if ours in configuration},
        schema=schema,
    )
    try:
        answer = llm.ask(
            question,
            base_url=base_url,
            api_key=api_key,
            policy=policy,
            timeout_s=call.timeout_s,
            idempotency_key=call.idempotency_key,
            on_cancel=call.cancel.on_cancel,
        )
    except EgressError as error:
        return Failed(error.failure)
    call.log("debug", f"{answer.model or model}: {json.dumps(answer.usage)}")
    used = usage.of_model(answer.usage, spec.cost if spec else NOT_SAID, model=answer.model or model)
    try:
        return replace(_read(answer, model, schema), usage=used)
    except BadOutput as error:
        return Failed(error.failure, used)


def _read(answer: llm.Answer, model: str, schema: JSONObject | None) -> Completed | Failed:
    if answer.refusal or answer.finish_reason == "content_filter":
        return _failed("llm_refused", f"The model refused: {answer.refusal[:300] or 'content filter'}")
    output: JSONObject = {
        "text": answer.text,
        "model": answer.model or model,
        "finishReason": answer.finish_reason,
        "usage": answer.usage,
    }
    if schema is not None:
        return _structured(output, answer, schema)
    return Completed(output)


def _structured(output: JSONObject, answer: llm.Answer, schema: JSONObject) -> Completed | Failed:
    if answer.finish_reason == "length":
        return _failed("llm_truncated", "The model reached its token limit before its JSON was complete.")
    try:
        data = json.loads(answer.text)
    except (ValueError, RecursionError) as error:
        return _failed("llm_invalid_output", f"The model's answer is not JSON: {error}"[:300], answer.text)
    check_schema(data, schema, code="llm_invalid_output", kind=FailureKind.AGENT)
    return Completed({**output, "data": data})


def _endpoint(call: Call, configuration: JSONObject) -> tuple[str, str, EgressPolicy]:
    """Where to ask, with which key, and what may be reached.

    The installation's own key goes to the installation's own address only.
    """
    given = configuration.get("baseUrl")
    if given:
        key = configuration.get("apiKey")
        allowed = registry.egress_allowed(call.workspace_id)
        return str(given), str(key or ""), EgressPolicy(allowed)
    base_url = settings.AGENTFLOW_LLM_BASE_URL
    if not base_url:
        raise BuiltinFailure(
            Failure(
                FailureKind.CONFIGURATION,
                "llm_not_configured",
                "No language model is configured: set AGENTFLOW_LLM_BASE_URL and AGENTFLOW_LLM_API_KEY, or"
                " configuration.baseUrl.",
            )
        )
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return base_url, settings.AGENTFLOW_LLM_API_KEY, EgressPolicy((f"{host}:{port}",))


def _messages(configuration: JSONObject, value: JSONValue) -> list[JSONObject]:
    messages: list[JSONObject] = []
    system, prompt = configuration.get("system"), configuration.get("prompt")
    for name, text in (("system", system), ("prompt", prompt)):
        if text is not None and not isinstance(text, str):
            raise _bad(f"configuration.{name} must be a text.")
    if system:
        messages.append({"role": "system", "content": fill(system, value)})
    if prompt:
        messages.append({"role": "user", "content": fill(prompt, value)})
    if value not in (None, {}, []) and not (prompt and has_placeholders(prompt)):
        plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        messages.append({"role": "user", "content": plain})
    if not any(message["role"] == "user" for message in messages):
        raise _bad("There is nothing to ask: neither configuration.prompt nor an input.")
    return messages


def _bad(message: str) -> BuiltinFailure:
    return BuiltinFailure(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))


def _failed(code: str, message: str, text: str = "") -> Failed:
    return Failed(Failure(FailureKind.AGENT, code, message, evidence={"text": text[:500]} if text else {}))
