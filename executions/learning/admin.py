"""The admin of what was learned."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from agentflow.governance.admin_base import ChoiceFilter, WorkspaceFilter, WorkspaceScopedAdmin
from executions.recovery.decision import Cause, Strategy
from executions.recovery.ordering import Tried

from .models import StrategyTally


class ScopeFilter(ChoiceFilter):
    title, parameter_name = "counted", "of"
    choices_of: ClassVar[Any] = {
        "workspace": ("All templates together", {"template": None}),
        "template": ("Each template", {"template__isnull": False}),
    }


class StrategyFilter(ChoiceFilter):
    title = parameter_name = "strategy"
    choices_of: ClassVar[Any] = {str(each): (str(each), {"strategy": str(each)}) for each in Strategy}


class CauseFilter(ChoiceFilter):
    title = parameter_name = "cause"
    choices_of: ClassVar[Any] = {str(each): (str(each), {"cause": str(each)}) for each in Cause}


@admin.register(StrategyTally)
class StrategyTallyAdmin(WorkspaceScopedAdmin):
    """To look at: it is counted by the clock."""

    list_display = ("strategy", "code", "cause", "scope", "week", "taken", "helped", "took", "workspace")
    list_display_links = None
    list_filter = (ScopeFilter, StrategyFilter, CauseFilter, WorkspaceFilter)
    list_select_related = ("workspace", "template")
    search_fields = ("code", "template__name")
    search_help_text = "Part of the code or of the template's name"
    ordering = ("-week", "-taken", "id")
    empty_words = (
        "What the strategies of recovery came to appears here, some seconds after the first failure."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[StrategyTally]:
        rows: QuerySet[StrategyTally] = super().get_queryset(request)
        return rows.select_related("workspace", "template").defer("template__search_text")

    @display(description="Of")  # type: ignore[untyped-decorator]  # unfold ships no types
    def scope(self, tally: StrategyTally) -> str:
        return tally.template.name if tally.template is not None else "All templates"

    @display(description="Helped")  # type: ignore[untyped-decorator]  # as above
    def helped(self, tally: StrategyTally) -> str:
        if not tally.tries:
            return "-"
        return f"{tally.recovered} of {tally.tries} ({tally.recovered / tally.tries:.0%})"

    @display(description="Took on average")  # type: ignore[untyped-decorator]  # as above
    def took(self, tally: StrategyTally) -> str:
        mean_s = Tried(tally.tries, tally.recovered, tally.seconds).mean_s
        return f"{mean_s:.1f} s" if tally.tries else "-"
