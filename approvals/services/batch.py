"""Many questions in one call, each with a transaction and record of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from agentflow.errors import AgentflowError, Unprocessable
from agentflow.governance.models import User
from agentflow.types import JSONValue

from ..models import Approval
from . import responding, withdrawing

MOST = 200
MOST_S = 20.0  # then what is left waits for the next call


class NotAlike(Unprocessable):
    """Only questions about the same step of the same version are answered together."""

    code = "not_alike"
    remedy = "Answer the others in a call of their own."


@dataclass(frozen=True, slots=True)
class Answer:
    approval_id: UUID
    approved: bool
    response: JSONValue = None
    comments: str = ""
    content_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    approval_id: UUID
    ok: bool
    code: str = ""
    message: str = ""


def respond_many(*, by: User, answers: Sequence[Answer], channel: str = "") -> list[Result]:
    """Give each answer as `responding.respond` does; one that is refused stops no other.

    Safe to send again: what was answered so already is a success.

    Raises:
        NotAlike: they are about different blocks or versions.
    """
    _require_alike(by, answers)
    until = time.monotonic() + MOST_S
    return [
        _one(answer.approval_id, partial(_respond, by, answer, channel), late=time.monotonic() > until)
        for answer in answers
    ]


def withdraw_many(*, by: User, approval_ids: Sequence[UUID], reason: str) -> list[Result]:
    """Withdraw each as `withdrawing.withdraw` does, whatever they ask; one that is refused stops no other."""
    until = time.monotonic() + MOST_S
    return [
        _one(
            approval_id,
            partial(withdrawing.withdraw, approval_id=approval_id, by=by, reason=reason),
            late=time.monotonic() > until,
        )
        for approval_id in dict.fromkeys(approval_ids)
    ]


def _require_alike(by: User, answers: Sequence[Answer]) -> None:
    rows = Approval.objects.visible_to(by).filter(pk__in=[answer.approval_id for answer in answers])
    places = rows.values_list("execution__template_version", "block_id", "kind").distinct()
    if len(places[:2]) > 1:
        raise NotAlike(pointer="/answers")


def _respond(by: User, answer: Answer, channel: str) -> None:
    responding.respond(
        approval_id=answer.approval_id,
        by=by,
        approved=answer.approved,
        response=answer.response,
        comments=answer.comments,
        content_hash=answer.content_hash,
        channel=channel,
    )


def _one(approval_id: UUID, act: Callable[[], object], *, late: bool) -> Result:
    if late:
        return Result(approval_id, False, "not_reached", "Send it again.")
    try:
        act()
    except AgentflowError as error:
        return Result(approval_id, False, error.code, error.message)
    return Result(approval_id, True)
