from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...services import secrets


class Command(BaseCommand):
    help = "Seal every secret with the first of AGENTFLOW_SECRET_KEYS; afterwards the others can go."

    def handle(self, *args: Any, **options: Any) -> None:
        done, unopened = secrets.rotate()
        self.stdout.write(f"{done} secrets are sealed with the first key.")
        if unopened:
            named = ", ".join(f"{secret.name} ({secret.workspace_id})" for secret in unopened[:20])
            raise CommandError(f"No key opens {len(unopened)} secrets; set them again: {named}")
