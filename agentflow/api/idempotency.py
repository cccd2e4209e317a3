"""POSTs that may be sent twice and take effect once (header Idempotency-Key).

The stored answer and the effect commit in one transaction, so no crash can leave the one without
the other: after it, a repeat either finds the answer or finds nothing and does the work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

from django.db import connection, transaction
from django.http import HttpResponse, HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ..conf import LIMITS
from ..errors import Conflict, InvalidInput
from . import problems

HEADER = "Idempotency-Key"
REPLAY_HEADER = "Idempotent-Replay"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS = ("Location",)
# What depends on the request alone.  A 403, 404 or 409 may turn out otherwise next time, and did nothing.
_KEPT_FAILURES = frozenset({400, 422})

# The lock goes after the commit is visible, so whoever takes it next finds the stored answer.
_LOCK = """
SELECT pg_try_advisory_xact_lock(%s), r.request_hash, r.status, r.content_type, r.headers::text, r.body
FROM (VALUES (1)) AS one LEFT JOIN api_idempotencyrecord r
  ON r.user_id = %s AND r.route = %s AND r.key = %s AND r.expires_at > statement_timestamp()
"""

_KEEP = """
INSERT INTO api_idempotencyrecord AS r
  (user_id, route, key, request_hash, status, content_type, headers, body, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, statement_timestamp() + make_interval(hours => %s))
ON CONFLICT (user_id, route, key) DO UPDATE
  SET request_hash = excluded.request_hash, status = excluded.status, content_type = excluded.content_type,
      headers = excluded.headers, body = excluded.body, created_at = statement_timestamp(),
      expires_at = excluded.expires_at
  WHERE r.expires_at <= statement_timestamp()
"""

Handler = TypeVar("Handler", bound=Callable[..., HttpResponseBase])


class BadKey(InvalidInput):
    """The Idempotency-Key must be 1 to 255 visible ASCII characters."""

    code = "invalid_idempotency_key"
    remedy = "Send a UUID made for this request."


class InProgress(Conflict):
    """A request with this Idempotency-Key is still being worked on."""

    code = "idempotency_in_progress"
    remedy = "Repeat it in a moment, with the same key."


class KeyReused(Conflict):
    """This Idempotency-Key was used for a different request."""

    code = "idempotency_key_reused"
    remedy = "Use a new key for a new request; repeat a request unchanged."


@dataclass(frozen=True, slots=True)
class _Asked:
    request: Request
    person: int
    route: str
    key: str
    fingerprint: str


class _Stored(NamedTuple):
    request_hash: str
    status: int
    content_type: str
    headers: str
    body: str


class _Undo(Exception):
    """Leaves the transaction with a failure that is an answer."""

    def __init__(self, response: Response) -> None:
        self.response = response


def idempotent(handler: Handler) -> Handler:
    """Honour Idempotency-Key on a view method; without the header the method runs as it is.

    1. The key is locked until commit; a second request at the same time gets InProgress.
    2. A stored answer is given again, byte for byte, marked `Idempotent-Replay: true`.
    3. Otherwise the method runs.  Success keeps effect and answer; a 400 or 422 undoes the effect and
       keeps the answer; any other failure undoes and keeps nothing.

    Hooks of `transaction.on_commit` run once, after the answer is stored; register them robust, as
    one that raises turns the answer into a 500 although it and the effect stand.  The method must
    not open a durable transaction, and its work must be short: it holds one transaction.
    """

    @wraps(handler)
    def guarded(view: APIView, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
        key = request.headers.get(HEADER)
        if key is None:
            return handler(view, request, *args, **kwargs)
        if not _KEY.fullmatch(key):
            raise BadKey(pointer="#" + HEADER)
        asked = _Asked(request, _person(request), _route(request), key, _fingerprint(request))
        try:
            with transaction.atomic():
                if (stored := _locked(asked)) is not None:
                    return _replay(stored, asked.fingerprint)
                response = _answer(handler(view, request, *args, **kwargs))
                if response.status_code >= 400:
                    raise _Undo(response)
                if not _keep(asked, response):
                    raise InProgress(retry_after_s=1)  # whoever had the key committed as we looked
            return response
        except _Undo as undone:
            response = undone.response
        except Exception as error:
            if problems.describe(error)[0]["status"] not in _KEPT_FAILURES:
                raise
            response = _answer(problems.handler(error, {"request": request, "view": view}))
        if response.status_code in _KEPT_FAILURES:
            _keep(asked, response)
        return response

    guarded.is_idempotent = True  # type: ignore[attr-defined]  # the API schema documents the header by this
    return cast(Handler, guarded)


def purge(limit: int = 1000) -> int:
    """Delete up to `limit` expired records; safe at any number of callers.  For the clock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM api_idempotencyrecord WHERE id IN (SELECT id FROM api_idempotencyrecord"
            " WHERE expires_at <= statement_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED)",
            [limit],
        )
        return int(cursor.rowcount)


def _route(request: Request) -> str:
    match = request.resolver_match
    return f"{request.method} {match.route if match else request.path}"[:300]


def _fingerprint(request: Request) -> str:
    body = json.dumps(request.data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{request.get_full_path()}\n{body}".encode()).hexdigest()


def _person(request: Request) -> int:
    assert request.user.pk is not None  # signed in, or the view's permissions would have refused
    return int(request.user.pk)


def _locked(asked: _Asked) -> _Stored | None:
    """The stored answer; or none, and the key is held until the transaction ends.

    Whoever had the key may commit between the statement's first look and its lock: then nothing is found
    here, and `_keep` finds out.

    Raises:
        InProgress: another request holds the key.
    """
    name = f"{asked.person} {asked.route} {asked.key}"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [number, asked.person, asked.route, asked.key])
        is_ours, *stored = cursor.fetchone()
    if stored[0] is not None:
        return _Stored(*stored)
    if not is_ours:
        raise InProgress(retry_after_s=1)
    return None


def _replay(stored: _Stored, fingerprint: str) -> HttpResponse:
    if stored.request_hash != fingerprint:
        raise KeyReused
    return HttpResponse(
        stored.body,
        status=stored.status,
        content_type=stored.content_type,
        headers={**json.loads(stored.headers), REPLAY_HEADER: "true"},
    )


def _answer(response: Any) -> Response:
    if not isinstance(response, Response):
        raise TypeError("an idempotent view method returns a Response")
    return response


def _keep(asked: _Asked, response: Response) -> bool:
    """Store the answer in place of an expired one.  False: there is one already."""
    renderer: Any = asked.request.accepted_renderer
    content = renderer.render(response.data, renderer.media_type, {}) if response.data is not None else b""
    headers = {name: response[name] for name in _KEPT_HEADERS if name in response}
    with connection.cursor() as cursor:
        cursor.execute(
            _KEEP,
            [
                asked.person,
                asked.route,
                asked.key,
                asked.fingerprint,
                response.status_code,
                response.content_type or renderer.media_type,
                json.dumps(headers),
                content.decode(),
                LIMITS.idempotency_hours,
            ],
        )
        return bool(cursor.rowcount)
