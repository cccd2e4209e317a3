from django.apps import AppConfig


class GovernanceConfig(AppConfig):
    """Users, workspaces, roles, audit: who may do what, and did."""

    name = "agentflow.governance"
    label = "governance"
    verbose_name = "Governance"
