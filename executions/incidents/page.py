"""What the admin's page of an incident shows above its fields, and what its repair form says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from django.core.paginator import Paginator
from django.http import HttpRequest
from django.urls import reverse

from agentflow.api.templatetags.agentflow_ui import when
from agentflow.errors import InvalidInput
from agentflow.governance import access
from agentflow.governance.admin_base import Table, chip, link
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue

from ..ports import people_asked
from . import reads, repairs
from .fixes import ACTIONS, COMPLETE, MOVE, RETRY, Fix
from .models import Incident, IncidentBlock, NoteKind
from .repair_models import ACTIVE, RepairRun
from .states import IncidentState, RepairState

ROWS_PER_PAGE = 20
FORESEEN = 50  # so many of a dry run are listed
REPAIRS = 5

LOOKS = {
    IncidentState.OPEN: ("failed", "Open"),
    IncidentState.SNOOZED: ("waiting_external", "Snoozed"),
    IncidentState.RESOLVED: ("completed", "Resolved"),
}
REPAIR_LOOKS = {
    RepairState.CANARY: ("running", "One first"),
    RepairState.RUNNING: ("running", "Under way"),
    RepairState.DONE: ("completed", "Done"),
    RepairState.STOPPED: ("cancelled", "Stopped"),
    RepairState.FAILED: ("failed", "Not mended"),
}
DOES = {
    "tried_again": "Tried again",
    "restarted": "Execution restarted",
    "skipped": "Skipped",
    "completed": "Completed by hand",
    "moved": "Goes on with the version",
    "nothing": "Left alone",
}
ACTION_WORDS = {
    "retry": "Try again",
    "skip": "Skip the step",
    "complete": "Done, with this output",
    "move": "Go on with another version",
}
NOTE_WORDS = {
    NoteKind.COMMENT: "said",
    NoteKind.ASSIGNED: "assigned it to",
    NoteKind.SNOOZED: "snoozed it until",
    NoteKind.WOKEN: "opened it again",
    NoteKind.RESOLVED: "resolved it",
    NoteKind.LINKED: "linked it to",
    NoteKind.REPAIR: "repair",
}


@dataclass(frozen=True)
class RepairLine:
    repair: RepairRun
    chip: str
    words: str
    said: str


def page(request: HttpRequest, incident: Incident, table: Table | None = None) -> JSONObject:
    """`table` is a dry run's."""
    counted = IncidentBlock.objects.filter(incident=incident).values("block")
    people = people_asked()(workspace_id=incident.workspace_id, blocks=counted)
    recent = list(repairs.repairs(request.user).filter(incident=incident)[:REPAIRS])
    return {
        "incident": incident,
        "operates": access.can(request.user, Permission.OPERATE, incident.workspace_id),
        "state": chip(LOOKS[IncidentState(incident.state)][0], word=LOOKS[IncidentState(incident.state)][1]),
        "open": incident.state != IncidentState.RESOLVED,
        "snoozed": incident.state == IncidentState.SNOOZED,
        "radius": _radius(reads.radius(incident), people),
        "repairs": [_line(each) for each in recent],
        "active": any(each.state in ACTIVE for each in recent),
        "form": _form(request),
        "plan": table,
        "tables": [_blocks(request, incident), _timeline(incident)],
    }


def active(incident: Incident) -> RepairRun:
    """The repair that is under way.

    Raises:
        repairs.RepairOver: there is none.
    """
    repair = RepairRun.objects.filter(incident=incident, state__in=ACTIVE).first()
    if repair is None:
        raise repairs.RepairOver
    return repair


# -- the repair form -----------------------------------------------------------


def _form(request: HttpRequest) -> JSONObject:
    given = request.POST
    chosen = given.get("action", RETRY)
    return {
        "actions": [(name, ACTION_WORDS[name], name == chosen) for name in ACTIONS],
        **{
            name: given.get(name, "")
            for name in ("agent", "configuration", "input", "output", "version", "reason")
        },
        "canary": "canary" in given or request.method != "POST",
    }


def fix_of(request: HttpRequest) -> Fix:
    given = request.POST
    name = given.get("action", "")
    if name not in ACTIONS:
        raise InvalidInput("Choose what is done.")
    patch: JSONObject = {}
    if name == RETRY:
        if given.get("agent", "").strip():
            patch["agentId"] = given["agent"].strip()
        for field in ("configuration", "input"):
            if given.get(field, "").strip():
                patch[field] = _json(given[field], field)
        if not isinstance(patch.get("configuration", {}), dict):
            raise InvalidInput("The configuration must be a JSON object.")
    if name == MOVE and not given.get("version", "").isdecimal():
        raise InvalidInput("Give the number of the version.")
    return Fix(
        name,
        patch,
        _json(given.get("output", ""), "output") if name == COMPLETE else None,
        int(given["version"][:9]) if name == MOVE else None,
    )


