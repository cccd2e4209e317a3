"""Errors as RFC 9457 problems: the only place where a meaning becomes an HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import defaults
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import ConnectionError as ValkeyError
from redis.exceptions import TimeoutError as ValkeyTimeout
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from ..errors import (
    AgentflowError,
    Conflict,
    Gone,
    InvalidInput,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    Unavailable,
    Unprocessable,
)
from ..types import JSONObject
from . import context
from .text import camelize, pointer_token, printable

log = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
RETRY_AFTER = "retry_after_s"  # the fact that becomes the header Retry-After

STATUS: tuple[tuple[type[AgentflowError], int], ...] = (
    (Unprocessable, 422),  # before what it is a kind of
    (PreconditionFailed, 412),
    (Gone, 410),
    (InvalidInput, 400),
    (NotPermitted, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Unavailable, 503),
)
TITLES = {
    400: "The request is not valid",
    401: "Sign in first",
    403: "Not permitted",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict with the present state",
    410: "No longer here",
    411: "Length required",
    412: "Changed in the meantime",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Understood, but it cannot work",
    429: "Too many requests",
    500: "Something broke on our side",
    503: "Temporarily unavailable",
}
REMEDIES = {
    "not_authenticated": "Send `Authorization: Bearer <access token>` from POST /api/v1/auth/token.",
    "token_not_valid": "Get a new access token from POST /api/v1/auth/token/refresh.",
    "body_too_large": "Send less, or in parts.",
    "unsupported_media_type": "Send `Content-Type: application/json`.",
    "not_acceptable": "Accept application/json.",
    "csrf_failed": "Send the csrftoken cookie's value as X-CSRFToken, or use an access token.",
}
UNREACHABLE: tuple[type[Exception], ...] = (
    OperationalError,
    InterfaceError,
    BrokerError,
    ValkeyError,
    ValkeyTimeout,
)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    remedy: str = "",
    issues: Iterable[Mapping[str, Any]] = (),
    instance: str = "",
    facts: Mapping[str, Any] | None = None,
) -> JSONObject:
    """The body of an error: `{"type", "title", "status", "code", "detail", "remedy", "issues", ...}`.

    `facts` are members of their own beside these (RFC 9457, 3.2), and never take the place of one.
    """
    return {
        **_members(facts or {}),
        "type": f"urn:agentflow:problem:{code}",
        "title": TITLES.get(status, "The request failed"),
        "status": status,
        "code": code,
        "detail": printable(detail, 2000),
        "remedy": printable(remedy or REMEDIES.get(code, ""), 2000),
        "issues": [dict(issue) for issue in issues],
        "instance": printable(instance),
        "requestId": context.current().request_id,
    }


def _members(facts: Mapping[str, Any]) -> JSONObject:
    """An error's facts as they are spelt on the wire; what is a header's business is left to it."""
    return {
        camelize(name): value if value is None or isinstance(value, bool | int) else printable(str(value))
        for name, value in facts.items()
        if name != RETRY_AFTER
    }


def handler(exc: Exception, drf_context: Mapping[str, Any]) -> Response:
    """DRF's exception handler: every exception becomes a problem, none shows its inside."""
    request = drf_context.get("request")
    path = request.path if isinstance(request, Request | HttpRequest) else ""
    body, headers = describe(exc)
    body["instance"] = printable(path)
    if body["status"] >= 500:
        log.error("%s %s failed", getattr(request, "method", ""), printable(path), exc_info=exc)
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def describe(exc: Exception) -> tuple[JSONObject, dict[str, str]]:
    """The problem for an exception, and the headers that go with it."""
    if isinstance(exc, Http404):
        exc = NotFound()
    elif isinstance(exc, DjangoPermissionDenied):
        exc = exceptions.PermissionDenied()
    elif isinstance(exc, UNREACHABLE):
        exc = Unavailable(remedy="Try again in a moment.")
    if isinstance(exc, AgentflowError):
        return _from_domain(exc)
    if isinstance(exc, exceptions.APIException):
        return _from_drf(exc)
    return problem(
        500, "internal_error", "The request could not be finished.", remedy="Quote the requestId."
    ), {}


