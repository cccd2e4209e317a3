"""API: one HTTP request through the egress client."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ...integrations import http, http_failures
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject, JSONValue
from ...workflow import callbacks
from ...workflow.expressions import ExpressionError, compile_expression
from ...workflow.failures import Failure, FailureKind
from .. import api_configuration, registry
from ..builtin import BuiltinFailure, look_up
from ..calls import AwaitCallback, Call, Completed, Failed, Outcome
from ..registry import AgentSpec
from . import api_auth, api_pages, parameters

_METHODS = frozenset(api_configuration.METHODS)
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_PLACEHOLDER = re.compile(r"\{([^{}]{1,200})\}")
_HEADER_NAME = api_configuration.HEADER_NAME
_CALLBACK_URL = "{callbackUrl}"
_CALLBACK_HEADER = "callback-url"


class BadConfiguration(BuiltinFailure):
    """The configuration, with this input, makes no request."""

    def __init__(self, message: str, code: str = "bad_configuration") -> None:
        super().__init__(Failure(FailureKind.CONFIGURATION, code, message))


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """Send what the configuration describes and hand back what came.

    `configuration {"method": "POST", "url": "https://shop.example/orders/{order.id}", "headers": {},
    "query": {"full": "true"}, "body": ..., "bodyType": "json" | "form" | "text",
    "response": {"path": "data.items"}, "successStatuses": [404], "callback": {"timeout": ms}}`.  `{name}` in
    the path and the query is taken from the input.  Without `body`, what carries one sends the input.
    `auth` (the agent's alone), `pagination`, `failures` and `idempotencyHeader`: see api_configuration.py.

    With `callback` the other side is told where to bring its result, in the header `Callback-Url` and
    wherever `query` or `body` say `{callbackUrl}`; when it answers 202, that is waited for.
    """
    configuration = registry.merged_configuration(spec, call.configuration)
    configuration = parameters.applied(configuration, call.input)
    callback_url, callback_timeout_s = _callback(configuration, call)
    if callback_url:
        configuration = _with_callback(configuration, callback_url)
    method = str(configuration.get("method", "GET")).upper()
    if method not in _METHODS:
        raise BadConfiguration(
            f"configuration.method {method[:20]!r} is none of {', '.join(sorted(_METHODS))}."
        )
    url = _url(configuration, call.input)
    headers = _headers(configuration, call, callback_url)
    content = _content(configuration, call.input, method, headers)
    call.log("debug", f"{method} {urlsplit(url).hostname}{urlsplit(url).path}")
    try:
        sender = _Sender(call, spec, configuration, method, headers, content)
        if configuration.get("pagination") is not None:
            return Completed(sender.pages(url))
        response = sender.send(url, sender.left())
    except EgressError as error:
        return Failed(error.failure)
    if callback_url and response.status == callbacks.ACCEPTED:
        return AwaitCallback(callback_timeout_s)
    return _answer(configuration, response)


class _Sender:
    """Sends one call's requests, within its time, showing who calls."""

    def __init__(
        self,
        call: Call,
        spec: AgentSpec | None,
        configuration: JSONObject,
        method: str,
        headers: dict[str, str],
        content: bytes | None,
    ) -> None:
        self._until = time.monotonic() + call.timeout_s
        self._call, self._configuration, self._method = call, configuration, method
        self._headers, self._content = headers, content
        self._policy = EgressPolicy(registry.egress_allowed(call.workspace_id))
        self._access = api_auth.access(
            spec.configuration.get("auth") if spec else None,
            workspace_id=call.workspace_id,
            policy=self._policy,
            timeout_s=call.timeout_s,
            on_cancel=call.cancel.on_cancel,
            hide=call.hide,
        )
        self._shown = self._access.headers

    def left(self) -> float:
        return max(self._until - time.monotonic(), 0.001)

    def send(self, url: str, timeout_s: float) -> http.HttpResponse:
        """
        Raises:
            EgressError: no answer, or one whose status is a failure.
        """
        response = self._request(url, timeout_s)
        if response.status == 401:  # refused, so nothing was done: once more with a token just fetched
            renewed = self._access.renew()
            if renewed is not None and renewed != self._shown:
                self._shown = renewed
                self._access = api_auth.Access(renewed)
                response = self._request(url, self.left())
        if response.status not in _also_good(self._configuration):
            self._check(response)
        return response

    def pages(self, url: str) -> list[JSONValue]:
        rule = self._configuration["pagination"]
        problems = list(api_configuration.issues({"pagination": rule}))
        if problems:
            raise BadConfiguration(f"configuration{problems[0][0]}: {problems[0][2]}")

        def get(address: str, timeout_s: float) -> tuple[JSONValue, http.HttpResponse]:
            response = self.send(address, timeout_s)
            return _parsed(response), response

        return api_pages.collect(rule, url, get, timeout_s=self.left())

    def _request(self, url: str, timeout_s: float) -> http.HttpResponse:
        return http.client(self._policy).request(
            self._method,
            url,
            headers={**self._headers, **self._shown},
            content=self._content,
            timeout_s=timeout_s,
            on_cancel=self._call.cancel.on_cancel,
        )

    def _check(self, response: http.HttpResponse) -> None:
        status, headers = response.status, response.headers
        try:
            http_failures.check_status(status, headers, method=self._method, body=response.body)
        except http_failures.BadStatus as error:
            kind = _kind_of(self._configuration.get("failures"), status)
            if kind is not None:
                wait = http_failures.retry_after_s(headers.get("retry-after"))
                error.failure = replace(
                    error.failure, kind=kind, retry_after_s=wait if kind is FailureKind.TRANSIENT else None
                )
            raise


def _kind_of(table: JSONValue, status: int) -> FailureKind | None:
    """What the agent's own table says of a status: of itself, or of its hundred."""
    if not isinstance(table, dict):
        return None
    said = table.get(str(status), table.get(f"{status // 100}xx"))
    return FailureKind(said) if said in list(FailureKind) else None


def _callback(configuration: JSONObject, call: Call) -> tuple[str, float]:
    """Where the other side may bring its result, and for how long; an empty address where it may not."""
    if configuration.get("callback") is None:
        return "", 0.0
    try:
        timeout_s = callbacks.timeout_s(configuration["callback"])
    except callbacks.BadCallback as error:
        raise BadConfiguration(f"configuration.{error}") from error
    address = call.callback_url()
    if not address:
        raise BadConfiguration("Nobody can call back: AGENTFLOW_BASE_URL is not set.", "no_base_url")
    return address, timeout_s


def _with_callback(configuration: JSONObject, address: str) -> JSONObject:
    return {
        **configuration,
        **{key: _replaced(configuration[key], address) for key in ("query", "body") if key in configuration},
    }


def _replaced(value: JSONValue, address: str) -> JSONValue:
    if isinstance(value, str):
        return value.replace(_CALLBACK_URL, address)
    if isinstance(value, list):
        return [_replaced(item, address) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, address) for key, item in value.items()}
    return value


