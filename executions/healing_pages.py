"""The self-healing flow on the page of an execution."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.types import JSONObject

from . import facts, selectors
from .facts import NOTHING_KNOWN
from .recovery import timeline

SHOWN = 50
CAUSES = {
    "transient": "Transient: time may mend it",
    "agent": "The agent's: another may mend it",
    "configuration": "Configuration: a person may mend it",
    "critical": "Critical: nothing mends it",
    "unknownOutcome": "Its effect may have happened, and must happen once",
    "workerLost": "Its worker vanished",
    "poison": "Every worker that took it vanished",
}
STRATEGIES = {
    "retry": "Tried again",
    "reassign": "Given to another agent",
    "queue": "Waits until an agent is available",
    "restart": "The execution goes back to its last recovery point",
    "ask": "A person was asked",
    "compensate": "What was done is undone, and the execution ends",
    "fail": "The step failed",
}
RESULTS = {
    "recovered": "It worked",
    "failed_again": "It failed again",
    "waiting": "Open",
    "by_hand": "Settled by a person",
    "ended": "It ended so",
    "restarted": "Ended, to run again",
}


@login_required
@require_GET
def execution_healing(request: HttpRequest, execution_id: UUID) -> HttpResponse:
    """The newest failures and what was done about them; nothing where there were none."""
    try:
        execution = selectors.find(access.signed_in(request.user), execution_id)
    except NotFound as error:
        raise Http404(error.message) from error
    rows = timeline.decided(execution)
    newest = list(rows.reverse()[:SHOWN])
    known = facts.of_version(execution.template_version_id)
    context = {
        "execution": execution,
        "total": rows.count() if len(newest) == SHOWN else len(newest),
        "rows": [
            _words(entry, known.get(entry["blockId"], NOTHING_KNOWN).name)
            for entry in timeline.entries(newest)
        ],
    }
    return render(request, "executions/healing.html", context)


def _learned(learned: JSONObject | None) -> str:
    """Why another rung came first than the one that is written first."""
    if not learned:
        return ""
    of = f"{learned['code']} failures" if learned.get("code") else f"{learned['cause']} failures"
    results = [(name, learned["results"][name]) for name in learned["order"] if name in learned["results"]]
    told = [
        f"{name} helped in {each['recovered']} of {each['tries']} tries, in {each['meanSeconds']:.1f} s each"
        for name, each in results
    ]
    return f"Order learned from {of} of the {learned['scope']}: {'; '.join(told)}."


def _words(entry: JSONObject, name: str) -> JSONObject:
    strategy, restored = entry["strategy"], entry["restoredState"]
    did = STRATEGIES.get(strategy["name"], strategy["name"])
    if strategy["agentId"]:
        did += f": {strategy['agentId']}"
    if (strategy["afterSeconds"] or 0) >= 0.1:
        did += f", after {strategy['afterSeconds']:.1f} s"
    return {
        **entry,
        "name": name or entry["blockId"],
        "cause": CAUSES.get(entry["classification"]["cause"], entry["classification"]["kind"]),
        "restored": restored and ("The step" if restored["of"] == "block" else "The execution"),
        "did": did,
        "learned": _learned(strategy["learned"]),
        "outcome": RESULTS[entry["result"]["status"]],
    }
