"""What the admin's page of an agent shows above and below its form, and does by its buttons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from ..api.templatetags.agentflow_ui import span, when
from ..governance.admin_base import Table, WorkspaceScopedAdmin, chip, condition_chip, link, page_of
from ..governance.models import User
from ..governance.roles import Permission
from ..workflow.daily import DayBudget, of_day
from ..workflow.health import Status
from . import charts, circuit, condition, performance
from .circuit import CircuitState
from .models import Agent, AgentVersion, Health
from .ports import Attempt, agent_uses
from .profile import Limits
from .services import circuits, health, registration, versions

ATTEMPTS, CALLERS, TEMPLATES, VERSIONS_PER_PAGE = 10, 10, 50, 10
CHANGES = 12  # of a version, so many are shown
CHANGE_CHARS = 160
REASON_CHARS = 500

HEALTH = {Health.HEALTHY: "completed", Health.UNHEALTHY: "failed", Health.UNKNOWN: "pending"}
CIRCUITS = {
    "closed": ("completed", "Closed"),
    "open": ("failed", "Open"),
    "half_open": ("waiting_external", "Half-open"),
}
WHY_OPEN = {
    "unreachable": "Its last calls reached nobody.",
    "failures": "Too many of its calls failed.",
    "slow": "Too many of its calls were slow.",
    "probe": "The call that tried whether it is well again failed too.",
}
OUTCOMES = {"ok": ("completed", "Succeeded"), "error": ("failed", "Failed")}


class ReasonForm(ActionForm):  # type: ignore[misc]  # unfold ships no types
    """Beside the action: why, for the audit record."""

    reason = forms.CharField(
        required=False,
        max_length=REASON_CHARS,
        label="",
        widget=UnfoldAdminTextInputWidget(
            attrs={"placeholder": "Reason, for the record", "aria-label": "Reason, for the record"}
        ),
    )


def reason_of(request: HttpRequest) -> str:
    return request.POST.get("reason", "").strip()[:REASON_CHARS]


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the things that decide whether the agent is called."""

    title: str
    chip: SafeString
    words: Sequence[Any]  # a sentence each
    action: str = ""  # of `AgentPage.done`; empty: none
    button: str = ""


class AgentPage(WorkspaceScopedAdmin):
    """The part of the agent's admin that is no form."""

    change_form_outer_before_template = "admin/agents/agent.html"
    action_form = ReasonForm
    done: ClassVar[dict[str, str]] = {
        "on": "Switched on",
        "off": "Switched off",
        "check": "Looked at",
        "reset": "Closed the circuit of",
    }

    def get_urls(self) -> list[URLPattern]:
        name = "agents_agent_do"
        do = self.admin_site.admin_view(require_POST(self.do_view))
        return [path("<uuid:pk>/do/<slug:what>", do, name=name), *super().get_urls()]

    def do_view(self, request: HttpRequest, pk: UUID, what: str) -> HttpResponse:
        agent = self.get_queryset(request).filter(pk=pk).first()
        if agent is None or what not in self.done:
            return HttpResponseRedirect(reverse("admin:agents_agent_changelist"))
        if not self.has_change_permission(request, agent):
            raise PermissionDenied
        self.do(request, [agent], what)
        return HttpResponseRedirect(reverse("admin:agents_agent_change", args=[pk]))

    def do(self, request: HttpRequest, agents: Any, what: str) -> None:
        """One of `done` to each agent, with the reason that was given."""
        reason = reason_of(request)

        def act(agent: Agent, by: User) -> None:
            where: dict[str, Any] = {"by": by, "pk": agent.pk, "workspace_id": agent.workspace_id}
            if what == "check":
                health.check(**where)
            elif what == "reset":
                circuits.reset_circuit(**where, reason=reason)
            else:
                registration.switch_agent(**where, enabled=what == "on", reason=reason)

        self.each(request, agents, act, permission=Permission.MANAGE_AGENTS, done=self.done[what])

    def beside(self, request: HttpRequest, agent: Agent) -> dict[str, Any]:
        known = performance.capabilities(agent)
        name = request.GET.get("window", "")
        name = name if name in performance.WINDOWS else "24h"
        capability = request.GET.get("capability", "")
        capability = capability if capability in known else ""
        window = performance.window(agent, name, capability, at_most=charts.POINTS)
        begins, ends = charts.ends(window)
        return {
            "agent_page": {
                "agent": agent,
                "manages": self.has_change_permission(request, agent),
                "panels": panels(agent),
                "charts": charts.charts(window) if window.own else [],
                "columns": charts.COLUMNS,
                "rows": charts.rows(window),
                "begins": begins,
                "ends": ends,
                "windows": [(each, each == name) for each in performance.WINDOWS],
                "window": name,
                "capability": capability,
                "capabilities": [("", "All calls"), *((each, each) for each in known)],
                "kinds": window.total.kinds.most_common(6),
                "outside": window.outside,
                "outside_success": charts.percent(window.outside),
                "tables": [_callers(agent), _attempts(agent), _templates(agent), _versions(request, agent)],
            }
        }


