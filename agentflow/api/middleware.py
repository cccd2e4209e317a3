"""What happens to every HTTP request before anything else."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

from . import context, problems

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class OriginMiddleware:
    """Names the request and its channel, and turns away what no view should meet.

    A NUL in the address cannot be stored or looked up, and a body of undeclared length would be
    taken for an empty one (the ASGI entry declares it; under WSGI the server must).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        with context.origin(channel=channel_of(request.path_info), request_id=request_id):
            response = self._refusal(request) or self.get_response(request)
        response["X-Request-ID"] = request_id
        return response

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        query = request.META.get("QUERY_STRING", "")
        if "\0" in request.path_info or "%00" in query or "\0" in query:
            if problems.is_api(request):
                return problems.respond(
                    400, "nul", "The address must not contain NUL.", instance=request.path
                )
            return HttpResponseBadRequest("The address must not contain NUL.", content_type="text/plain")
        if "chunked" in request.headers.get("Transfer-Encoding", "") and not request.META.get(
            "CONTENT_LENGTH"
        ):
            return problems.respond(411, "length_required", "Declare the body's Content-Length.")
        return None


def channel_of(path: str) -> str:
    if path.startswith("/api/"):
        return "api"
    return "admin" if path.startswith("/admin/") else "page"


# Colours and widths that only the data knows are set on elements; no page needs an inline script.
_PAGE_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "style-src-elem 'self' {styles}",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data:",
        # Not every browser takes 'self' for WebSockets.
        "connect-src 'self' ws://{host} wss://{host}",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
_UNUSED = ", ".join(
    f"{feature}=()"
    for feature in (
        *("accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer"),
        *("microphone", "midi", "payment", "screen-wake-lock", "serial", "usb", "xr-spatial-tracking"),
    )
)
# What vendored libraries write into a <style>; a test in Chromium tells when one of them changes.
_VENDOR_STYLES = " ".join(
    "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    for text in (
        ".__________cytoscape_container { position: relative; }",
        "",  # JSON Editor fills its sheet rule by rule
    )
)


class PagePolicyMiddleware:
    """Tells browsers what the product's own pages may load and do: their own files, nothing inline.

    The admin and the API's description bring scripts of their libraries that need more, and are left alone.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Permissions-Policy", _UNUSED)
        html = response.headers.get("Content-Type", "").startswith("text/html")
        if html and channel_of(request.path_info) == "page":
            policy = _PAGE_POLICY.format(host=_host(request), styles=_VENDOR_STYLES)
            response.headers.setdefault("Content-Security-Policy", policy)
        return response


def _host(request: HttpRequest) -> str:
    """The host that the page was asked from; a name we do not answer to is not repeated."""
    try:
        return request.get_host()
    except DisallowedHost:
        return "localhost"
