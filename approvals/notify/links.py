"""Addresses in mails that answer a question: for one person and one answer, once, for some time.

Whoever has the address is taken for its person, as mail is; the workspace says for which kinds and levels
that is not enough and the person must be signed in.  What they may do is looked at when they do it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.core.signing import BadSignature, Signer
from django.db import transaction
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from agentflow.api.context import origin
from agentflow.errors import AgentflowError, Conflict, NotFound

from ..models import Approval, ApprovalKind, ApprovalVote
from ..services import answers, responding
from ..states import ApprovalStatus
from . import messages, wishes
from .models import Delivery, SignedLink
from .recipients import may_still_see
from .states import ASKS, LinkAction

CHANNEL = "link"
# The others ask for more than a yes or no, and are answered in the inbox.
KINDS = frozenset({ApprovalKind.APPROVAL, ApprovalKind.REVIEW, ApprovalKind.TOOL})
ALL = "*"
_signer = Signer(sep=".", salt="approvals.notify.links")


class NoSuchLink(NotFound):
    """That address is not one of ours, or its question is gone."""


class LinkUsed(Conflict):
    """This link was used before."""

    code = "link_used"


class NotOpen(Conflict):
    """The link does not decide any more."""

    code = "link_not_open"


class Standing(StrEnum):
    """What a visit to a link finds."""

    OPEN = "open"
    LOGIN = "login"  # decides once its person has signed in
    OTHER = "other"  # somebody else is signed in, where its person must be
    USED = "used"
    CLOSED = "closed"  # the question was decided, ran out of time or was withdrawn
    EXPIRED = "expired"
    CHANGED = "changed"  # what is asked now is not what the mail was about
    BARRED = "barred"  # its person may not decide this any more


@dataclass(frozen=True, slots=True)
class Visit:
    link: SignedLink
    approval: Approval
    standing: Standing

    @property
    def shows(self) -> bool:
        """Whether the question may be shown to this visitor."""
        return self.standing not in {Standing.LOGIN, Standing.OTHER, Standing.BARRED}


# -- making them -------------------------------------------------------------------


def for_mail(delivery: Delivery, approval: Approval) -> dict[str, str]:
    """The addresses that a mail carries, the same each time it is tried; none where it may carry none."""
    rules = wishes.rules_of(delivery.workspace_id)
    asks = delivery.topic in ASKS and approval.status == ApprovalStatus.PENDING
    if not (asks and delivery.user_id and rules.link_hours and settings.AGENTFLOW_BASE_URL):
        return {}
    if not _yes_is_enough(approval):
        return {}
    found = {}
    for action in LinkAction:
        link, _ = SignedLink.objects.get_or_create(
            delivery=delivery,
            action=action,
            defaults={
                "approval": approval,
                "user_id": delivery.user_id,
                "content_hash": approval.content_hash,
                "expires_at": timezone.now() + timedelta(hours=rules.link_hours),
            },
        )
        found[action.value] = messages.address(reverse("decide", args=[token_of(link)]))
    return found


def token_of(link: SignedLink) -> str:
    return _signer.sign(link.pk.hex)


def _yes_is_enough(approval: Approval) -> bool:
    if approval.kind not in KINDS:
        return False
    try:
        answers.check(kind=approval.kind, approved=True, response=None, input_schema=approval.input_schema)
    except AgentflowError:
        return False
    return True


# -- following them ------------------------------------------------------------------


def visit(token: str, visitor: AbstractBaseUser | AnonymousUser) -> Visit:
    """What is behind an address for this visitor.  Changes nothing: scanners and previews come by, too.

    Raises:
        NoSuchLink
    """
    link = _find(token)
    approval = (
        Approval.objects.select_related("execution__template_version__template", "responder", "workspace")
        .filter(pk=link.approval_id)
        .get()
    )
    return Visit(link, approval, _standing(link, approval, visitor))


def decide(token: str, visitor: AbstractBaseUser | AnonymousUser, *, comments: str = "") -> Visit:
    """Give the answer that the address stands for, and use it up, in one transaction.

    Raises:
        NoSuchLink
        NotOpen: `visit` says why.
        LinkUsed: another visit came first.
        NotPermitted, Conflict: as `responding.respond`.
    """
    found = visit(token, visitor)
    if found.standing is not Standing.OPEN:
        raise NotOpen(standing=found.standing.value)
    link = found.link
    with origin(channel=CHANNEL), transaction.atomic():
        responding.respond(
            approval_id=link.approval_id,
            by=link.user,
            approved=link.action == LinkAction.APPROVE,
            comments=comments,
            content_hash=link.content_hash,
            channel=CHANNEL,
        )
        # After the execution's lock, which comes first everywhere.
        used = SignedLink.objects.filter(pk=link.pk, used_at=None, expires_at__gt=Now()).update(used_at=Now())
        if not used:
            raise LinkUsed
    return visit(token, visitor)


def _find(token: str) -> SignedLink:
    try:
        pk = UUID(hex=_signer.unsign(token))
    except (BadSignature, ValueError) as error:
        raise NoSuchLink from error
    link = SignedLink.objects.select_related("user").filter(pk=pk).first()
    if link is None:
        raise NoSuchLink
    return link


def _standing(link: SignedLink, approval: Approval, visitor: AbstractBaseUser | AnonymousUser) -> Standing:
    # Who has answered is asked no more, and may see what became of it.
    asked = link.used_at is None and approval.status == ApprovalStatus.PENDING
    if not may_still_see(link.user, approval, asked=asked and not _answered(link)):
        return Standing.BARRED
    if visitor.pk != link.user_id and needs_login(approval):
        return Standing.OTHER if visitor.is_authenticated else Standing.LOGIN
    if link.used_at is not None or _answered(link):
        return Standing.USED
    if approval.status != ApprovalStatus.PENDING:
        return Standing.CLOSED
    if link.expires_at <= timezone.now():
        return Standing.EXPIRED
    if link.content_hash != approval.content_hash:
        return Standing.CHANGED
    return Standing.OPEN


def _answered(link: SignedLink) -> bool:
    """Whether its person has answered already, by whatever way."""
    return ApprovalVote.objects.filter(approval=link.approval_id, user=link.user_id, counts=True).exists()


def needs_login(approval: Approval) -> bool:
    """Whether the workspace wants more than the possession of a mail for this."""
    rules = wishes.rules_of(approval.workspace_id)
    return _named(approval.kind, rules.login_kinds) or _named(approval.level, rules.login_levels)


def _named(word: str, among: Collection[str]) -> bool:
    return word in among or ALL in among
