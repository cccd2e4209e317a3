"""`manage.py demo_service`: the shop that the demo's agents call."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from demo.shop import Ledger, Server, Shop


class Command(BaseCommand):
    help = "Serve the demo's shop on 127.0.0.1, port AGENTFLOW_DEMO_PORT."

    def handle(self, *args: Any, **options: Any) -> None:
        port = settings.AGENTFLOW_DEMO_PORT
        ledger = Ledger(settings.AGENTFLOW_HOME / "demo_shop.sqlite3")
        try:
            server = Server(port, Shop(ledger))
        except OSError as error:
            raise CommandError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}; start again with another"
                " AGENTFLOW_DEMO_PORT"
            ) from error
        for name in (signal.SIGTERM, signal.SIGINT):
            # shutdown waits for serve_forever to return, so it needs a thread of its own.
            signal.signal(name, lambda *_: threading.Thread(target=server.shutdown).start())
        self.stdout.write(f"demo shop ready on http://127.0.0.1:{server.server_port}")
        self.stdout.flush()
        server.serve_forever(poll_interval=0.2)
        server.server_close()
        ledger.close()
