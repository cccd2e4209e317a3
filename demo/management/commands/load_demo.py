"""`manage.py load_demo`: what `make run` calls before it starts anything else."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from demo import loading


class Command(BaseCommand):
    help = "Load the demo workspace, once, and write demo.json into AGENTFLOW_HOME."

    def handle(self, *args: Any, **options: Any) -> None:
        settings.AGENTFLOW_HOME.mkdir(parents=True, exist_ok=True)
        fresh = loading.load(
            home=settings.AGENTFLOW_HOME,
            base_url=settings.AGENTFLOW_BASE_URL,
            port=settings.AGENTFLOW_DEMO_PORT,
        )
        self.stdout.write("demo loaded" if fresh else "demo was there")
