from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    name = "executions"
    verbose_name = "Executions"

    def ready(self) -> None:
        from agentflow.agents import ports as agents_ports

        from . import agent_uses
        from .services import budgeting, seeking

        agents_ports.agent_uses.bind(agent_uses.Uses())
        seeking.listen()
        budgeting.listen()
