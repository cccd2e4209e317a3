"""Answers to many questions about one block, in one call: each with a transaction and record of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from agentflow.errors import AgentflowError, Unprocessable
from agentflow.governance.models import User
from agentflow.types import JSONValue

from ..models import Approval
from . import responding

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


def respond_many(*, by: User, answers: Sequence[Answer]) -> list[Result]:
    """Give each answer as `responding.respond` does; one that is refused stops no other.

    Safe to send again: what was answered so already is a success.

    Raises:
        NotAlike: they are about different blocks or versions.
    """
    _require_alike(by, answers)
    until = time.monotonic() + MOST_S
    return [_one(by, answer, late=time.monotonic() > until) for answer in answers]


def _require_alike(by: User, answers: Sequence[Answer]) -> None:
    rows = Approval.objects.visible_to(by).filter(pk__in=[answer.approval_id for answer in answers])
    places = rows.values_list("execution__template_version", "block_id", "kind").distinct()
    if len(places[:2]) > 1:
        raise NotAlike(pointer="/answers")


def _one(by: User, answer: Answer, *, late: bool) -> Result:
    if late:
        return Result(answer.approval_id, False, "not_reached", "Send it again.")
    try:
        responding.respond(
            approval_id=answer.approval_id,
            by=by,
            approved=answer.approved,
            response=answer.response,
            comments=answer.comments,
            content_hash=answer.content_hash,
        )
    except AgentflowError as error:
        return Result(answer.approval_id, False, error.code, error.message)
    return Result(answer.approval_id, True)
