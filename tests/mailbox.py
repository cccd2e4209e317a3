"""A real SMTP server on loopback, for what the product sends by mail."""

from __future__ import annotations

import contextlib
import email
import email.policy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

from tests.service import free_port

TAKEN = "250 OK"


@dataclass
class Mailbox:
    """Keeps what it takes; `answer` decides, by what it says, whether it takes a mail."""

    host: str = "127.0.0.1"
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    answer: Callable[[EmailMessage], str] = lambda mail: TAKEN
    recipient: str = TAKEN

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.recipient == TAKEN:
            envelope.rcpt_tos.append(address)
        return self.recipient

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(mail)
        return self.answer(mail)

    def text(self, index: int = -1) -> str:
        return part(self.mails[index], "plain")

    def html(self, index: int = -1) -> str:
        return part(self.mails[index], "html")


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


@contextlib.contextmanager
def mailbox(settings: Any) -> Iterator[Mailbox]:
    """An SMTP server that the product is set up to send by."""
    box = Mailbox()
    box.port = free_port()
    controller = Controller(box, hostname=box.host, port=box.port)
    controller.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"  # pytest-django puts another
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_TIMEOUT = box.host, box.port, 5
    settings.AGENTFLOW_EMAIL = True
    settings.AGENTFLOW_BASE_URL = "https://flow.example.com"
    try:
        yield box
    finally:
        controller.stop()
