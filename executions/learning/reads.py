"""What is read of what was learned."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.db.models import F, QuerySet, Sum
from django.utils import timezone

from agentflow.errors import NotFound
from agentflow.governance.access import Principal
from agentflow.types import JSONObject
from executions.recovery.ordering import Tried
from templates_app.models import TemplateVersion

from . import evidence
from .facts import failing
from .models import Proposal, StrategyTally
from .proposing import merge

COUNTS = ("taken", "tries", "recovered", "seconds")


def strategies(
    user: Principal,
    *,
    weeks: int,
    workspace_id: UUID | None = None,
    template_id: UUID | None = None,
    cause: str | None = None,
    code: str | None = None,
) -> QuerySet[StrategyTally, JSONObject]:
    """What came of strategies in the last weeks, this one among them: of one template, or of workspaces."""
    since = timezone.now().date() - timedelta(weeks=weeks)
    rows = StrategyTally.objects.visible_to(user).filter(template=template_id, week__gt=since)
    given = {"workspace": workspace_id, "cause": cause, "code": code}
    rows = rows.filter(**{name: value for name, value in given.items() if value is not None})
    grouped: Any = (
        rows.values("workspace_id", "template_id", "cause", "code", "strategy")
        .annotate(**{f"sum_{name}": Sum(name) for name in COUNTS})
        .order_by(F("sum_taken").desc(), "cause", "code", "strategy", "workspace_id")
    )
    return cast("QuerySet[StrategyTally, JSONObject]", grouped)


def strategy_as_json(row: Any) -> JSONObject:
    tried = Tried(row["sum_tries"], row["sum_recovered"], row["sum_seconds"])
    return {
        "workspaceId": row["workspace_id"],
        "templateId": row["template_id"],
        "cause": row["cause"],
        "code": row["code"],
        "strategy": row["strategy"],
        "taken": row["sum_taken"],
        "tries": tried.tries,
        "recovered": tried.recovered,
        "successRate": round(tried.recovered / tried.tries, 4) if tried.tries else None,
        "meanSeconds": round(tried.mean_s, 3) if tried.tries else None,
    }


# -- proposals -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which proposals a list shows; None and empty mean any."""

    states: Collection[str] = ()
    kinds: Collection[str] = ()
    workspace_id: UUID | None = None
    template_id: UUID | None = None


def proposals(user: Principal, chosen: Filter | None = None) -> QuerySet[Proposal]:
    """Those that `user` may see, the newest first."""
    chosen = chosen or Filter()
    rows = (
        Proposal.objects.visible_to(user)
        .select_related("template", "decided_by")
        .defer("template__search_text")
        .order_by("-created_at", "pk")
    )
    if chosen.states:
        rows = rows.filter(state__in=chosen.states)
    if chosen.kinds:
        rows = rows.filter(kind__in=chosen.kinds)
    if chosen.workspace_id is not None:
        rows = rows.filter(workspace_id=chosen.workspace_id)
    if chosen.template_id is not None:
        rows = rows.filter(template_id=chosen.template_id)
    return rows


def find(user: Principal, proposal_id: UUID) -> Proposal:
    """One proposal.

    Raises:
        NotFound: there is none, or `user` may not see it.
    """
    found = proposals(user).filter(pk=proposal_id).first()
    if found is None:
        raise NotFound("There is no such proposal.")
    return found


def change(proposal: Proposal) -> tuple[JSONObject, JSONObject]:
    """The block as its base version has it, and as it would be; empty where there is no such block."""
    version = TemplateVersion.objects.filter(template=proposal.template_id, number=proposal.base).first()
    blocks = version.definition["blocks"] if version is not None else []
    before: JSONObject = next((each for each in blocks if each["blockId"] == proposal.block_id), {})
    return before, merge(before, proposal.patch)


def measured(proposal: Proposal) -> JSONObject | None:
    """The share that the evidence measured, since the accepted version runs; None: nothing has run yet."""
    if proposal.made is None:
        return None
    seen = evidence.of_version(proposal.template_id, proposal.made, proposal.block_id)
    told = proposal.evidence
    share = failing(seen, told["measure"], told["codes"])
    if not share.of:
        return None
    return {"share": round(share.value, 4), "failures": share.count, "of": share.of}


def proposal_as_json(row: Proposal) -> JSONObject:
    return {
        "proposalId": row.pk,
        "workspaceId": row.workspace_id,
        "templateId": row.template_id,
        "templateName": row.template.name,
        "baseVersion": row.base,
        "blockId": row.block_id,
        "kind": row.kind,
        "state": row.state,
        "patch": row.patch,
        "evidence": row.evidence,
        "predicted": row.predicted,
        "madeVersion": row.made,
        "decidedBy": row.decided_by.get_username() if row.decided_by else None,
        "decidedAt": row.decided_at,
        "reason": row.reason,
        "createdAt": row.created_at,
        "seenAt": row.seen_at,
    }
