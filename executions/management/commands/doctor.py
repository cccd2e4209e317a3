"""`manage.py doctor`: does everything run that must, and does work get done?"""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from executions import doctor
from executions.doctor import Finding, Verdict

MARKS = {Verdict.OK: "ok     ", Verdict.WARNING: "WARNING", Verdict.PROBLEM: "PROBLEM"}


class Command(BaseCommand):
    help = "Examine database, broker, workers, clock and the work itself. Exit code 1: there is a problem."
    requires_system_checks: list[str] = []  # a broken installation is what it is for
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print the findings as JSON.")
        parser.add_argument(
            "--wait",
            type=float,
            default=doctor.PROBE_S,
            metavar="SECONDS",
            help="How long a message may take through each queue and back.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        findings = doctor.examine(probe_s=options["wait"])
        healthy = doctor.healthy(findings)
        if options["json"]:
            body = {"healthy": healthy, "findings": [finding.as_json() for finding in findings]}
            self.stdout.write(json.dumps(body, indent=2, default=str))
        else:
            for finding in findings:
                self.stdout.write(_line(finding))
        if not healthy:
            raise SystemExit(1)


def _line(finding: Finding) -> str:
    line = f"{MARKS[finding.verdict]}  {finding.check:<14}  {finding.message}"
    return f"{line}\n{'':25}{finding.remedy}" if finding.remedy else line
