"""The Celery app: `celery -A config worker`."""

import os
from typing import Any

from celery import Celery

PUBLISH_TIMEOUT_S = 1.0

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")


class HintingCelery(Celery):
    """Publishes with little patience: a hint may be lost, but a request may not wait for its broker."""

    def connection_for_write(self, url: str | None = None, **more: Any) -> Any:
        options = {"socket_timeout": PUBLISH_TIMEOUT_S, **(more.pop("transport_options", None) or {})}
        return super().connection_for_write(url, transport_options=options, **more)


app = HintingCelery("agentflow")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
