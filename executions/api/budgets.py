"""Budgets of a day: what a workspace's or an agent's allows, and what was used up today."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.agents import selectors as agents
from agentflow.api.serializers import DayBudgetField, StrictSerializer
from agentflow.errors import NotFound
from agentflow.governance import access
from agentflow.governance.models import Workspace
from agentflow.governance.services import workspaces
from agentflow.types import JSONObject

from ..services import budgeting
from ..services.budgeting import Standing
from .views import ExecutionAPIView


class AmountsSerializer(StrictSerializer):
    tokens = serializers.IntegerField()
    cost = serializers.DictField(child=serializers.FloatField(), help_text="By currency.")


class AgentAmountsSerializer(AmountsSerializer):
    agent_id = serializers.CharField(allow_null=True, help_text="null: models called without an agent.")


class AllowedSerializer(StrictSerializer):
    tokens = serializers.FloatField(required=False)
    cost = serializers.FloatField(required=False)


class DayBudgetStandingSerializer(StrictSerializer):
    """Spending is counted only while the agent or its workspace has a budget."""

    budget = DayBudgetField(help_text="An empty object: none.")
    day = serializers.DateField(help_text="By UTC.")
    spent = AmountsSerializer()
    allowed = AllowedSerializer(help_text="With what people allowed more today.")
    warned = serializers.BooleanField(help_text="Whether it ran low today.")


class WorkspaceBudgetSerializer(DayBudgetStandingSerializer):
    by_agent = AgentAmountsSerializer(many=True)


class SetBudgetSerializer(StrictSerializer):
    budget = DayBudgetField(help_text="An empty object: none from now on.")


class WorkspaceBudgetView(ExecutionAPIView):
    @extend_schema(operation_id="workspaces_budget", responses={200: WorkspaceBudgetSerializer})
    def get(self, request: Request, workspace_id: UUID) -> Response:
        """Get the workspace's budget of a day, and what its agents used up today."""
        return Response(_of_workspace(self._workspace(workspace_id)))

    @extend_schema(
        operation_id="workspaces_budget_set",
        request=SetBudgetSerializer,
        responses={200: WorkspaceBudgetSerializer},
    )
    def put(self, request: Request, workspace_id: UUID) -> Response:
        """Set the workspace's budget of a day, or take it away."""
        self._workspace(workspace_id)
        body = SetBudgetSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        workspace = workspaces.set_budget(
            by=self.user(), workspace_id=workspace_id, budget=body.validated_data["budget"]
        )
        return Response(_of_workspace(workspace))

    def _workspace(self, workspace_id: UUID) -> Workspace:
        found = access.workspaces(self.user()).filter(pk=workspace_id).first()
        if found is None:
            raise NotFound("There is no such workspace.", workspace_id=str(workspace_id))
        return found


class AgentBudgetView(ExecutionAPIView):
    @extend_schema(operation_id="agents_budget", responses={200: DayBudgetStandingSerializer})
    def get(self, request: Request, pk: UUID) -> Response:
        """Get the agent's budget of a day, and what it used up today."""
        agent = agents.agent(self.user(), pk)
        return Response(_shown(agent.budget, budgeting.of_agent(agent)))


def _of_workspace(workspace: Workspace) -> JSONObject:
    standing = budgeting.of_workspace(workspace)
    by_agent = [
        {"agentId": agent_id or None, **_amounts(amounts)}
        for agent_id, amounts in sorted(standing.by_agent.items())
    ]
    return {**_shown(workspace.budget, standing), "byAgent": by_agent}


def _shown(budget: JSONObject, standing: Standing) -> JSONObject:
    return {
        "budget": budget,
        "day": standing.day.isoformat(),
        "spent": _amounts(standing.spent),
        "allowed": dict(standing.allowed),
        "warned": standing.warned,
    }


def _amounts(amounts: Any) -> JSONObject:
    costs = {unit: amount for unit, amount in sorted(amounts.items()) if unit != "tokens"}
    return {"tokens": int(amounts.get("tokens", 0)), "cost": costs}
