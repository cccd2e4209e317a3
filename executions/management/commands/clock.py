"""`manage.py clock`: every duty that is due at a time.  Any number may run at once."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from executions.services import ticking


class Command(BaseCommand):
    help = "Fire due timers, rescue blocks of dead workers, send lost hints again."

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        self.stdout.write("clock ready")
        self.stdout.flush()
        ticking.run(stop)
