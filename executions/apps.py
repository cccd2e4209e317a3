from django.apps import AppConfig


class ExecutionsConfig(AppConfig):
    name = "executions"
    verbose_name = "Executions"

    def ready(self) -> None:
        from agentflow.agents import ports as agents_ports
        from templates_app import ports as template_ports

        from . import agent_uses, template_condition
        from .services import budgeting, seeking

        agents_ports.agent_uses.bind(agent_uses.Uses())
        template_ports.template_health.bind(template_condition.of)
        seeking.listen()
        budgeting.listen()
