from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from ..governance.admin_base import (
    BaseList,
    ChoiceFilter,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    json_text,
    readable,
)
from ..governance.json_fields import JSONObjectField, StrictJSONField
from ..governance.models import User
from ..governance.roles import Permission
from ..types import JSONValue
from . import circuit as circuits
from . import configuration as configurations
from . import performance, selectors
from .agent_page import AgentPage
from .models import Agent, Health
from .services import registration
from .services.registration import AgentFields
from .warning_models import Signal

if TYPE_CHECKING:
    _AgentModelForm = forms.ModelForm[Agent]
else:  # Django's own class takes no parameter
    _AgentModelForm = forms.ModelForm

# Where an issue of the REST body belongs on the form.
_FORM_FIELDS = {
    "agentId": "agent_id",
    "inputSchema": "input_schema",
    "outputSchema": "output_schema",
    "healthCheck": "health_check",
}


# JSON that who may only look sees as text, and what nobody writes by hand.
_SHOWN = (
    "capabilities",
    "cost",
    "limits",
    "budget",
    "health_check",
    "measures",
    "input_schema",
    "output_schema",
)
_STATE = ("last_checks",)


class AgentForm(_AgentModelForm):
    """Checked by the same rules as a POST to /api/v1/agents."""

    configuration = JSONObjectField(or_empty=True, help_text="Secrets read as ******** and stay if left so.")
    capabilities = StrictJSONField(
        required=False, help_text='What it can do: [{"name": "orders.read", "tags": ["crm"]}], or just names.'
    )
    cost = JSONObjectField(or_empty=True, help_text='{"perCall": 0.01, "perInputToken": 0.000002}')
    limits = JSONObjectField(or_empty=True, help_text='{"concurrency": 4, "ratePerMinute": 120}')
    budget = JSONObjectField(
        or_empty=True,
        help_text='Of a day, by UTC: {"cost": 20, "currency": "EUR", "softShare": 0.8, "whenSpent": "ask"}.'
        ' "wait": until the next day, unasked.',
    )
    health_check = JSONObjectField(
        or_empty=True, help_text='{"url": "https://...", "intervalSeconds": 60, "failures": 3}'
    )
    measures = JSONObjectField(
        or_empty=True, help_text='{"circuit": {"failureRate": 0.5, "slowMs": 2000}, "outsideWeight": 0.2}'
    )
    input_schema = JSONObjectField()
    output_schema = JSONObjectField()

    class Meta:
        model = Agent
        fields = [
            "workspace",
            "agent_id",
            "name",
            "description",
            "tool_type",
            "configuration",
            "capabilities",
            "cost",
            "limits",
            "budget",
            "environment",
            "health_check",
            "measures",
            "effect",
            "input_schema",
            "output_schema",
            "enabled",
        ]
        widgets = {"description": UnfoldAdminTextareaWidget(attrs={"rows": 2})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored = dict(self.instance.configuration or {})
        self.initial["configuration"] = configurations.hidden(self.stored)

    def clean_capabilities(self) -> JSONValue:
        given = self.cleaned_data["capabilities"] or []
        if not isinstance(given, list):
            raise ValidationError("Capabilities are a list.")
        return given

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        workspace_id = self.workspace_id
        if self.errors or workspace_id is None:
            return cleaned
        taken = Agent.objects.filter(workspace_id=workspace_id, agent_id=cleaned["agent_id"])
        if taken.exclude(pk=self.instance.pk).exists():
            self.add_error("agent_id", "The workspace already has an agent of that name.")
            return cleaned
        fields = self.fields_of(cleaned, configurations.restored(cleaned["configuration"], self.stored))
        try:
            registration.check(workspace_id, fields, before=self.stored)
        except registration.BadAgent as error:
            for issue in error.issues:
                name = issue["pointer"].split("/")[1]
                self.add_error(_FORM_FIELDS.get(name, name), f"{issue['pointer']}: {issue['message']}")
        return cleaned

    @property
    def workspace_id(self) -> UUID | None:
        chosen = self.cleaned_data.get("workspace")
        return chosen.pk if chosen else self.instance.workspace_id

    @staticmethod
    def fields_of(cleaned: dict[str, Any], configuration: JSONValue) -> AgentFields:
        return AgentFields(
            agent_id=cleaned["agent_id"],
            name=cleaned["name"],
            tool_type=cleaned["tool_type"],
            description=cleaned["description"],
            configuration=configuration,
            capabilities=cleaned["capabilities"],
            cost=cleaned["cost"],
            limits=cleaned["limits"],
            budget=cleaned["budget"],
            health_check=cleaned["health_check"],
            measures=cleaned["measures"],
            environment=cleaned["environment"],
            effect=cleaned["effect"] or None,
            input_schema=cleaned["input_schema"],
            output_schema=cleaned["output_schema"],
            enabled=cleaned["enabled"],
        )


class Managed(WorkspaceScopedAdmin):
    """What operators keep: seen by all of a workspace, written by those who manage its agents."""

    add_permission = delete_permission = Permission.MANAGE_AGENTS


CIRCUITS = {"closed": "Closed", "open": "Open", "half_open": "Half-open"}


class CircuitFilter(admin.SimpleListFilter):
    title = "circuit"
    parameter_name = "circuit"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(CIRCUITS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Agent]) -> QuerySet[Agent]:
        if self.value() not in CIRCUITS:
            return queryset
        by_workspace: dict[UUID, dict[str, UUID]] = {}
        for pk, workspace_id, agent_id in queryset.values_list("pk", "workspace_id", "agent_id"):
            by_workspace.setdefault(workspace_id, {})[agent_id] = pk
        found = [
            pks[agent_id]
            for workspace_id, pks in by_workspace.items()
            for agent_id, state in circuits.states(workspace_id, pks).items()
            if state.state == self.value()
        ]
        return queryset.filter(pk__in=found)


