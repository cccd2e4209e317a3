"""A2A: a message to another agent, over JSON-RPC, and the task that comes of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from ...integrations import http_failures
from ...integrations.egress import EgressError
from ...types import JSONObject, JSONValue
from ...workflow.failures import Failure, FailureKind
from .. import registry
from ..calls import Call, Completed, Failed, Outcome
from ..registry import AgentSpec
from .remote import Remote, bad, failed

_METHODS = {
    "1.0": {"send": "SendMessage", "get": "GetTask", "cancel": "CancelTask"},
    "0.3": {"send": "message/send", "get": "tasks/get", "cancel": "tasks/cancel"},
}
_INVALID = {-32600, -32601, -32602, -32004, -32005, -32009}  # refused before anything was done
_UNDER_WAY = frozenset({"submitted", "working", "unspecified"})


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """`configuration {"url": address, "protocolVersion": "1.0" | "0.3", "tenant"?, "headers": {}}`.

    A text goes as text, anything else as data.  The output is `{"state", "text", "data", "files", "taskId"}`.
    """
    configuration = registry.merged_configuration(spec, call.configuration)
    try:
        return _Conversation(call, configuration).held()
    except EgressError as error:
        return Failed(error.failure)


class _Conversation:
    def __init__(self, call: Call, configuration: JSONObject) -> None:
        url, version = configuration.get("url"), configuration.get("protocolVersion", "1.0")
        if not isinstance(url, str) or not url:
            raise bad("configuration.url must be an address.")
        if version not in _METHODS:
            raise bad(f"configuration.protocolVersion is one of {', '.join(_METHODS)}.")
        self.call, self.url, self.version = call, url, str(version)
        self.tenant = configuration.get("tenant") or ""
        self.remote = Remote(call, configuration)

    def held(self) -> Outcome:
        answer = self._ask("send", self._message())
        answer = answer.get("task") or answer.get("message") or answer
        if _is_message(answer):
            return Completed(_output("completed", answer.get("parts")))
        outcome = self._outcome(answer)
        task_id = answer.get("id")
        if outcome is not None:
            return outcome
        if not isinstance(task_id, str) or not task_id:
            return Failed(
                failed("a2a_bad_answer", "The answer is neither a message nor a task.", unknown=True)
            )
        self.call.log("debug", f"A2A task {task_id[:200]}")
        return self.remote.until(
            lambda: self._outcome(self._ask("get", {"id": task_id})),
            lambda: self._ask("cancel", {"id": task_id}, stopping=True),
        )

    def _message(self) -> JSONObject:
        given = self.call.input
        kind = "text" if isinstance(given, str) else "data"
        part: JSONObject = {kind: given} if self.version == "1.0" else {"kind": kind, kind: given}
        # The same at each try of this operation: an agent that remembers its messages answers once.
        message = {"messageId": self.call.idempotency_key, "parts": [part]}
        if self.version == "1.0":
            return {
                "message": {**message, "role": "ROLE_USER"},
                "configuration": {"returnImmediately": True},
            }
        return {
            "message": {**message, "kind": "message", "role": "user"},
            "configuration": {"blocking": False},
        }

    def _ask(self, what: str, parameters: JSONObject, *, stopping: bool = False) -> JSONObject:
        if self.tenant and self.version == "1.0":
            parameters = {**parameters, "tenant": self.tenant}
        more = {"a2a-version": self.version} if self.version != "0.3" else {}
        if what == "send":
            more["idempotency-key"] = self.call.idempotency_key
        number = str(uuid4())
        body = {"jsonrpc": "2.0", "id": number, "method": _METHODS[self.version][what], "params": parameters}
        answer = self.remote.ask("POST", self.url, body, more=more, stopping=stopping)
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise _RpcError(answer["error"])
        if not isinstance(answer, dict) or not isinstance(answer.get("result"), dict):
            raise http_failures.BadResponse("The answer is no JSON-RPC response.")
        result: JSONObject = answer["result"]
        return result

    def _outcome(self, task: JSONObject) -> Outcome | None:
        """What has come of a task; None while it is under way."""
        status = task.get("status")
        status = status if isinstance(status, dict) else {}
        state = str(status.get("state", "")).removeprefix("TASK_STATE_").lower().replace("_", "-")
        said = _output(state, _parts(status.get("message")))["text"] or f"The agent says: {state[:50]}."
        match state:
            case "completed":
                artifacts = task.get("artifacts")
                parts = [part for each in _list(artifacts) for part in _list(_parts(each))]
                output = _output(state, parts or _parts(status.get("message")))
                return Completed({**output, "taskId": str(task.get("id", ""))})
            case "failed" | "rejected":
                return Failed(failed(f"a2a_{state}", said))
            case "canceled":
                return Failed(failed("a2a_canceled", said, unknown=True))
            case "input-required" | "auth-required":
                code = f"a2a_{state.replace('-', '_')}"
                return Failed(Failure(FailureKind.CONFIGURATION, code, said[:1000]))
        if state in _UNDER_WAY and task.get("id"):
            return None
        return Failed(failed("a2a_bad_answer", f"There is no state {state[:50]!r}.", unknown=True))


class _RpcError(EgressError):
    """The agent refuses by JSON-RPC."""

    def __init__(self, error: JSONObject) -> None:
        code = error.get("code")
        refused = code in _INVALID
        super().__init__(
            FailureKind.CONFIGURATION if refused else FailureKind.AGENT,
            "a2a_refused" if refused else "a2a_error",
            str(error.get("message") or "The agent answered with an error.")[:500],
            outcome_unknown=not refused,
            evidence={"code": code if isinstance(code, int) else None},
        )


def _is_message(answer: JSONObject) -> bool:
    return isinstance(answer.get("parts"), list) and "status" not in answer


def _parts(holder: Any) -> JSONValue:
    return holder.get("parts") if isinstance(holder, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _output(state: str, parts: JSONValue) -> JSONObject:
    """The parts by kind, of either version of the protocol."""
    found = [part for part in _list(parts) if isinstance(part, dict)]
    files = [each for each in map(_file, found) if each]
    return {
        "state": state,
        "text": "\n".join(part["text"] for part in found if isinstance(part.get("text"), str)),
        "data": [part["data"] for part in found if "data" in part],
        "files": files,
    }


def _file(part: JSONObject) -> JSONObject:
    """Where a file is, if the part is one by address; 0.3 has it one level deeper and other names."""
    inner = part.get("file")
    source = inner if isinstance(inner, dict) else part
    url = source.get("url") or source.get("uri")
    if not isinstance(url, str):
        return {}
    name = source.get("filename") or source.get("name")
    return {"url": url, "name": name, "mediaType": source.get("mediaType") or source.get("mimeType")}
