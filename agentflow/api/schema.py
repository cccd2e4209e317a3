"""The OpenAPI document says what every operation may answer, problems included."""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import OpenApiParameter

from . import problems
from .serializers import StrictSerializer

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "What went wrong, after RFC 9457.",
    "required": ["type", "title", "status", "code", "detail", "remedy", "issues", "instance", "requestId"],
    "properties": {
        "type": {"type": "string", "example": "urn:agentflow:problem:not_found"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; programs may rely on it."},
        "detail": {"type": "string"},
        "remedy": {"type": "string", "description": "What to do about it; may be empty."},
        "issues": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "message"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) into the body."},
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "remedy": {"type": "string"},
                    "severity": {"type": "string", "enum": ["error", "warning", "start"]},
                },
            },
        },
        "instance": {"type": "string"},
        "requestId": {"type": "string"},
    },
    "additionalProperties": {
        "description": "Facts of the error, such as `claimedBy`; docs/rest.md lists them.",
        "type": ["string", "integer", "boolean", "null"],
    },
}


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # registers itself
    target_class = "agentflow.api.authentication.Bearer"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


class ProblemAutoSchema(AutoSchema):
    """Adds the problems every operation shares, and the Idempotency-Key header where it is honoured."""

    def get_operation_id(self) -> str:
        """`get_executions_by_execution_id`: follows from method and path alone, so it stays."""
        path = self.path.removeprefix("/api/v1/").replace("{", "by_").replace("}", "")
        return f"{self.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', path.lower()).strip('_')}"

    def get_override_parameters(self) -> list[Any]:
        parameters = list(super().get_override_parameters())
        if getattr(getattr(self.view, self.method.lower(), None), "is_idempotent", False):
            parameters.append(
                OpenApiParameter(
                    name="Idempotency-Key",
                    location=OpenApiParameter.HEADER,
                    type=str,
                    pattern=r"^[!-~]{1,255}$",
                    description="Sent again with the same key and body, the request takes effect once.",
                )
            )
        return parameters

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        responses = super()._get_response_bodies(direction)
        for status in self._problem_statuses():
            responses.setdefault(str(status), self._problem(problems.TITLES[status]))
        responses.setdefault("default", self._problem("Any other failure."))
        return responses

    def _problem_statuses(self) -> list[int]:
        statuses = [400]
        if self.view.permission_classes and self.get_auth() != [{}]:
            statuses += [401, 403]
        if self.path.count("{"):
            statuses.append(404)
        if self.method in {"POST", "PUT", "PATCH", "DELETE"}:
            statuses += [409, 413, 415]
        return [*statuses, 503]

    def _problem(self, description: str) -> dict[str, Any]:
        component = ResolvedComponent(  # type: ignore[no-untyped-call]  # no types upstream
            name="Problem", type=ResolvedComponent.SCHEMA, schema=PROBLEM_SCHEMA, object="agentflow.Problem"
        )
        self.registry.register_on_missing(component)
        return {
            "description": description,
            "content": {problems.CONTENT_TYPE: {"schema": component.ref}},
        }

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> Any:
        schema = super()._map_basic_serializer(serializer, direction)  # type: ignore[no-untyped-call]
        if direction == "request" and isinstance(serializer, StrictSerializer):
            schema["additionalProperties"] = False
        return schema
