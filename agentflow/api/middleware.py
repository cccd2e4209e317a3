"""What happens to every HTTP request before anything else."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

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
