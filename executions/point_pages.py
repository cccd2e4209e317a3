"""Recovery points on the page of an execution: the list, and what going back or forking would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from agentflow.errors import AgentflowError, NotFound
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from . import facts, selectors, spending
from .facts import NOTHING_KNOWN
from .models import Execution, PointKind, RecoveryPoint
from .services import forking, restarting
from .services.forking import ForkRequest
from .services.restarting import RestartRequest
from .states import TERMINAL

SHOWN = 50
NAMED = 6
KINDS = {
    PointKind.INTERVAL: "On the way",
    PointKind.CHECKPOINT: "Checkpoint",
    PointKind.DECISION: "Decision",
    PointKind.RESTART: "Before a restart",
    PointKind.MANUAL: "By hand",
}


@dataclass(frozen=True, slots=True)
class PointRow:
    """One line of the list."""

    point: RecoveryPoint
    kind: str

    @property
    def by_hand(self) -> bool:
        return self.point.kind == PointKind.MANUAL


def _found(request: HttpRequest, execution_id: UUID) -> tuple[User, Execution]:
    by = access.signed_in(request.user)
    try:
        return by, selectors.find(by, execution_id)
    except NotFound as error:
        raise Http404(error.message) from error


@login_required
@require_GET
def execution_points(request: HttpRequest, execution_id: UUID) -> HttpResponse:
    """The newest recovery points."""
    user, execution = _found(request, execution_id)
    found = selectors.points(execution)
    ended = execution.status in TERMINAL and execution.parent_block_id is None
    context = {
        "execution": execution,
        "rows": [PointRow(point, KINDS[PointKind(point.kind)]) for point in found[:SHOWN]],
        "total": found.count(),
        "blocks": selectors.count_blocks(execution),
        "may_operate": access.can(user, Permission.OPERATE, execution.workspace_id),
        "may_restore": ended,
    }
    return render(request, "executions/points.html", context)


@login_required
@require_GET
def execution_point(request: HttpRequest, execution_id: UUID, point_id: int) -> HttpResponse:
    """What `?do=restore` or `?do=fork` would do from here, to be confirmed."""
    user, execution = _found(request, execution_id)
    if not access.can(user, Permission.OPERATE, execution.workspace_id):
        raise PermissionDenied
    fork = request.GET.get("do") == "fork"
    context: dict[str, Any] = {"point_id": point_id, "fork": fork}
    try:
        if fork:
            plan = forking.preview(source=execution, request=ForkRequest(point_id=point_id))
        else:
            plan = restarting.preview(execution_id=execution.pk, request=RestartRequest(point_id=point_id))
        context |= _summary(execution, plan)
    except NotFound as error:
        raise Http404(error.message) from error
    except AgentflowError as error:
        context["problem"] = f"{error.message} {error.remedy}".strip()
    return render(request, "executions/point.html", context)


def _summary(execution: Execution, plan: JSONObject) -> dict[str, Any]:
    known = facts.of_version(execution.template_version_id)

    def names(block_ids: Sequence[str]) -> str:
        shown = [known.get(each, NOTHING_KNOWN).name or each for each in block_ids[:NAMED]]
        more = len(block_ids) - NAMED
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    approvals: JSONObject = plan.get("approvals") or {}
    return {
        "plan_id": plan.get("planId", ""),
        "reruns": len(plan["reruns"]),
        "carried": len(plan["carried"]),
        "again": names(plan["reruns"]),
        "survive": names(approvals.get("survive", [])),
        "asked_again": names(approvals.get("askedAgain", [])),
        "twice": names([each["blockId"] for each in plan.get("onceEffectsRepeated", [])]),
        "estimated_s": None if plan.get("estimatedMs") is None else plan["estimatedMs"] / 1000,
        "estimated_cost": spending.words({"cost": plan.get("estimatedCost")}),
    }
