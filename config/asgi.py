"""The ASGI entry: `uvicorn config.asgi:application`."""

import os

import django
from channels.routing import ProtocolTypeRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
django.setup(set_prefix=False)  # before anything that touches models is imported

from agentflow.api import websocket  # noqa: E402
from agentflow.api.asgi import BodyLimit, OneThread  # noqa: E402
from approvals.routing import websocket_urlpatterns as approvals  # noqa: E402
from executions.routing import websocket_urlpatterns as executions  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(OneThread()),
        "websocket": websocket.application([*approvals, *executions]),
    }
)