def _url(configuration: JSONObject, value: JSONValue) -> str:
    url = configuration.get("url")
    if not isinstance(url, str) or not url:
        raise BadConfiguration("configuration.url must be an address.")
    base, _, query = url.partition("?")
    scheme, separator, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    if not separator or "{" in scheme + host or "}" in host:
        raise BadConfiguration(
            "configuration.url must be a whole address; only its path and query take {names}."
        )
    path = _PLACEHOLDER.sub(lambda match: _segment(value, match[1]), path.split("#")[0])
    query = _PLACEHOLDER.sub(lambda match: quote(_text(value, match[1]), safe=""), query.split("#")[0])
    more = configuration.get("query")
    if isinstance(more, dict) and more:
        pairs = [
            (name, _filled(item, value))
            for name, given in more.items()
            for item in (given if isinstance(given, list) else [given])
        ]
        query = "&".join(part for part in (query, urlencode(pairs)) if part)
    return f"{scheme}://{host}{slash}{path}" + (f"?{query}" if query else "")


def _segment(value: JSONValue, name: str) -> str:
    text = _text(value, name)
    if text in {"", ".", ".."}:  # would name another resource than the one configured
        raise BadConfiguration(
            f"The input's {name!r} is {text!r}, which cannot stand in a path.", "bad_url_value"
        )
    return quote(text, safe="")


def _text(value: JSONValue, name: str) -> str:
    found = look_up(value, name)
    if isinstance(found, dict | list) or found is None:
        raise BadConfiguration(f"The input's {name!r} is no text or number.", "bad_url_value")
    return _plain(found)