# -- the panels -----------------------------------------------------------------


def panels(agent: Agent) -> list[Panel]:
    found = [_condition(agent), _state(agent), _health(agent), _circuit(agent), _load(agent)]
    budget = of_day(agent.budget)
    return found if budget is None else [*found, _budget(agent, budget)]


def _condition(agent: Agent) -> Panel:
    found = condition.of(agent)
    said = [f"{reason.message} {reason.remedy}" for reason in found.reasons]
    said += [figure.sentence for figure in found.moved]
    if not said:
        said = [
            "Nothing is known against it."
            if found.status is Status.HEALTHY
            else "Nothing was seen of it yet."
        ]
    return Panel("How it is", condition_chip(found), said)


def _state(agent: Agent) -> Panel:
    if agent.gone_at:
        said = format_html("Its source no longer listed it {}.", when(agent.gone_at, "ago"))
        return Panel("In use", chip("cancelled", word="Gone"), [said], "on", "Switch on")
    where = f"Chosen in {agent.environment} only." if agent.environment else "May be chosen anywhere."
    origin = format_html("Found by {}.", page_of(agent.source)) if agent.source else "Entered by hand."
    if agent.enabled:
        return Panel("In use", chip("completed", word="On"), [where, origin], "off", "Switch off")
    return Panel("In use", chip("cancelled", word="Off"), ["No block calls it.", origin], "on", "Switch on")


