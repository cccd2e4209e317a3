"""The admin of proposals: their list, and the page of one with its evidence and its change."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, ClassVar, cast
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_POST
from unfold.decorators import display

from agentflow.api.templatetags.agentflow_ui import when
from agentflow.errors import AgentflowError
from agentflow.governance import access
from agentflow.governance.admin_base import (
    ChoiceFilter,
    WorkspaceFilter,
    WorkspaceScopedAdmin,
    chip,
    link,
    page_of,
)
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from executions.incidents.models import Incident
from templates_app.models import TemplateVersion

from . import adapting, reads
from .facts import ATTEMPTS, Kind
from .models import Proposal
from .states import ProposalState

LOOKS = {
    ProposalState.OPEN: ("waiting_human", "Open"),
    ProposalState.ACCEPTED: ("completed", "Accepted"),
    ProposalState.DISMISSED: ("cancelled", "Dismissed"),
    ProposalState.WITHDRAWN: ("skipped", "Withdrawn"),
}
WORDS = {
    Kind.TIMEOUT: "More time",
    Kind.RETRY: "Try again",
    Kind.AGENT: "Another agent first",
    Kind.SPLIT: "One call for each entry",
    Kind.GUARD: "A guard",
}


class StateFilter(ChoiceFilter):
    title = parameter_name = "state"
    choices_of: ClassVar[Any] = {state.value: (word, {"state": state}) for state, (_, word) in LOOKS.items()}


class KindFilter(ChoiceFilter):
    title = parameter_name = "kind"
    choices_of: ClassVar[Any] = {kind.value: (word, {"kind": kind.value}) for kind, word in WORDS.items()}


@admin.register(Proposal)
class ProposalAdmin(WorkspaceScopedAdmin):
    """To decide about: nothing is edited by the form."""

    list_display = ("what", "shown_state", "template_name", "fails", "would", "created_at", "workspace")
    list_filter = (StateFilter, KindFilter, WorkspaceFilter)
    list_select_related = ("workspace", "template")
    search_fields = ("template__name", "block_id")
    search_help_text = "Part of the template's name or of the step"
    ordering = ("-created_at", "id")
    empty_words = "Where a step fails again and again in a way that a change would mend, it is proposed here."
    change_form_outer_before_template = "admin/executions/proposal.html"
    fields = (
        ("template_page", "workspace_name"),
        ("step", "changes"),
        ("created_at", "looked_at"),
        ("decided_by", "decided_at"),
        "reason",
    )
    readonly_fields = (
        "template_page",
        "workspace_name",
        "step",
        "changes",
        "created_at",
        "looked_at",
        "decided_by",
        "decided_at",
        "reason",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Proposal]:
        rows: QuerySet[Proposal] = super().get_queryset(request)
        return rows.select_related("workspace", "template", "decided_by").defer("template__search_text")

    @display(description="Proposal", ordering="block_id")  # type: ignore[untyped-decorator]  # unfold ships no types
    def what(self, proposal: Proposal) -> str:
        return f"{proposal.block_id}: {WORDS[Kind(proposal.kind)].lower()}"

    @display(description="State", ordering="state")  # type: ignore[untyped-decorator]  # as above
    def shown_state(self, proposal: Proposal) -> str:
        status, word = LOOKS[ProposalState(proposal.state)]
        return chip(status, word=word)

    @display(description="Template", ordering="template__name")  # type: ignore[untyped-decorator]  # as above
    def template_name(self, proposal: Proposal) -> str:
        return proposal.template.name

    @display(description="Template")  # type: ignore[untyped-decorator]  # as above
    def template_page(self, proposal: Proposal) -> str:
        return page_of(proposal.template)

    @display(description="Step")  # type: ignore[untyped-decorator]  # as above
    def step(self, proposal: Proposal) -> str:
        return proposal.block_id

    @display(description="Changes version")  # type: ignore[untyped-decorator]  # as above
    def changes(self, proposal: Proposal) -> int:
        return proposal.base

    @display(description="Last looked at")  # type: ignore[untyped-decorator]  # as above
    def looked_at(self, proposal: Proposal) -> str:
        return when(proposal.seen_at, "ago")

    @display(description="Fails")  # type: ignore[untyped-decorator]  # as above
    def fails(self, proposal: Proposal) -> str:
        return f"{proposal.evidence['share']:.1%}"

    @display(description="Would fail")  # type: ignore[untyped-decorator]  # as above
    def would(self, proposal: Proposal) -> str:
        return f"{proposal.predicted['share']:.1%}"

    def name_of(self, row: Any) -> str:
        return str(self.what(row))

    # -- one -------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        do = self.admin_site.admin_view(require_POST(self.do_view))
        name = "executions_proposal_do"
        return [path("<uuid:pk>/do/<slug:what>/", do, name=name), *super().get_urls()]

    def beside(self, request: HttpRequest, proposal: Proposal) -> dict[str, Any]:
        return {"proposal_page": _page(request, proposal)}

    def do_view(self, request: HttpRequest, pk: UUID, what: str) -> HttpResponse:
        """What the buttons of a proposal's page do."""
        proposal = self.get_queryset(request).filter(pk=pk).first()
        if proposal is None:
            return HttpResponseRedirect(reverse("admin:executions_proposal_changelist"))
        if not access.can(request.user, Permission.AUTHOR, proposal.workspace_id):
            raise PermissionDenied
        by, reason = cast(User, request.user), request.POST.get("reason", "").strip()[: adapting.REASON_CHARS]
        try:
            if what == "accept":
                version = adapting.accept(proposal_id=pk, by=by, reason=reason)
                messages.success(request, f"Version {version.number} is a draft with this change.")
            elif not reason:
                messages.error(request, "Say why it is dismissed.")
            else:
                adapting.dismiss(proposal_id=pk, by=by, reason=reason)
                messages.success(request, "Dismissed: the same is not proposed again for 30 days.")
        except AgentflowError as error:
            messages.error(request, f"{error.message} {error.remedy_text}".strip())
        return HttpResponseRedirect(reverse("admin:executions_proposal_change", args=[pk]))


