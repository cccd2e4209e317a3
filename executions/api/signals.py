"""What the world outside tells: events that blocks wait for."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agentflow.api.serializers import StrictSerializer
from agentflow.conf import LIMITS
from agentflow.errors import InvalidInput
from agentflow.governance import access
from agentflow.governance.roles import Permission
from agentflow.types import JSONValue

from ..engine.facts import as_text
from ..services import signals
from .serializers import AnyJSONField
from .views import ExecutionAPIView


class EventSerializer(StrictSerializer):
    type = serializers.CharField(
        max_length=LIMITS.event_name_chars, trim_whitespace=False, help_text="What `wait.event` names."
    )
    correlation = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=LIMITS.event_name_chars,
        trim_whitespace=False,
        help_text="What the block's `wait.correlation` must give, as text.",
    )
    payload = AnyJSONField(required=False, default=None, help_text="Up to 256 KB.")
    event_id = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=LIMITS.event_name_chars,
        trim_whitespace=False,
        help_text="Sent again with the same content, the event takes effect once. Made where it is missing.",
    )
    workspace_id = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed by members of several workspaces."
    )


class ReceivedEventSerializer(StrictSerializer):
    event_id = serializers.CharField()
    type = serializers.CharField()
    correlation = serializers.CharField()
    received_at = serializers.DateTimeField()
    repeated = serializers.BooleanField(help_text="It had been received before; this changed nothing.")


class EventsView(ExecutionAPIView):
    @extend_schema(
        operation_id="events_receive",
        request=EventSerializer,
        responses={200: ReceivedEventSerializer, 201: ReceivedEventSerializer},
    )
    def post(self, request: Request) -> Response:
        """Tell of an event.  Every execution with a block that waits for it goes on.

        Blocks that begin to wait within 7 days get it too, if it came after their execution was started.
        An `eventId` that was received before gives 200 instead of 201.
        """
        body = EventSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        _refuse_large(given["payload"])
        received = signals.receive(
            workspace_id=access.chosen(self.user(), Permission.OPERATE, given["workspace_id"]),
            by=self.user(),
            type=given["type"],
            correlation=given["correlation"],
            payload=given["payload"],
            event_id=given["event_id"],
        )
        answer = {
            "eventId": received.event_id,
            "type": received.type,
            "correlation": received.correlation,
            "receivedAt": received.at,
            "repeated": received.repeated,
        }
        return Response(answer, status=200 if received.repeated else 201)


def _refuse_large(payload: JSONValue) -> None:
    size = len((as_text(payload) or "").encode())
    if size > LIMITS.output_bytes:
        raise InvalidInput(
            f"The payload has {size} bytes; {LIMITS.output_bytes} are allowed.",
            pointer="/payload",
            remedy="Send a reference to what is large.",
        )