def _health(agent: Agent) -> Panel:
    said: list[Any] = []
    if agent.health_checked_at is None:
        said.append("Nobody has looked yet.")
    else:
        said.append(format_html("Looked at {}.", when(agent.health_checked_at, "ago")))
    if agent.health_reason:
        said.append(agent.health_reason)
    last = list(agent.checks.order_by("-pk")[:10])
    if last:
        well = sum(each.ok for each in last)
        quick = sorted(each.ms for each in last)[len(last) // 2]
        looks = "the one look" if len(last) == 1 else f"the last {len(last)} looks"
        said.append(f"{well} of {looks} went well, in about {charts.ms(quick)}.")
    look = chip(HEALTH[Health(agent.health)], word=str(Health(agent.health).label))
    return Panel("Health check", look, said, "check", "Look now")


def _circuit(agent: Agent) -> Panel:
    found = circuit.state_of(agent)
    status, word = CIRCUITS[found.state]
    action = ("", "") if found.closed else ("reset", "Close it")
    return Panel("Circuit", chip(status, word=word), _circuit_words(found), *action)


def _circuit_words(found: CircuitState) -> list[str]:
    if found.closed:
        if not found.calls:
            return ["Calls go through. None was made within its window."]
        slow = f", {found.slow} slow" if found.slow else ""
        return [f"Calls go through: {found.calls} within its window, {found.failures} failed{slow}."]
    said = [WHY_OPEN.get(found.why, "Its calls failed."), f"Not called for {span(found.down_s)}."]
    if found.state == "open":
        said.append(f"One call tries it again in {span(found.retry_s)}.")
    else:
        said.append("One call may try it now; if that goes well, it closes.")
    return said


def _load(agent: Agent) -> Panel:
    held, waiting = agent_uses().load(agent)
    limits = Limits.model_validate(agent.limits or {})
    of = f" of {limits.concurrency}" if limits.concurrency else ""
    said = [f"{held}{of} {'place' if (limits.concurrency or held) == 1 else 'places'} taken."]
    said.append(f"{waiting} {'block waits' if waiting == 1 else 'blocks wait'} for it.")
    if limits.rate_per_minute:
        said.append(f"At most {limits.rate_per_minute} calls a minute.")
    if not limits.concurrency and not limits.rate_per_minute:
        said.append("It has no limits: only calls that chose it are counted.")
    full = limits.concurrency is not None and held >= limits.concurrency
    if waiting or full:
        look = chip("waiting_external", word="Full" if full else "Waited for")
    else:
        look = chip("running", word="At work") if held else chip("ready", word="Free")
    return Panel("Load", look, said)


def _budget(agent: Agent, budget: DayBudget) -> Panel:
    spent, allowed = agent_uses().budget(agent)
    used = {"tokens": spent.get("tokens", 0.0), "cost": spent.get(budget.currency, 0.0)}
    units = {"tokens": "tokens", "cost": budget.currency}
    said = [f"{used[part]:,.10g} of {most:,.10g} {units[part]} used today." for part, most in allowed.items()]
    asked = "a person is asked" if budget.when_spent == "ask" else "blocks wait for the next day"
    said.append(f"Then {asked}. A day begins at 00:00 UTC.")
    if any(used[part] >= most for part, most in allowed.items()):
        look = chip("waiting_human", word="Used up")
    elif any(used[part] >= most * budget.soft_share for part, most in allowed.items()):
        look = chip("waiting_external", word="Runs low")
    else:
        look = chip("completed", word="Enough")
    return Panel("Budget", look, said)


# -- the tables -------------------------------------------------------------------


def rows_table(
    title: str, columns: Sequence[str], rows: Sequence[Any], anchor: str, *, empty: str = ""
) -> Table:
    """All rows on one page."""
    page = Paginator(rows, max(len(rows), 1)).get_page(1)
    return Table(
        title=title, columns=columns, rows=rows, page=page, anchor=anchor, empty=empty, page_parameter="p"
    )


def _callers(agent: Agent) -> Table | None:
    """Who is at work with it and who waits; None: nobody."""
    found = agent_uses().callers(agent, CALLERS)
    if not found:
        return None
    rows = [
        (
            link(each.url, each.template),
            each.block_id,
            chip("running") if each.held else chip("waiting_external", word="Waits for it"),
            when(each.since, "ago") if each.since else "-",
        )
        for each in found
    ]
    return rows_table("Now", ("Execution", "Block", "State", "Since"), rows, "now")


def _attempts(agent: Agent) -> Table:
    rows = [
        (
            link(each.url, each.template),
            each.block_id,
            _outcome(each),
            charts.ms(each.ms),
            when(each.ended_at, "ago"),
            each.message or each.code or "-",
        )
        for each in agent_uses().attempts(agent, ATTEMPTS)
    ]
    columns = ("Execution", "Block", "Outcome", "Took", "Ended", "What went wrong")
    empty = "None of the newest calls in this service went to it."
    return rows_table("Last calls", columns, rows, "attempts", empty=empty)


def _outcome(attempt: Attempt) -> SafeString:
    status, word = OUTCOMES.get(attempt.outcome, ("cancelled", attempt.outcome.capitalize()))
    again = f", try {attempt.number}" if attempt.number > 1 else ""
    return chip(status, word=word + again)


def _templates(agent: Agent) -> Table:
    names = {str(each["name"]) for each in agent.capabilities or () if isinstance(each, dict)}
    rows = [
        (
            link(each.url, f"{each.name} v{each.number}"),
            "By its name" if each.named else f"May choose it, for {', '.join(each.capabilities)}",
        )
        for each in agent_uses().templates(agent, names, TEMPLATES)
    ]
    return rows_table(
        "Templates that use it",
        ("Template", "How"),
        rows,
        "templates",
        empty="No template in use names it, or asks for what it can do.",
    )


def _versions(request: HttpRequest, agent: Agent) -> Table:
    found = agent.versions.select_related("created_by").order_by("-number")
    page = Paginator(found, VERSIONS_PER_PAGE).get_page(request.GET.get("version_page"))
    shown: list[AgentVersion] = list(page.object_list)
    numbers = [each.number - 1 for each in shown]
    before = {each.number: each for each in agent.versions.filter(number__in=numbers)}
    return Table(
        title=f"Versions ({page.paginator.count})",
        columns=("Version", "Since", "By", "What changed", "SHA-256"),
        rows=[
            (
                f"{each.number}{' (now)' if each.number == agent.version else ''}",
                _moment(each.created_at),
                str(each.created_by or "-"),
                _changes(before.get(each.number - 1), each),
                each.sha256[:12],
            )
            for each in shown
        ],
        page=page,
        anchor="versions",
        empty="No version was kept.",
        page_parameter="version_page",
    )


def _moment(at: datetime) -> str:
    return timezone.localtime(at).strftime("%Y-%m-%d %H:%M")


def _changes(before: AgentVersion | None, after: AgentVersion) -> SafeString | str:
    if before is None:
        return "The first" if after.number == 1 else "-"
    found = versions.differences(before, after)
    if not found:
        return "A value that is not shown"
    lines = format_html_join(
        "",
        "<li><code>{}</code> <del>{}</del> <ins>{}</ins></li>",
        ((each.path, _text(each.before), _text(each.after)) for each in found[:CHANGES]),
    )
    more = f"and {len(found) - CHANGES} more" if len(found) > CHANGES else ""
    return format_html('<ul class="af-diff">{}</ul>{}', lines, more)


def _text(value: Any) -> str:
    if value is versions.ABSENT:
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= CHANGE_CHARS else f"{text[:CHANGE_CHARS]}…"
