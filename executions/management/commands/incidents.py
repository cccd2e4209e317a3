"""`manage.py incidents`: what fails, one line for each kind of failure, and its repair.

manage.py incidents [--state open] [--workspace shop] [--search absent]
manage.py incidents show INCIDENT
manage.py incidents repair INCIDENT --by ann --fix '{"action": "retry"}' [--dry-run] [--all-at-once]
manage.py incidents repairs INCIDENT
manage.py incidents stop REPAIR --by ann
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentflow.errors import AgentflowError
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from executions.incidents import fixes, reads, repairs
from executions.incidents.models import Incident
from executions.incidents.repair_models import RepairRun
from executions.incidents.states import IncidentState


class Command(BaseCommand):
    help = "List incidents of all workspaces, those first that failed last; show and repair one."

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
        parts = parser.add_subparsers(dest="part")
        for name, words in (("show", "One incident, with how far it reaches."), ("repairs", "Its repairs.")):
            parts.add_parser(name, help=words).add_argument("incident", type=UUID)
        repair = parts.add_parser("repair", help="Apply a fix to every block that an incident holds.")
        repair.add_argument("incident", type=UUID)
        repair.add_argument("--by", required=True, help="Username of an operator, who answers for it.")
        repair.add_argument("--fix", required=True, help="As the REST API takes it, in JSON.")
        repair.add_argument("--dry-run", action="store_true", help="Only say what would happen.")
        repair.add_argument("--all-at-once", action="store_true", help="Without trying one block first.")
        repair.add_argument("--reason", default="")
        stop = parts.add_parser("stop", help="Leave what a repair has not reached as it is.")
        stop.add_argument("repair", type=UUID)
        stop.add_argument("--by", required=True, help="Username of an operator.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['part'] or 'list'}")(options)
        except AgentflowError as error:
            issues = [
                f"\n  {each.get('pointer')}: {each.get('message')}" for each in getattr(error, "issues", ())
            ]
            raise CommandError(
                " ".join(filter(None, (error.message, error.remedy_text))) + "".join(issues)
            ) from error

    def _list(self, options: dict[str, Any]) -> None:
        states = options["state"] or [IncidentState.OPEN, IncidentState.SNOOZED]
        rows = Incident.objects.filter(state__in=states).select_related("template", "assignee", "workspace")
        if options["workspace"]:
            rows = rows.filter(workspace__slug=options["workspace"])
        if options["search"]:
            rows = rows.filter(reads.found_by(options["search"]))
        found = list(rows.order_by("-last_seen", "pk")[: max(options["limit"], 1)])
        if options["json"]:
            self._print([reads.as_json(each) for each in found])
            return
        for each in found:
            self.stdout.write(_line(each))
        if not found:
            self.stdout.write("There are none.")

    def _show(self, options: dict[str, Any]) -> None:
        self._print(reads.detail(_incident(options)))

    def _repairs(self, options: dict[str, Any]) -> None:
        rows = RepairRun.objects.filter(incident=_incident(options)).select_related("created_by")
        self._print([repairs.as_json(each) for each in rows.order_by("-created_at")])

    def _repair(self, options: dict[str, Any]) -> None:
        by, incident = _user(options), _incident(options)
        access.require(by, Permission.OPERATE, incident.workspace_id)
        try:
            fix = fixes.from_person(json.loads(options["fix"]))
        except ValueError as error:
            raise CommandError(f"--fix is no JSON: {error}") from None
        if options["dry_run"]:
            found = repairs.foresee(incident=incident, fix=fix)
            self._print({**repairs.summary(found), "difference": repairs.difference(incident, fix)})
            return
        begun = repairs.begin(
            incident_id=incident.pk,
            by=by,
            fix=fix,
            reason=options["reason"],
            canary=not options["all_at_once"],
        )
        self._print(repairs.as_json(repairs.find(by, begun.pk)))

    def _stop(self, options: dict[str, Any]) -> None:
        by = _user(options)
        repairs.stop(repair_id=options["repair"], by=by)
        self._print(repairs.as_json(repairs.find(by, options["repair"])))

    def _print(self, value: JSONObject | list[JSONObject]) -> None:
        self.stdout.write(json.dumps(value, indent=2, default=str))


def _incident(options: dict[str, Any]) -> Incident:
    rows = Incident.objects.select_related("template", "assignee")
    found = rows.filter(pk=options["incident"]).first()
    if found is None:
        raise CommandError("There is no such incident.")
    return found


def _user(options: dict[str, Any]) -> User:
    found = User.objects.filter(username=options["by"], is_active=True).first()
    if found is None:
        raise CommandError(f"There is no user {options['by']!r}.")
    return found


def _line(each: Incident) -> str:
    who = each.assignee.get_username() if each.assignee else "-"
    return (
        f"{each.last_seen:%Y-%m-%d %H:%M:%S}  {each.count:>7}  {each.state:<8}  {who:<12}"
        f"  {each.template.name}, {each.block_id}: {each.code}: {each.message[:80]}  {each.pk}"
    )
