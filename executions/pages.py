"""The pages of executions: the list, and one run with its live graph, timeline and log.

The server writes all words; the browser only draws the graph and the timeline from `page_data`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET

from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission

from . import condition, facts, page_data, selectors, snapshot, spending
from .faults import service as faults
from .models import Execution
from .narration import choice_words
from .states import ExecutionStatus

PAGE_ROWS = 50
STEP_TABS = (("explain", "Explain"), ("values", "In and out"), ("tries", "Attempts"))


def _user(request: HttpRequest) -> User:
    return access.signed_in(request.user)


def _find(request: HttpRequest, execution_id: UUID) -> Execution:
    try:
        return selectors.find(_user(request), execution_id)
    except NotFound as error:
        raise Http404(error.message) from error


@login_required
@require_GET
def execution_list(request: HttpRequest) -> HttpResponse:
    """Runs, the newest first.  htmx asks for the table alone: as one types, and to stay fresh."""
    asked = {name: request.GET.get(name, "").strip()[:200] for name in ("status", "search", "simulated")}
    if asked["status"] not in ExecutionStatus.values:
        asked["status"] = ""
    chosen = selectors.Filter(
        statuses=[asked["status"]] if asked["status"] else (),
        search=asked["search"],
        simulated={"yes": True, "no": False}.get(asked["simulated"]),
    )
    page = Paginator(selectors.matching(_user(request), chosen), PAGE_ROWS).get_page(request.GET.get("page"))
    executions = list(page.object_list)
    done = selectors.progress(execution.pk for execution in executions)
    waiting = page_data.waiting_for_people(executions)
    context = {
        "nav": "executions",
        "page": page,
        "rows": [
            page_data.ListRow(execution, done.get(execution.pk), waiting.get(execution.pk, 0))
            for execution in executions
        ],
        "asked": asked,
        "query": urlencode({name: value for name, value in asked.items() if value}),
        "statuses": ExecutionStatus.values,
        "filtered": any(asked.values()),
        "faults": faults.active(faults.injections(_user(request))),
    }
    part = request.headers.get("HX-Request") and not request.headers.get("HX-Boosted")
    return render(request, f"executions/{'table' if part else 'list'}.html", context)


@login_required
@require_GET
def execution_page(request: HttpRequest, execution_id: UUID) -> HttpResponse:
    execution = _find(request, execution_id)
    version = execution.template_version
    context = _head(request, execution) | {
        "nav": "executions",
        "version": version,
        "block_count": selectors.count_blocks(execution),
        "page_facts": {
            "id": str(execution.pk),
            "graph": f"/executions/{execution.pk}/graph?version={version.content_hash}"
            f"&undo={page_data.undoing(execution)}",
            "undo": page_data.undoing(execution),
        },
    }
    return render(request, "executions/execution.html", context)


@login_required
@require_GET
def execution_graph(request: HttpRequest, execution_id: UUID) -> HttpResponse:
    """Steps and edges.  The version's hash in the address makes them cacheable, and the epoch that undoes."""
    response = JsonResponse(page_data.graph(_find(request, execution_id)))
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response


@login_required
@require_GET
def execution_state(request: HttpRequest, execution_id: UUID) -> HttpResponse:
    """What changes: the state of every step, and the head of the page as HTML."""
    execution = _find(request, execution_id)
    head = _head(request, execution)
    state = page_data.state(execution)
    state["head"] = render_to_string("executions/head.html", head, request)
    return JsonResponse(state)


def _head(request: HttpRequest, execution: Execution) -> dict[str, Any]:
    user = _user(request)
    return {
        "execution": execution,
        "progress": selectors.progress([execution.pk]).get(execution.pk),
        "why": page_data.why(execution, user),
        "stuck_since": condition.stuck_since(execution.pk),
        "used": spending.words(spending.of_run(execution.pk)),
        "undoable": facts.compensates(execution.template_version_id),
        "may_operate": access.can(user, Permission.OPERATE, execution.workspace_id),
    }


@login_required
@require_GET
def execution_step(request: HttpRequest, execution_id: UUID) -> HttpResponse:
    """One step as the right panel shows it."""
    execution = _find(request, execution_id)
    try:
        block = selectors.find_block(execution, request.GET.get("block", ""))
    except NotFound as error:
        raise Http404(error.message) from error
    detail = snapshot.block_detail(execution, block)
    for attempt in detail["attempts"]:
        attempt["choice"] = choice_words(attempt["receipt"])
        attempt["used"] = spending.words(attempt["usage"])
    did = [page_data.agent_step(each) for each in selectors.steps(block)[: page_data.AGENT_STEPS]]
    tab = request.GET.get("tab", "")
    context = {
        "execution": execution,
        "step": detail,
        "did": did,
        "says": page_data.step_sentence(execution, block),
        "facts": page_data.step_facts(execution, detail),
        "tab": tab if tab in dict(STEP_TABS) else "explain",
        "tabs": STEP_TABS,
    }
    return render(request, "executions/step.html", context)
