"""`manage.py incidents`: what fails, one line for each kind of failure."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from executions.incidents import reads
from executions.incidents.models import Incident
from executions.incidents.states import IncidentState


class Command(BaseCommand):
    help = "List incidents of all workspaces, those first that failed last."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--state",
            choices=IncidentState.values,
            action="append",
            help="May be repeated; all but resolved.",
        )
        parser.add_argument("--workspace", help="Only this workspace's, by its slug.")
        parser.add_argument("--search", default="", help="Part of template, blockId, code or message.")
        parser.add_argument("--limit", type=int, default=50)
        parser.add_argument("--json", action="store_true", help="Print them as the REST API gives them.")

    def handle(self, *args: Any, **options: Any) -> None:
        states = options["state"] or [IncidentState.OPEN, IncidentState.SNOOZED]
        rows = Incident.objects.filter(state__in=states).select_related("template", "assignee", "workspace")
        if options["workspace"]:
            rows = rows.filter(workspace__slug=options["workspace"])
        if options["search"]:
            rows = rows.filter(reads.found_by(options["search"]))
        found = list(rows.order_by("-last_seen", "pk")[: max(options["limit"], 1)])
        if options["json"]:
            told = [reads.as_json(each) for each in found]
            self.stdout.write(json.dumps(told, indent=2, default=str))
            return
        for each in found:
            self.stdout.write(_line(each))
        if not found:
            self.stdout.write("There are none.")


def _line(each: Incident) -> str:
    who = each.assignee.get_username() if each.assignee else "-"
    return (
        f"{each.last_seen:%Y-%m-%d %H:%M:%S}  {each.count:>7}  {each.state:<8}  {who:<12}"
        f"  {each.template.name}, {each.block_id}: {each.code}: {each.message[:80]}  {each.pk}"
    )
