"""What is read of what was learned."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.db.models import F, QuerySet, Sum
from django.utils import timezone

from agentflow.governance.access import Principal
from agentflow.types import JSONObject
from executions.recovery.ordering import Tried

from .models import StrategyTally

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
