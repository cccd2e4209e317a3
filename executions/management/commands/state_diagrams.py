"""`manage.py state_diagrams [--check]`: writes the state diagrams in docs/engine.md from the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentflow.lifecycle import Lifecycle
from executions.states import BLOCK, EXECUTION

PAGE = Path("docs") / "engine.md"
TABLES: dict[str, Lifecycle[Any]] = {"execution": EXECUTION, "block": BLOCK}


class Command(BaseCommand):
    help = "Write the state diagrams of docs/engine.md; with --check only say whether they are fresh."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        page = settings.BASE_DIR / PAGE
        before = page.read_text()
        after = before
        for name, table in TABLES.items():
            diagram = f"<!-- {name} states -->\n```mermaid\n{table.as_mermaid()}\n```\n<!-- end -->"
            place = re.search(rf"<!-- {name} states -->.*?<!-- end -->", after, re.DOTALL)
            if place is None:
                raise CommandError(f"{PAGE} has no place for the {name} states")
            after = after[: place.start()] + diagram + after[place.end() :]
        if options["check"] and after != before:
            raise CommandError(f"the state diagrams in {PAGE} are stale: manage.py state_diagrams")
        if not options["check"]:
            page.write_text(after)
