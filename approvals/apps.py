from django.apps import AppConfig


class ApprovalsConfig(AppConfig):
    name = "approvals"
    verbose_name = "Approvals"

    def ready(self) -> None:
        from agentflow.agents import ports as agents_ports
        from executions import ports as executions_ports
        from templates_app import ports as templates_ports

        from . import selectors
        from .services import expiry, gate, swapping

        agents_ports.agents_changed.bind(swapping.agents_changed)
        executions_ports.human_gate.bind(gate.Gate())
        executions_ports.approval_timeout.bind(expiry.expire)
        executions_ports.human_history.bind(selectors.history)
        executions_ports.people_asked.bind(selectors.people_asked)
        templates_ports.approval_levels.bind(selectors.Levels())
