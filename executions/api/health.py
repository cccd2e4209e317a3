from __future__ import annotations

from typing import cast
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.api.conditions import HealthShown
from agentflow.governance.models import User
from templates_app import selectors as templates

from .. import condition, template_condition
from .views import ExecutionAPIView


class ExecutionHealthView(ExecutionAPIView):
    @extend_schema(operation_id="executions_health", responses={200: HealthShown})
    def get(self, request: Request, execution_id: UUID) -> Response:
        """How well an execution is, why, and how it does beside others of its version."""
        return Response(condition.of(self.execution(execution_id)).as_json())


class TemplateHealthView(APIView):
    @extend_schema(operation_id="templates_health", responses={200: HealthShown})
    def get(self, request: Request, template_id: UUID) -> Response:
        """How well a template's executions go, why, and whether that gets better or worse."""
        found = templates.template(cast(User, request.user), template_id)
        return Response(template_condition.of(found).as_json())
