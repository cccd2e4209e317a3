"""AgentService: one agent of an Agent Service, executed over HTTP."""

from __future__ import annotations

from urllib.parse import quote

from ...integrations.egress import EgressError
from ...types import JSONObject, JSONValue
from .. import registry
from ..calls import Call, Completed, Failed, Outcome
from ..registry import AgentSpec
from .remote import Remote, bad, failed

_UNDER_WAY = frozenset({"accepted", "pending", "queued", "started", "running"})


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """`configuration {"url": base, "agent": id, "headers": {}}`.

    `POST {url}/agents/{agent}/execute {"input", "blockId", "idempotencyKey"}` answers
    `{"status": "completed", "output"}`, `{"status": "failed", "error"}`, or
    `{"status": "running", "executionId"}`: then `GET {url}/executions/{executionId}` is asked until it is
    done, and `POST .../cancel` when nobody waits.
    """
    configuration = registry.merged_configuration(spec, call.configuration)
    url, agent = configuration.get("url"), configuration.get("agent")
    if not isinstance(url, str) or not url or not isinstance(agent, str) or not agent:
        raise bad("configuration.url and configuration.agent must be texts.")
    base = url.rstrip("/")
    try:
        remote = Remote(call, configuration)
        body = {"input": call.input, "blockId": call.block_id, "idempotencyKey": call.idempotency_key}
        answer = remote.ask(
            "POST",
            f"{base}/agents/{quote(agent, safe='')}/execute",
            body,
            more={"idempotency-key": call.idempotency_key},
        )
        outcome = _outcome(answer)
        if outcome is not None:
            return outcome
        number = answer.get("executionId")
        if not isinstance(number, str) or not number:
            return Failed(
                failed("agent_service_bad_answer", "It runs, and does not say where.", unknown=True)
            )
        execution = f"{base}/executions/{quote(number, safe='')}"
        return remote.until(
            lambda: _outcome(remote.ask("GET", execution)),
            lambda: remote.ask("POST", f"{execution}/cancel", {}, stopping=True),
        )
    except EgressError as error:
        return Failed(error.failure)


def _outcome(answer: JSONValue) -> Outcome | None:
    """What has come of it; None while it runs."""
    said: JSONObject = answer if isinstance(answer, dict) else {}
    status = said.get("status")
    match status:
        case "completed":
            return Completed(said.get("output"))
        case "failed" | "cancelled":
            error = said.get("error")
            message = error.get("message") if isinstance(error, dict) else error
            text = str(message or f"The agent says: {status}.")
            return Failed(failed(f"agent_service_{status}", text, unknown=status == "cancelled"))
    if status in _UNDER_WAY:
        return None
    return Failed(failed("agent_service_bad_answer", "The answer has no known status.", unknown=True))