def _page(request: HttpRequest, proposal: Proposal) -> JSONObject:
    evidence = proposal.evidence
    before, after = reads.change(proposal)
    status, word = LOOKS[ProposalState(proposal.state)]
    newest = (
        TemplateVersion.objects.filter(template=proposal.template_id)
        .order_by("-number")
        .values_list("number", flat=True)
        .first()
    )
    incidents = Incident.objects.visible_to(request.user).filter(pk__in=evidence["incidents"])
    made = TemplateVersion.objects.filter(template=proposal.template_id, number=proposal.made or 0).first()
    return {
        "proposal": proposal,
        "made": page_of(made, f"Version {made.number}") if made is not None else "",
        "title": f"{WORDS[Kind(proposal.kind)]}: {proposal.block_id}",
        "state": chip(status, word=word),
        "open": proposal.state == ProposalState.OPEN,
        "stale": newest != proposal.base,
        "newest": newest,
        "authors": access.can(request.user, Permission.AUTHOR, proposal.workspace_id),
        "of": "attempts" if evidence["measure"] == ATTEMPTS else "runs of the step",
        "bars": list(_bars(proposal)),
        "executions": [link(reverse("execution-page", args=[pk]), pk[:8]) for pk in evidence["executions"]],
        "incidents": [page_of(incident, f"{incident.block_id}: {incident.code}") for incident in incidents],
        "diff": list(_diff(before, after)),
    }


def _bars(proposal: Proposal) -> list[JSONObject]:
    evidence, measured = proposal.evidence, reads.measured(proposal)
    bars = [
        {
            "name": "Now" if proposal.made is None else "Before",
            "share": evidence["share"],
            "told": f"{evidence['failures']} of {evidence['of']}",
        },
        {"name": "Predicted", "share": proposal.predicted["share"], "told": ""},
    ]
    if measured is not None:
        told = f"{measured['failures']} of {measured['of']}"
        bars.append({"name": "Measured since", "share": measured["share"], "told": told})
    elif proposal.made is not None:
        bars.append({"name": "Measured since", "share": None, "told": "nothing has run yet"})
    most = max([bar["share"] for bar in bars if bar["share"]] or [1.0])
    for bar in bars:
        bar["width"] = round(100 * (bar["share"] or 0) / most)
        bar["percent"] = "" if bar["share"] is None else f"{bar['share']:.1%}"
    return bars


def _diff(before: JSONObject, after: JSONObject) -> Iterator[tuple[str, str]]:
    """The lines of the block: `same`, `gone` or `new`.  A comma more or less at a line's end is no change."""
    one, other = (json.dumps(each, indent=2, ensure_ascii=False).splitlines() for each in (before, after))
    matcher = difflib.SequenceMatcher(
        None, [line.rstrip(",") for line in one], [line.rstrip(",") for line in other], autojunk=False
    )
    for how, begin, end, now, then in matcher.get_opcodes():
        if how == "equal":
            yield from (("same", f"  {line}") for line in other[now:then])
        else:
            yield from (("gone", f"- {line}") for line in one[begin:end])
            yield from (("new", f"+ {line}") for line in other[now:then])