def _json(text: str, field: str) -> JSONValue:
    try:
        return cast(JSONValue, json.loads(text))
    except ValueError as error:
        raise InvalidInput(f"The {field} is no JSON: {error}") from None


def foreseen(request: HttpRequest, incident: Incident) -> Table:
    """The dry run: what the fix would do to each block."""
    fix = fix_of(request)
    found = repairs.foresee(incident=incident, fix=fix)
    told = repairs.summary(found)
    words = ", ".join(f"{DOES[name].lower()}: {count}" for name, count in told["does"].items())
    if told["onceEffectsRepeated"]:
        words += f"; effects that may happen twice: {told['onceEffectsRepeated']}"
    for name, block_ids in (repairs.difference(incident, fix) or {}).items():
        if block_ids:
            words += f"; {name}: {', '.join(block_ids[:10])}"
    rows = [
        (
            link(reverse("execution-page", args=[each.execution_id]), str(each.execution_id)[:8]),
            chip(each.status),
            DOES[each.outlook.does],
            _why(each),
        )
        for each in found[:FORESEEN]
    ]
    shown = Paginator(rows, FORESEEN).get_page(1)
    return Table(
        f"Dry run of {len(found)}: {words}",
        ("Execution", "Step now", "What would happen", "Why"),
        rows,
        shown,
        "plan",
        empty="Nothing is held.",
        page_parameter="plan_page",
    )


def _why(each: repairs.Foreseen) -> str:
    if each.fit is not None and not each.fit.code:
        kept, again = len(each.fit.kept), len(each.fit.reruns)
        return f"{kept} step{'' if kept == 1 else 's'} kept, {again} to run"
    return each.outlook.message or ("Its effect may have happened." if each.once else "-")


def begin(request: HttpRequest, incident: Incident) -> None:
    repairs.begin(
        incident_id=incident.pk,
        by=cast(User, request.user),
        fix=fix_of(request),
        reason=request.POST.get("reason", "").strip()[:1000],
        canary="canary" in request.POST,
    )


# -- what is shown -------------------------------------------------------------


def _radius(found: reads.Radius, people: int) -> list[tuple[int, str]]:
    return [
        (found.executions, _of(found.executions, "execution", "executions")),
        (found.open_executions, "of them still open"),
        (found.failed_executions, "of them failed"),
        (found.workflows, _of(found.workflows, "workflow", "workflows")),
        (found.asking, _of(found.asking, "step waits for a person", "steps wait for a person")),
        (people, _of(people, "person asked", "people asked")),
        (found.going_on, _of(found.going_on, "step goes on by itself", "steps go on by themselves")),
        (found.healed, _of(found.healed, "step completed after all", "steps completed after all")),
    ]


def _of(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def _line(repair: RepairRun) -> RepairLine:
    status, word = REPAIR_LOOKS[RepairState(repair.state)]
    told = repairs.progress(repair)
    total = told["pending"] + told["applied"] + told["refused"]
    words = (
        f"{ACTION_WORDS[repair.fix['action']]}: {told['applied']} of {total} applied, {told['mended']}"
        f" mended, {told['failedAgain']} failed again, {told['refused']} refused, by {repair.created_by}"
    )
    return RepairLine(repair, chip(status, word=word), words, repair.said)


def _blocks(request: HttpRequest, incident: Incident) -> Table:
    shown = Paginator(reads.blocks(incident), ROWS_PER_PAGE).get_page(request.GET.get("block_page"))
    rows = [
        (
            link(reverse("execution-page", args=[each.execution_id]), str(each.execution_id)[:8]),
            chip(each.execution.status),
            chip(each.block.status, each.block.attempt),
            each.failures,
            when(each.first_at, "ago"),
            when(each.last_at, "ago"),
        )
        for each in shown.object_list
    ]
    return Table(
        f"Executions ({shown.paginator.count})",
        ("Execution", "Its state", "The step", "Failures", "First", "Last"),
        rows,
        shown,
        "blocks",
        empty="None is left.",
        page_parameter="block_page",
        labels=True,
    )


def _timeline(incident: Incident) -> Table:
    rows: list[tuple[Any, ...]] = [(when(incident.first_seen), "-", "failed first", incident.message)]
    rows += [
        (when(note.at), note.by or "-", NOTE_WORDS[NoteKind(note.kind)], note.text or "-")
        for note in reads.notes(incident)
    ]
    shown = Paginator(rows, len(rows)).get_page(1)
    return Table(
        "Timeline", ("When", "Who", "What", ""), rows, shown, "timeline", empty="", page_parameter="note_page"
    )
