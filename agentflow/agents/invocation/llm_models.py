"""Asks the first of an agent's models that answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.conf import settings

from ...integrations import llm
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject
from ...workflow.failures import Failure, FailureKind
from .. import registry, usage
from ..builtin import BuiltinFailure
from ..calls import Call
from ..llm_configuration import Fallback, LLMConfiguration
from ..profile import Cost


@dataclass(frozen=True, slots=True)
class Model:
    """A model, where it is asked, and what may be reached on the way."""

    name: str
    base_url: str
    api_key: str
    policy: EgressPolicy
    cost: Cost


@dataclass(frozen=True, slots=True)
class Said:
    """What came of asking; `answer` may be there although the asking failed: a refusal is one."""

    answer: llm.Answer | None
    failure: Failure | None
    used: JSONObject


def models(call: Call, configuration: JSONObject, parts: LLMConfiguration, cost: Cost) -> list[Model]:
    """The agent's own model, and those to fall back on."""
    base_url, api_key, policy = _endpoint(call, configuration)
    name = configuration.get("model") or settings.AGENTFLOW_LLM_MODEL
    if not isinstance(name, str) or not name:
        raise bad("configuration.model must name a model (or AGENTFLOW_LLM_MODEL).")
    first = Model(name, base_url, api_key, policy, cost)
    return [first, *(_fallback(call, first, each) for each in parts.fallbacks)]


def _fallback(call: Call, first: Model, given: Fallback) -> Model:
    other = replace(first, name=given.model or first.name, cost=given.cost or first.cost)
    if given.base_url is None:
        return other
    policy = EgressPolicy(registry.egress_allowed(call.workspace_id))
    return replace(other, base_url=given.base_url, api_key=given.api_key or "", policy=policy)


def ask(
    call: Call,
    models: Sequence[Model],
    question: llm.Question,
    *,
    key: str,
    deadline: float,
    parts: LLMConfiguration,
) -> Said:
    """Ask one model after the other, while the failures are such that another one may do better."""
    used: list[JSONObject] = []
    said = Said(None, None, {})
    for number, model in enumerate(models):
        said = _ask(
            call,
            model,
            question,
            key=f"{key}:fallback:{number}" if number else key,
            until=deadline,
            parts=parts,
        )
        used.append(said.used)
        failure = said.failure
        if failure is None or call.cancel.cancelled or number == len(models) - 1:
            break
        if failure.code not in parts.fallback_on and str(failure.kind) not in parts.fallback_on:
            break
        call.log("warning", f"{model.name}: {failure.code}; {models[number + 1].name} is asked instead")
    return replace(said, used=usage.total(used))


def _ask(
    call: Call, model: Model, question: llm.Question, *, key: str, until: float, parts: LLMConfiguration
) -> Said:
    try:
        answer = llm.ask(
            replace(question, model=model.name),
            base_url=model.base_url,
            api_key=model.api_key,
            policy=model.policy,
            timeout_s=max(until - time.monotonic(), 0.001),
            idempotency_key=key,
            on_cancel=call.cancel.on_cancel,
            on_text=call.show if parts.stream else None,
        )
    except EgressError as error:
        return Said(None, error.failure, {})
    answer = replace(answer, model=answer.model or model.name)
    used = usage.of_model(answer.usage, model.cost, model=answer.model)
    told = ", ".join(f"{name} {amount}" for name, amount in answer.usage.items())
    call.log("debug", f"{answer.model}: {told or 'no usage told'}")
    return Said(answer, _refused(answer), used)


def _refused(answer: llm.Answer) -> Failure | None:
    if answer.refusal:
        return failure("llm_refused", f"The model refused: {answer.refusal[:300]}")
    if answer.finish_reason == "content_filter":
        return failure("llm_content_filtered", "The provider's content filter held the answer back.")
    return None


def _endpoint(call: Call, configuration: JSONObject) -> tuple[str, str, EgressPolicy]:
    """Where to ask, with which key, and what may be reached.

    The installation's own key goes to the installation's own address only.
    """
    given = configuration.get("baseUrl")
    if given:
        key = configuration.get("apiKey")
        allowed = registry.egress_allowed(call.workspace_id)
        return str(given), str(key or ""), EgressPolicy(allowed)
    if not settings.AGENTFLOW_LLM_BASE_URL:
        raise BuiltinFailure(
            Failure(
                FailureKind.CONFIGURATION,
                "llm_not_configured",
                "No language model is configured: set AGENTFLOW_LLM_BASE_URL and AGENTFLOW_LLM_API_KEY, or"
                " configuration.baseUrl.",
            )
        )
    return llm.installation()


def bad(message: str) -> BuiltinFailure:
    return BuiltinFailure(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))


def failure(code: str, message: str, text: str = "") -> Failure:
    return Failure(FailureKind.AGENT, code, message, evidence={"text": text[:500]} if text else {})
