"""What agents bring later, to the address that their call gave them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.agents.calls import Completed, Failed
from agentflow.api.serializers import StrictSerializer
from agentflow.conf import KB, LIMITS
from agentflow.errors import InvalidInput
from agentflow.workflow.failures import Failure, FailureKind

from .. import callbacks
from ..services import callbacks as services
from ..snapshot import json_bytes
from .serializers import AnyJSONField, SuccessSerializer


class CallbackErrorSerializer(StrictSerializer):
    kind = serializers.ChoiceField(
        choices=[str(kind) for kind in FailureKind], help_text="Who can mend it: decides on another attempt."
    )
    code = serializers.RegexField(
        r"^[a-z][a-z0-9_]{0,99}\Z",
        trim_whitespace=False,
        help_text="Stable; `retryConditions` may name it.",
    )
    message = serializers.CharField(max_length=2000, help_text="For people.")


class CallbackSerializer(StrictSerializer):
    """Either `output` or `error`."""

    output = AnyJSONField(required=False, help_text="What the block gives, up to 256 KB.")
    error = CallbackErrorSerializer(required=False)

    def brought(self) -> Completed | Failed:
        """What the body says.

        Raises:
            InvalidInput: it says both or nothing, or is too large.
        """
        given: dict[str, Any] = self.validated_data
        if len(given) != 1:
            raise InvalidInput(
                "The body has either output or error.", remedy='Send {"output": ...} or {"error": {...}}.'
            )
        if "error" in given:
            error = given["error"]
            return Failed(Failure(FailureKind(error["kind"]), error["code"], error["message"]))
        size = json_bytes(given["output"])
        if size > LIMITS.output_bytes:
            raise InvalidInput(
                f"The output has {size} bytes; {LIMITS.output_bytes // KB} KB are allowed.",
                pointer="/output",
                remedy="Send a reference to what is large.",
            )
        return Completed(given["output"])


class CallbackView(APIView):
    """The token is the right: whoever was called has it, and nobody else."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(
        operation_id="callbacks_receive", request=CallbackSerializer, responses={200: SuccessSerializer}
    )
    def post(self, request: Request, token: str) -> Response:
        """Bring the result of an attempt that was answered 202.  The same body again gets the same answer.

        404: there is no such address. 409 `callback_used`: another result was brought before.
        409 `callback_withdrawn`: nothing waits for it any more. 410 `callback_expired`: it came too late.
        """
        block_pk, attempt = callbacks.named_by(token)
        body = CallbackSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        services.receive(block_pk=block_pk, attempt=attempt, brought=body.brought())
        return Response({"success": True})