class DriftFilter(admin.SimpleListFilter):
    title = "early warning"
    parameter_name = "drifts"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("any", "Fails more, or is slower, than usual"), *Signal.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Agent]) -> QuerySet[Agent]:
        if self.value() in Signal.values:
            return queryset.filter(warnings__signal=self.value(), warnings__ended_at=None)
        return queryset.filter(selectors.drifting()) if self.value() == "any" else queryset


class OriginFilter(ChoiceFilter):
    title = parameter_name = "origin"
    choices_of = {
        "source": ("Found by a source", {"source__isnull": False}),
        "hand": ("Entered by hand", {"source__isnull": True}),
        "gone": ("Gone from its source", {"gone_at__isnull": False}),
    }


class AgentList(BaseList):
    """Asks for the circuits and figures of the agents on the page together."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        shown: list[Agent] = list(self.result_list)
        by_workspace: dict[UUID, list[Agent]] = {}
        for agent in shown:
            by_workspace.setdefault(agent.workspace_id, []).append(agent)
        for workspace_id, agents in by_workspace.items():
            names = [agent.agent_id for agent in agents]
            states, stats = circuits.states(workspace_id, names), performance.stats(workspace_id, names)
            for agent in agents:
                agent.seen = (states[agent.agent_id], stats[agent.agent_id])  # type: ignore[attr-defined]
        self.result_list = shown


@admin.register(Agent)
class AgentAdmin(AgentPage, Managed):
    change_permission = Permission.MANAGE_AGENTS
    form = AgentForm
    list_display = (
        "agent_id",
        "name",
        "workspace",
        "tool_type",
        "effect",
        "lately",
        "healthy",
        "circuit",
        "state",
    )
    list_filter = (
        "tool_type",
        "enabled",
        "health",
        CircuitFilter,
        DriftFilter,
        "effect",
        OriginFilter,
        WorkspaceFilter,
    )
    empty_words = "An agent is what a block of a template calls: an API, a script, a model, a tool."
    search_fields = ("agent_id", "name", "description", "capabilities")
    search_help_text = "Words of name, description and capabilities"
    list_select_related = ("workspace",)
    actions = ("switch_on", "switch_off", "look_at_health", "reset_circuit")

    @display(  # type: ignore[untyped-decorator]
        description="State", label={"On": "success", "Off": "danger", "Gone": "warning"}
    )
    def state(self, agent: Agent) -> str:
        return "Gone" if agent.gone_at else "On" if agent.enabled else "Off"

    @display(  # type: ignore[untyped-decorator]
        description="Health", label={"Healthy": "success", "Unhealthy": "danger", "Unknown": "info"}
    )
    def healthy(self, agent: Agent) -> str:
        return Health(agent.health).label

    @display(  # type: ignore[untyped-decorator]
        description="Circuit", label={"Closed": "success", "Open": "danger", "Half-open": "warning"}
    )
    def circuit(self, agent: Agent) -> str:
        return CIRCUITS[agent.seen[0].state]  # type: ignore[attr-defined]  # AgentList

    @display(description="Calls in a day")  # type: ignore[untyped-decorator]
    def lately(self, agent: Agent) -> str:
        stats: performance.AgentStats = agent.seen[1]  # type: ignore[attr-defined]  # AgentList
        if not stats.calls:
            return "-"
        return f"{stats.calls:,}, {100 * stats.successes / stats.calls:.0f} % well"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[AgentList]:
        return AgentList

    def get_readonly_fields(self, request: HttpRequest, obj: Agent | None = None) -> list[str]:
        if obj is None:
            return []
        return ["workspace_name", *(f"shown_{name}" for name in _SHOWN), *_STATE]

    def get_fields(self, request: HttpRequest, obj: Agent | None = None) -> list[str]:
        fields = list(AgentForm.Meta.fields)
        if obj is None:
            return fields
        fields[0] = "workspace_name"  # an agent does not move
        if not self.has_change_permission(request, obj):
            # Who may only look gets no form, and so none of the form's care for secrets.
            fields.remove("configuration")
            for name in _SHOWN:
                fields[fields.index(name)] = f"shown_{name}"
        return [*fields, *_STATE]

    @display(description="Last checks")  # type: ignore[untyped-decorator]
    def last_checks(self, agent: Agent) -> str:
        rows = [(f"{each.at:%Y-%m-%d %H:%M:%S}", each) for each in agent.checks.order_by("-pk")]
        return readable({at: each.reason or f"well, {each.ms:.0f} ms" for at, each in rows})

    @display(description="Capabilities")  # type: ignore[untyped-decorator]
    def shown_capabilities(self, agent: Agent) -> str:
        return readable(agent.capabilities)

    @display(description="Cost")  # type: ignore[untyped-decorator]
    def shown_cost(self, agent: Agent) -> str:
        return readable(agent.cost)

    @display(description="Limits")  # type: ignore[untyped-decorator]
    def shown_limits(self, agent: Agent) -> str:
        return readable(agent.limits)

    @display(description="Budget of a day")  # type: ignore[untyped-decorator]
    def shown_budget(self, agent: Agent) -> str:
        return readable(agent.budget)

    @display(description="Health check")  # type: ignore[untyped-decorator]
    def shown_health_check(self, agent: Agent) -> str:
        return readable(agent.health_check)

    @display(description="Measures")  # type: ignore[untyped-decorator]
    def shown_measures(self, agent: Agent) -> str:
        return readable(agent.measures)

    @display(description="Input schema")  # type: ignore[untyped-decorator]
    def shown_input_schema(self, agent: Agent) -> str:
        return json_text(agent.input_schema)

    @display(description="Output schema")  # type: ignore[untyped-decorator]
    def shown_output_schema(self, agent: Agent) -> str:
        return json_text(agent.output_schema)

    def save_model(self, request: HttpRequest, obj: Agent, form: AgentForm, change: bool) -> None:
        fields = form.fields_of(form.cleaned_data, form.cleaned_data["configuration"])
        by = cast(User, request.user)
        if change:
            registration.update_agent(by=by, pk=obj.pk, workspace_id=obj.workspace_id, fields=fields)
        else:
            agent = registration.register_agent(by=by, workspace_id=obj.workspace_id, fields=fields)
            obj.pk = agent.pk

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        agent = cast(Agent, obj)
        registration.delete_agent(by=request.user, pk=agent.pk, workspace_id=agent.workspace_id)

    @action(description="Switch on", permissions=["manage"])  # type: ignore[untyped-decorator]
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self.do(request, queryset, "on")

    @action(description="Switch off", permissions=["manage"])  # type: ignore[untyped-decorator]
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self.do(request, queryset, "off")

    @action(description="Reset circuit", permissions=["manage"])  # type: ignore[untyped-decorator]
    def reset_circuit(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self.do(request, queryset, "reset")

    @action(description="Check health", permissions=["manage"])  # type: ignore[untyped-decorator]
    def look_at_health(self, request: HttpRequest, queryset: QuerySet[Agent]) -> None:
        self.do(request, queryset, "check")


from . import policy_admin, script_admin, source_admin  # noqa: E402, F401 - register their pages on top of this module
