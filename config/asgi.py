"""The ASGI entry: `uvicorn config.asgi:application`."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
http = get_asgi_application()  # before anything that touches models is imported

from agentflow.api import websocket  # noqa: E402
from agentflow.api.asgi import BodyLimit  # noqa: E402
from approvals.routing import websocket_urlpatterns as approvals  # noqa: E402
from executions.routing import websocket_urlpatterns as executions  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(http),
        "websocket": websocket.application([*approvals, *executions]),
    }
)