def _from_domain(exc: AgentflowError) -> tuple[JSONObject, dict[str, str]]:
    status = next((status for meaning, status in STATUS if isinstance(exc, meaning)), 500)
    issues: list[dict[str, Any]] = []
    if isinstance(exc, InvalidInput):
        issues = exc.issues or [
            {
                "pointer": exc.pointer,
                "code": exc.code,
                "message": printable(exc.message, 2000),
                "remedy": exc.remedy_text,
            }
        ]
    retry_after_s = exc.facts.get(RETRY_AFTER, RETRY_AFTER_S if status == 503 else None)
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    # What is absent and what may not be seen look the same: a 404 has no facts.
    facts = {} if isinstance(exc, NotFound) else exc.facts
    body = problem(status, exc.code, exc.message, remedy=exc.remedy_text, issues=issues, facts=facts)
    return body, headers


def _from_drf(exc: exceptions.APIException) -> tuple[JSONObject, dict[str, str]]:
    headers = {}
    if auth_header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    if wait := getattr(exc, "wait", None):
        headers["Retry-After"] = str(int(wait))
    if isinstance(exc, exceptions.ValidationError):
        issues = issues_from(exc.detail)
        detail = issues[0]["message"] if len(issues) == 1 else f"{len(issues)} things are wrong."
        return problem(400, "invalid_input", detail, issues=issues), headers
    code, detail = _code_and_detail(exc)
    return problem(exc.status_code, code, detail), headers


def _code_and_detail(exc: exceptions.APIException) -> tuple[str, str]:
    detail: Any = exc.detail
    code = exc.default_code
    if isinstance(detail, dict):  # simplejwt wraps {"detail", "code", "messages"}
        code, detail = str(detail.get("code", code)), detail.get("detail", "")
    elif isinstance(detail, list):
        detail = detail[0] if detail else ""
    else:
        code = detail.code or code
    if isinstance(exc, exceptions.PermissionDenied) and str(detail).startswith("CSRF"):
        code = "csrf_failed"
    renamed = {
        "permission_denied": "not_permitted",
        "error": "internal_error",
        "parse_error": "malformed_json",
    }
    return renamed.get(code, code), str(detail)


def issues_from(detail: Any, pointer: str = "") -> list[JSONObject]:
    """A serializer's nested errors as a flat list with JSON pointers."""
    if isinstance(detail, dict):
        found = []
        for key, inner in detail.items():
            here = key == "non_field_errors"
            found += issues_from(inner, pointer if here else f"{pointer}/{pointer_token(str(key))}")
        return found
    if isinstance(detail, list):
        return [
            issue
            for index, inner in enumerate(detail)
            # A list of texts is several errors at one place, a list of objects is one per element.
            for issue in issues_from(
                inner, f"{pointer}/{index}" if isinstance(inner, dict | list) else pointer
            )
        ]
    return [
        {
            "pointer": pointer,
            "code": getattr(detail, "code", None) or "invalid",
            "message": printable(str(detail), 2000),
            "remedy": "",
        }
    ]


def respond(status: int, code: str, detail: str, **more: Any) -> JsonResponse:
    """A problem outside DRF: from a middleware or a plain Django view."""
    return JsonResponse(problem(status, code, detail, **more), status=status, content_type=CONTENT_TYPE)


def is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if is_api(request):
        return respond(400, "bad_request", "The request cannot be understood.", instance=request.path)
    return defaults.bad_request(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if is_api(request):
        return respond(403, "not_permitted", "You may not do that.", instance=request.path)
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if is_api(request):
        return respond(404, "not_found", "There is nothing at this address.", instance=request.path)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if is_api(request):
        return respond(500, "internal_error", "The request could not be finished.", instance=request.path)
    return defaults.server_error(request)
