"""E-mail by Django's backend: one message per delivery, or one for a batch of them."""

from __future__ import annotations

import smtplib
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.template.loader import render_to_string
from django.urls import reverse

from agentflow.governance import access
from agentflow.governance.roles import Permission
from executions.models import Execution

from ...models import Approval
from ...states import ApprovalStatus
from .. import links, messages
from ..models import Delivery
from ..recipients import may_still_see
from ..states import ASKS, Channel
from . import Refused, Undelivered

LANE = "email"


class Mailer:
    """Sends mail over one connection for as long as it is open."""

    def __init__(self) -> None:
        self._connection: Any = get_connection(timeout=settings.EMAIL_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._connection.close()
        except (OSError, smtplib.SMTPException):
            return

    def send(self, deliveries: Sequence[Delivery]) -> Collection[UUID]:
        subjects = shown(deliveries)
        needed = [each for each in deliveries if _needed(each, subjects[each.pk])]
        if needed:
            self._send(message(needed, subjects))
        return {each.pk for each in deliveries} - {each.pk for each in needed}

    def _send(self, mail: EmailMultiAlternatives) -> None:
        try:
            self._connection.open()
            self._connection.send_messages([mail])
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise _undelivered(
                "The recipient was refused", error, all(code >= 500 for code in codes)
            ) from error
        except smtplib.SMTPAuthenticationError as error:
            raise _undelivered("The mail server refused the login", error, permanent=False) from error
        except smtplib.SMTPResponseException as error:
            raise _undelivered("The mail server refused it", error, error.smtp_code >= 500) from error
        except (OSError, smtplib.SMTPException) as error:
            raise _undelivered("The mail server cannot be reached", error, permanent=False) from error


def _undelivered(what: str, error: Exception, permanent: bool) -> Undelivered:
    said = messages.line(f"{what}: {error}", 400)
    return Refused(said) if permanent else Undelivered(said)


def shown(deliveries: Sequence[Delivery]) -> dict[UUID, Approval | Execution]:
    """What each of them is about."""
    approvals = Approval.objects.select_related(
        "execution__template_version__template", "responder", "workspace"
    ).in_bulk({each.approval_id for each in deliveries if each.approval_id})
    executions = Execution.objects.select_related("template_version__template", "workspace").in_bulk(
        {each.execution_id for each in deliveries if each.execution_id}
    )
    return {
        each.pk: approvals[each.approval_id] if each.approval_id else executions[each.execution_id]
        for each in deliveries
    }


def content_of(delivery: Delivery, subject: Approval | Execution) -> messages.Content:
    if isinstance(subject, Execution):
        return messages.content_of_execution(delivery, subject)
    return messages.content_of(delivery, subject, links.for_mail(delivery, subject))


def _needed(delivery: Delivery, approval: Approval | Execution) -> bool:
    """Nobody is asked what is answered, or shown what they may no longer see."""
    if delivery.user is None or not delivery.user.email:
        return False
    if isinstance(approval, Execution):
        return delivery.user.is_active and access.can(delivery.user, Permission.VIEW, approval.workspace_id)
    if delivery.topic in ASKS and approval.status != ApprovalStatus.PENDING:
        return False
    return may_still_see(delivery.user, approval, asked=delivery.topic in ASKS)


def message(
    deliveries: Sequence[Delivery], subjects: dict[UUID, Approval | Execution]
) -> EmailMultiAlternatives:
    """What is sent for these, the same each time it is tried."""
    leader = deliveries[0]
    assert leader.user is not None  # `_needed`
    contents = [content_of(each, subjects[each.pk]) for each in deliveries]
    single = len(contents) == 1
    context = {
        "user": leader.user,
        "workspace_name": contents[0].workspace_name,
        "asks": any(each.approval is not None for each in contents),
        "contents": contents,
        "one": contents[0] if single else None,
        "inbox": messages.address(reverse("inbox")),
        "preferences": messages.address("/notifications/"),
    }
    subject = (
        contents[0].subject
        if single
        else f"{len(contents)} messages about {'approvals' if context['asks'] else 'executions'}"
    )
    headers = _headers(leader.batch or leader.pk)
    if single:
        headers |= _thread(leader)
        headers["X-Agentflow-Event"] = leader.event_type
    mail = EmailMultiAlternatives(
        subject=f"[{messages.line(contents[0].workspace_name, 40)}] {subject}",
        body=render_to_string("notify/mail.txt", context),
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=[leader.user.email],
        headers=headers,
    )
    mail.attach_alternative(render_to_string("notify/mail.html", context), "text/html")
    return mail


def _headers(delivery_id: UUID) -> dict[str, str]:
    headers = {
        "Message-ID": message_id(delivery_id),
        "X-Agentflow-Delivery": str(delivery_id),
        # Out-of-office programs do not answer these, and filters know what it is.
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
        "List-Id": f"agentflow approvals <approvals.{messages.host()}>",
    }
    if preferences := messages.address("/notifications/"):
        headers["List-Unsubscribe"] = f"<{preferences}>"
    return headers


def _thread(delivery: Delivery) -> dict[str, str]:
    """Later messages about a question answer the first one that its reader got."""
    if delivery.approval_id is None:
        return {"References": f"<execution.{delivery.execution_id}@{messages.host()}>"}
    first = (
        Delivery.objects.filter(
            approval=delivery.approval_id,
            user=delivery.user_id,
            channel=Channel.EMAIL,
            event_id__lt=delivery.event_id,
            sent_at__isnull=False,
        )
        .order_by("event_id")
        .values_list("pk", "batch")
        .first()
    )
    root = f"<approval.{delivery.approval_id}@{messages.host()}>"
    if first is None:
        return {"References": root}
    before = message_id(first[1] or first[0])
    return {"In-Reply-To": before, "References": f"{root} {before}"}


def message_id(delivery_id: UUID) -> str:
    return f"<{delivery_id}@{messages.host()}>"
