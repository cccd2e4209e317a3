from __future__ import annotations

from django.urls import path, register_converter

from . import (
    budgets,
    callbacks,
    choosing,
    commands,
    faults,
    health,
    incidents,
    learning,
    points,
    proposals,
    recovery,
    repairs,
    rules,
    signals,
    views,
)


class TextConverter:
    """A block id: any text but none, slashes and line breaks among it."""

    regex = r"[\s\S]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(TextConverter, "text")

_ONE = "executions/<uuid:execution_id>"
_BLOCK = _ONE + "/blocks/<text:block_id>"
_INCIDENT = "incidents/<uuid:incident_id>"
_PROPOSAL = "proposals/<uuid:proposal_id>"
_TEMPLATE = "templates/<uuid:template_id>"
_REPAIR = _INCIDENT + "/repairs/<uuid:repair_id>"

urlpatterns = [
    path("agents/match", choosing.MatchView.as_view(), name="agents-match"),
    path("agents/recommend", choosing.RecommendView.as_view(), name="agents-recommend"),
    path("agents/receipts/replay", choosing.ReplayView.as_view(), name="agents-receipts-replay"),
    path("agents/policies", choosing.PoliciesView.as_view(), name="agents-policies"),
    path("agents/policies/<uuid:policy_id>", choosing.PolicyView.as_view(), name="agents-policy"),
    path("agents/<uuid:pk>/budget", budgets.AgentBudgetView.as_view(), name="agent-budget"),
    path(
        "workspaces/<uuid:workspace_id>/budget",
        budgets.WorkspaceBudgetView.as_view(),
        name="workspace-budget",
    ),
    path(
        "workspaces/<uuid:workspace_id>/faults",
        faults.WorkspaceFaultsView.as_view(),
        name="workspace-faults",
    ),
    path(
        "workspaces/<uuid:workspace_id>/faults/stop",
        faults.StopFaultsView.as_view(),
        name="workspace-faults-stop",
    ),
    path("events", signals.EventsView.as_view(), name="events"),
    path("callbacks/<str:token>", callbacks.CallbackView.as_view(), name="callback"),
    path("failure-rules", rules.FailureRulesView.as_view(), name="failure-rules"),
    path("failure-rules/order", rules.FailureRuleOrderView.as_view(), name="failure-rules-order"),
    path("failure-rules/<uuid:rule_id>", rules.FailureRuleView.as_view(), name="failure-rule"),
    path("recovery-policies", rules.RecoveryPoliciesView.as_view(), name="recovery-policies"),
    path(
        "workspaces/<uuid:workspace_id>/recovery-policy",
        rules.RecoveryPolicyView.as_view(),
        name="workspace-recovery-policy",
    ),
    path("incidents", incidents.IncidentsView.as_view(), name="incidents"),
    path("incidents/batch", incidents.IncidentsBatchView.as_view(), name="incidents-batch"),
    path(_INCIDENT, incidents.IncidentView.as_view(), name="incident"),
    path(f"{_INCIDENT}/blocks", incidents.IncidentBlocksView.as_view(), name="incident-blocks"),
    path(f"{_INCIDENT}/assign", incidents.AssignView.as_view(), name="incident-assign"),
    path(f"{_INCIDENT}/comment", incidents.CommentView.as_view(), name="incident-comment"),
    path(f"{_INCIDENT}/snooze", incidents.SnoozeView.as_view(), name="incident-snooze"),
    path(f"{_INCIDENT}/wake", incidents.WakeView.as_view(), name="incident-wake"),
    path(f"{_INCIDENT}/resolve", incidents.ResolveView.as_view(), name="incident-resolve"),
    path(f"{_INCIDENT}/link", incidents.LinkView.as_view(), name="incident-link"),
    path(f"{_INCIDENT}/repair-plan", repairs.RepairPlanView.as_view(), name="incident-repair-plan"),
    path(f"{_INCIDENT}/repairs", repairs.RepairsView.as_view(), name="incident-repairs"),
    path(f"{_REPAIR}", repairs.RepairView.as_view(), name="repair"),
    path(f"{_REPAIR}/items", repairs.RepairItemsView.as_view(), name="repair-items"),
    path(f"{_REPAIR}/stop", repairs.StopRepairView.as_view(), name="repair-stop"),
    path("proposals", proposals.ProposalsView.as_view(), name="proposals"),
    path(_PROPOSAL, proposals.ProposalView.as_view(), name="proposal"),
    path(f"{_PROPOSAL}/accept", proposals.AcceptView.as_view(), name="proposal-accept"),
    path(f"{_PROPOSAL}/dismiss", proposals.DismissView.as_view(), name="proposal-dismiss"),
    path(f"{_TEMPLATE}/proposals", proposals.TemplateProposalsView.as_view(), name="template-proposals"),
    path(f"{_TEMPLATE}/adapt", proposals.AdaptView.as_view(), name="template-adapt"),
    path("recovery-strategies", learning.StrategiesView.as_view(), name="recovery-strategies"),
    path("executions", views.ExecutionsView.as_view(), name="executions"),
    path("executions/batch", commands.BatchView.as_view(), name="executions-batch"),
    path(_ONE, views.ExecutionView.as_view(), name="execution"),
    path(f"{_ONE}/input", views.ExecutionInputView.as_view(), name="execution-input"),
    path(f"{_ONE}/blocks", views.BlocksView.as_view(), name="execution-blocks"),
    # Before the block itself, whose id may hold slashes: a block called "x/output" is found by its number.
    path(f"{_BLOCK}/input", views.BlockInputView.as_view(), name="execution-block-input"),
    path(
        f"{_BLOCK}/output",
        views.BlockOutputView.as_view(),
        name="execution-block-output",
    ),
    path(f"{_BLOCK}/items", views.BlockItemsView.as_view(), name="execution-block-items"),
    path(f"{_BLOCK}/steps", views.BlockStepsView.as_view(), name="execution-block-steps"),
    path(f"{_BLOCK}/skip", commands.SkipBlockView.as_view(), name="execution-block-skip"),
    path(f"{_BLOCK}/complete", commands.CompleteBlockView.as_view(), name="execution-block-complete"),
    path(f"{_BLOCK}/retry", commands.RetryBlockView.as_view(), name="execution-block-retry"),
    path(_BLOCK, views.BlockView.as_view(), name="execution-block"),
    path(f"{_ONE}/logs", views.LogsView.as_view(), name="execution-logs"),
    path("templates/<uuid:template_id>/health", health.TemplateHealthView.as_view(), name="template-health"),
    path(f"{_ONE}/health", health.ExecutionHealthView.as_view(), name="execution-health"),
    path(f"{_ONE}/explain", views.ExplainView.as_view(), name="execution-explain"),
    path(f"{_ONE}/plan", views.PlanView.as_view(), name="execution-plan"),
    path(f"{_ONE}/pause", views.PauseView.as_view(), name="execution-pause"),
    path(f"{_ONE}/resume", views.ResumeView.as_view(), name="execution-resume"),
    path(f"{_ONE}/cancel", views.CancelView.as_view(), name="execution-cancel"),
    path(f"{_ONE}/restart", commands.RestartView.as_view(), name="execution-restart"),
    path(f"{_ONE}/context", points.ContextView.as_view(), name="execution-context"),
    path(f"{_ONE}/fork", points.ForkView.as_view(), name="execution-fork"),
    path(f"{_ONE}/recovery", recovery.RecoveryView.as_view(), name="execution-recovery"),
    path(f"{_ONE}/recovery-points", points.RecoveryPointsView.as_view(), name="execution-recovery-points"),
    path(
        f"{_ONE}/recovery-points/<int:point_id>",
        points.RecoveryPointView.as_view(),
        name="execution-recovery-point",
    ),
    path(
        f"{_ONE}/recovery-points/<int:point_id>/restore",
        points.RestoreView.as_view(),
        name="execution-restore",
    ),
    path(f"{_ONE}/restart-plan", commands.RestartPlanView.as_view(), name="execution-restart-plan"),
]
