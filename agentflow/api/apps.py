from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The manners every interface shares: problems, strict bodies, idempotency, sockets, health."""

    name = "agentflow.api"
    label = "api"
    verbose_name = "API"

    def ready(self) -> None:
        from . import schema, websocket  # noqa: F401  # the schema's extensions register on import

        websocket.connect_signals()
