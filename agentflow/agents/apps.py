from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agentflow.agents"
    label = "agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from ..governance import ports as governance_ports
        from . import secret_uses

        governance_ports.secret_uses.bind(secret_uses.uses)
