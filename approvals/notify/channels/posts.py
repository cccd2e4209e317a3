"""Webhooks, and chats that take Slack's incoming webhooks: both are a POST by the egress client."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from agentflow.agents import registry
from agentflow.agents.builtin import BuiltinFailure
from agentflow.agents.secrets import resolve_secrets
from agentflow.integrations import http
from agentflow.integrations.egress import EgressError, EgressPolicy
from agentflow.integrations.http_failures import check_status
from agentflow.types import JSONObject
from executions.models import Execution

from ...models import Approval
from .. import messages
from ..models import Delivery, Target
from ..states import ASKS, Channel
from . import Refused, Undelivered
from .mail import content_of, shown

TIMEOUT_S = 10.0
ANSWER_BYTES = 64 * 1024
# What no repeat mends.  Other refusals may: a receiver that is being set up answers 404 for a while.
FINAL = frozenset({"egress_refused", "http_400", "http_410", "http_413", "http_422"})


class Poster:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def send(self, deliveries: Sequence[Delivery]) -> Collection[UUID]:
        (delivery,) = deliveries
        target = delivery.target
        about = shown(deliveries)[delivery.pk]
        if target is None or not target.enabled:
            return {delivery.pk}
        if target.channel == Channel.SLACK:
            content = content_of(delivery, about)
            if delivery.topic in ASKS and not content.waits:
                return {delivery.pk}
            _post(target, delivery, slack_body(content))
        else:
            _post(target, delivery, webhook_body(delivery, about))
        return ()


def _post(target: Target, delivery: Delivery, body: JSONObject) -> None:
    # `headers`: where a secret stands as it is, unescaped.
    held: JSONObject = {"headers": {"url": target.url, "secret": target.secret}}
    try:
        known, redactor = resolve_secrets(target.workspace_id, held)
    except BuiltinFailure as error:
        raise Refused(error.failure.message) from error
    opened: Any = known["headers"]
    content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    headers = {"content-type": "application/json"}
    if target.channel == Channel.WEBHOOK:
        headers |= signed(str(delivery.pk), content, opened["secret"], at=int(time.time()))
        headers["idempotency-key"] = str(delivery.pk)
    client = http.client(EgressPolicy(registry.egress_allowed(target.workspace_id)))
    try:
        answer = client.request(
            "POST",
            opened["url"],
            headers=headers,
            content=content,
            timeout_s=TIMEOUT_S,
            max_bytes=ANSWER_BYTES,
        )
        check_status(answer.status, answer.headers, method="POST", body=answer.body)
    except EgressError as error:
        failure = error.failure
        said = redactor.clean_excerpt(f"{failure.code}: {failure.message}")
        if failure.code in FINAL:
            raise Refused(said) from error
        raise Undelivered(said, retry_after_s=failure.retry_after_s) from error


def signed(delivery_id: str, content: bytes, secret: str, *, at: int) -> dict[str, str]:
    """The headers of https://www.standardwebhooks.com: HMAC-SHA256 over `id.timestamp.body`."""
    over = f"{delivery_id}.{at}.".encode() + content
    signature = base64.b64encode(hmac.digest(_key(secret), over, hashlib.sha256)).decode()
    return {"webhook-id": delivery_id, "webhook-timestamp": str(at), "webhook-signature": f"v1,{signature}"}


def _key(secret: str) -> bytes:
    """`whsec_` and base64, as that standard writes keys; any other text is its own bytes."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error as error:
            raise Refused("The signing secret begins with whsec_, but the rest is no base64.") from error
    return secret.encode()


def webhook_body(delivery: Delivery, about: Approval | Execution) -> JSONObject:
    """Enough to know what it is about; what is asked is behind the REST API."""
    return {
        "type": delivery.event_type,
        "timestamp": delivery.event_at.isoformat(),
        "data": {
            **delivery.facts,
            "deliveryId": str(delivery.pk),
            "eventId": delivery.event_id,
            "workspaceId": str(delivery.workspace_id),
            **(_execution(about) if isinstance(about, Execution) else _question(about)),
        },
    }


def _execution(execution: Execution) -> JSONObject:
    return {"executionId": str(execution.pk), "url": messages.execution_url(execution)}


def _question(approval: Approval) -> JSONObject:
    return {
        "approvalId": str(approval.pk),
        "executionId": str(approval.execution_id),
        "blockId": approval.block_id,
        "title": messages.line(approval.request.get("title") or approval.block_name, 200),
        "respondBy": approval.respond_by.isoformat(),
        "url": messages.inbox_url(approval),
    }


def slack_body(content: messages.Content) -> JSONObject:
    fields: list[Any] = [
        {"type": "mrkdwn", "text": f"*{_escaped(k)}*\n{_escaped(v)}"} for k, v in content.facts
    ]
    blocks: list[Any] = [
        {"type": "header", "text": {"type": "plain_text", "text": messages.line(content.headline, 150)}},
        {"type": "section", "text": {"type": "mrkdwn", "text": f"*{_escaped(content.title)}*"}},
    ]
    if content.description:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": _escaped(content.description)}})
    if fields:
        blocks.append({"type": "section", "fields": fields})
    if content.outcome:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": _escaped(content.outcome)}})
    about = _escaped(" · ".join(content.about))
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": about}]})
    if content.url:
        blocks.append({"type": "actions", "elements": _buttons(content)})
    return {"text": _escaped(content.subject), "blocks": blocks}


def _buttons(content: messages.Content) -> list[JSONObject]:
    text: JSONObject = {"type": "plain_text", "text": content.button}
    button: JSONObject = {"type": "button", "text": text, "url": content.url}
    return [button | {"style": "primary"} if content.waits else button]


def _escaped(text: str) -> str:
    """Slack's own escapes: what agents write mentions nobody and links nowhere."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
