"""Callback URLs: whoever holds one may bring the result of one attempt of one block, and nothing else.

A URL follows from the attempt and the installation's secret key, so that nothing is written before the
call and nothing secret is kept.
"""

from __future__ import annotations

from django.conf import settings
from django.core.signing import BadSignature, Signer

from agentflow.errors import NotFound


def url(block_pk: int, attempt: int) -> str:
    """Where the other side brings what came of this attempt; empty where this installation has no address."""
    base: str = settings.AGENTFLOW_BASE_URL
    return f"{base.rstrip('/')}/api/v1/callbacks/{token(block_pk, attempt)}" if base else ""


def token(block_pk: int, attempt: int) -> str:
    return _signer().sign(f"{block_pk}.{attempt}")


def named_by(token: str) -> tuple[int, int]:
    """The block's row and the attempt that a token was made for.

    Raises:
        NotFound: this installation made no such token.
    """
    try:
        block_pk, attempt = _signer().unsign(token).split(".")
    except BadSignature as error:
        raise NotFound() from error
    return int(block_pk), int(attempt)


def _signer() -> Signer:
    return Signer(salt="agentflow.callback", sep=".")
