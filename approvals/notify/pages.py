"""Pages: the answer by a link from a mail."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from agentflow.api.templatetags.agentflow_ui import words
from agentflow.errors import AgentflowError, Conflict, NotFound, NotPermitted

from ..models import Approval
from . import links, messages, rates
from .links import Standing, Visit
from .states import LinkAction

COMMENT_CHARS = 10_000
VISITS_A_MINUTE = 60  # to one link, and to links that are none from one address
TRIES_A_MINUTE = 10  # to decide, with one link
# Of a request; whatever else it has is part of what is decided.
_SHOWN_APART = {"title", "description", "facts", "options", "onReject"}
STATUS = {
    Standing.BARRED: HTTPStatus.FORBIDDEN,
    Standing.OTHER: HTTPStatus.FORBIDDEN,
    Standing.EXPIRED: HTTPStatus.GONE,
    Standing.CHANGED: HTTPStatus.CONFLICT,
}


@sensitive_variables("token")
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def decide(request: HttpRequest, token: str) -> HttpResponse:
    """GET shows the question, whoever or whatever follows the link; POST decides."""
    try:
        return _private(_visited(request, token))
    except NotFound as error:
        if wait := rates.exceeded("link-miss", _address(request), most=VISITS_A_MINUTE, window_s=60):
            return _private(_too_often(wait))
        raise Http404(error.message) from error


def _visited(request: HttpRequest, token: str) -> HttpResponse:
    """
    Raises:
        NotFound: there is no such link, or not any more.
    """
    found = links.visit(token, request.user)
    posted = request.method == "POST"
    most = TRIES_A_MINUTE if posted else VISITS_A_MINUTE
    if wait := rates.exceeded(f"link-{request.method}", str(found.link.pk), most=most, window_s=60):
        return _too_often(wait)
    return _post(request, token, found) if posted else _page(request, token, found)


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR"))


def _post(request: HttpRequest, token: str, found: Visit) -> HttpResponse:
    comments = request.POST.get("comments", "").replace("\r\n", "\n").strip()
    if len(comments) > COMMENT_CHARS or "\x00" in comments:
        return _page(request, token, found, trouble="The comment is too long or has unreadable characters.")
    try:
        links.decide(token, request.user, comments=comments)
    except NotPermitted as error:
        return _page(request, token, found, trouble=error.message, status=HTTPStatus.FORBIDDEN)
    except (Conflict, NotFound):  # somebody came first, or it is over: the page says what happened
        return _page(request, token, links.visit(token, request.user), status=HTTPStatus.CONFLICT)
    except AgentflowError as error:
        return _page(request, token, found, trouble=error.message)
    return HttpResponseRedirect(request.path)  # a reload shows what was done, and does nothing


def _page(
    request: HttpRequest,
    token: str,
    found: Visit,
    *,
    trouble: str = "",
    status: int | None = None,
) -> HttpResponse:
    context: dict[str, Any] = {
        "standing": found.standing.value,
        "trouble": trouble,
        "approves": found.link.action == LinkAction.APPROVE,
        "here": request.path,
    }
    if found.shows:
        context |= _shown(found.approval)
        context["used_at"] = found.link.used_at
    if status is None:
        status = HTTPStatus.BAD_REQUEST if trouble else STATUS.get(found.standing, HTTPStatus.OK)
    return render(request, "notify/decide.html", context, status=status)


def _shown(approval: Approval) -> dict[str, Any]:
    facts = approval.request.get("facts")
    rest = {key: value for key, value in approval.request.items() if key not in _SHOWN_APART}
    named = {**(facts if isinstance(facts, dict) else {}), **rest}
    return {
        "approval": approval,
        "title": messages.line(approval.request.get("title") or f"Approve: {approval.block_name}?", 300),
        "description": str(approval.request.get("description") or ""),
        "facts": [
            (words(str(key)), value) for key, value in named.items() if value not in (None, "", [], {})
        ],
        "outcome": messages.outcome(approval),
        "template_name": approval.execution.template_version.template.name,
    }


def _too_often(wait_s: int) -> HttpResponse:
    text = "Too many tries; wait a minute.\n"
    return HttpResponse(text, status=429, content_type="text/plain", headers={"Retry-After": wait_s})


def _private(response: HttpResponse) -> HttpResponse:
    """The address is a key: it goes to no other site, into no cache and no index.

    `no-referrer` would take the Origin from our own form as well, and the check against forgery with it.
    """
    response["Referrer-Policy"] = "same-origin"
    response["X-Robots-Tag"] = "noindex, nofollow"
    add_never_cache_headers(response)
    return response