def _plain(value: JSONValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _filled(item: JSONValue, value: JSONValue) -> str:
    return _PLACEHOLDER.sub(lambda match: _text(value, match[1]), _plain(item))


def _headers(configuration: JSONObject, call: Call, callback_url: str) -> dict[str, str]:
    given = configuration.get("headers") or {}
    if not isinstance(given, dict):
        raise BadConfiguration("configuration.headers must be an object.")
    headers = {"accept": "application/json, text/*;q=0.9, */*;q=0.1"}
    for name, text in given.items():
        plain = _plain(text)
        if not _HEADER_NAME.match(name) or any(char in plain for char in "\r\n\x00") or not plain.isascii():
            raise BadConfiguration(f"configuration.headers: {name[:50]!r} is no valid header.")
        if name.lower() in api_configuration.OUR_HEADERS or (
            callback_url and name.lower() == _CALLBACK_HEADER
        ):
            raise BadConfiguration(f"configuration.headers: {name!r} is set by the service itself.")
        headers[name.lower()] = plain
    headers[_idempotency_header(configuration)] = call.idempotency_key
    if callback_url:
        headers[_CALLBACK_HEADER] = callback_url
    return headers


def _idempotency_header(configuration: JSONObject) -> str:
    name = configuration.get("idempotencyHeader", "Idempotency-Key")
    if not isinstance(name, str) or not _HEADER_NAME.match(name):
        raise BadConfiguration("configuration.idempotencyHeader must be the name of a header.")
    if name.lower() in api_configuration.OUR_HEADERS - {"idempotency-key"}:
        raise BadConfiguration(f"configuration.idempotencyHeader: {name!r} is set by the service itself.")
    return name.lower()


def _content(
    configuration: JSONObject, value: JSONValue, method: str, headers: dict[str, str]
) -> bytes | None:
    body = configuration.get("body", value if method in _WITH_BODY else None)
    if body is None:
        return None
    match configuration.get("bodyType", "json"):
        case "json":
            headers.setdefault("content-type", "application/json")
            return json.dumps(body, ensure_ascii=False).encode()
        case "form" if isinstance(body, dict):
            headers.setdefault("content-type", "application/x-www-form-urlencoded")
            return urlencode({name: _plain(item) for name, item in body.items()}).encode()
        case "text" if isinstance(body, str):
            headers.setdefault("content-type", "text/plain; charset=utf-8")
            return body.encode()
    raise BadConfiguration("configuration.bodyType is json, form (of an object) or text (of a text).")


def _also_good(configuration: JSONObject) -> frozenset[int]:
    given = configuration.get("successStatuses") or []
    return (
        frozenset(status for status in given if type(status) is int)
        if isinstance(given, list)
        else frozenset()
    )


def _answer(configuration: JSONObject, response: http.HttpResponse) -> Outcome:
    value = _parsed(response)
    wanted: Any = configuration.get("response") or {}
    if not isinstance(wanted, dict):
        raise BadConfiguration("configuration.response must be an object.")
    if "select" in wanted:
        return _selected(str(wanted["select"]), value, response)
    if "pointer" in wanted:
        found = api_pages.point(value, str(wanted["pointer"]))
        if found is None:
            return _unusable("response_path_missing", f"The answer has no {wanted['pointer']!r}.", response)
        return Completed(found)
    path = wanted.get("path")
    if not path:
        return Completed(value)
    try:
        return Completed(look_up(value, str(path)))
    except BuiltinFailure:
        return _unusable("response_path_missing", f"The answer has no {path!r}.", response)


def _selected(text: str, value: JSONValue, response: http.HttpResponse) -> Outcome:
    try:
        expression = compile_expression(text, api_configuration.SELECT_NAMES)
    except ExpressionError as error:
        raise BadConfiguration(f"configuration.response.select: {error.message}") from error
    try:
        return Completed(expression.evaluate({"response": value, "status": response.status}))
    except ExpressionError as error:
        return _unusable("response_path_missing", f"response.select: {error.message}", response)


def _parsed(response: http.HttpResponse) -> JSONValue:
    if not response.body:
        return None
    kind = response.content_type
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError) as error:
            raise BuiltinFailure(
                _unusable(
                    "response_not_json", f"The answer calls itself {kind} and is not: {error}", response
                ).failure
            ) from error
    if kind.startswith("text/") or kind in {"application/xml", "application/x-www-form-urlencoded"}:
        return _decoded(response)
    raise BuiltinFailure(
        _unusable(
            "response_not_json", f"The answer is {kind or 'of no stated type'}, not JSON or text.", response
        ).failure
    )


def _decoded(response: http.HttpResponse) -> str:
    match = re.search(r"charset=\"?([A-Za-z0-9_-]+)", str(response.headers.get("content-type", "")))
    try:
        return response.body.decode(match[1] if match else "utf-8", "replace")
    except LookupError:
        return response.body.decode("utf-8", "replace")


def _unusable(code: str, message: str, response: http.HttpResponse) -> Failed:
    return Failed(
        Failure(
            FailureKind.AGENT,
            code,
            message[:500],
            outcome_unknown=True,  # it was done; only the answer is of no use
            evidence={"status": response.status, "body": response.body[:500].decode("utf-8", "replace")},
        )
    )
