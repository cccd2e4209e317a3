"""`manage.py state_diagrams [--check]`: writes the state diagrams in the docs from the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentflow.lifecycle import Lifecycle
from executions.incidents.states import INCIDENT, REPAIR
from executions.states import BLOCK, EXECUTION

DOCS = Path("docs")
PAGES: dict[str, dict[str, Lifecycle[Any]]] = {
    "engine.md": {"execution": EXECUTION, "block": BLOCK},
    "recovery.md": {"incident": INCIDENT, "repair": REPAIR},
}


class Command(BaseCommand):
    help = "Write the state diagrams of the docs; with --check only say whether they are fresh."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        for name, tables in PAGES.items():
            page = settings.BASE_DIR / DOCS / name
            before = page.read_text()
            after = _written(name, before, tables)
            if options["check"] and after != before:
                raise CommandError(f"the state diagrams in {DOCS / name} are stale: manage.py state_diagrams")
            if not options["check"]:
                page.write_text(after)


def _written(page: str, text: str, tables: dict[str, Lifecycle[Any]]) -> str:
    for name, table in tables.items():
        diagram = f"<!-- {name} states -->\n```mermaid\n{table.as_mermaid()}\n```\n<!-- end -->"
        place = re.search(rf"<!-- {name} states -->.*?<!-- end -->", text, re.DOTALL)
        if place is None:
            raise CommandError(f"{DOCS / page} has no place for the {name} states")
        text = text[: place.start()] + diagram + text[place.end() :]
    return text
