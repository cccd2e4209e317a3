"""POSTs that may be sent twice and take effect once (header Idempotency-Key).

The stored answer and the effect commit in one transaction, so no crash can leave the one without
the other: after it, a repeat either finds the answer or finds nothing and does the work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar, cast

from django.db import connection, transaction
from django.db.models.functions import Now
from django.http import HttpResponse, HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ..conf import LIMITS
from ..errors import Conflict, InvalidInput
from . import problems
from .models import IdempotencyRecord

HEADER = "Idempotency-Key"
REPLAY_HEADER = "Idempotent-Replay"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS = ("Location",)
# What depends on the request alone.  A 403, 404 or 409 may turn out otherwise next time, and did nothing.
_KEPT_FAILURES = frozenset({400, 422})

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


def idempotent(handler: Handler) -> Handler:
    """Honour Idempotency-Key on a view method; without the header the method runs as it is.

    1. The key is locked until commit; a second request at the same time gets InProgress.
    2. A stored answer is given again, byte for byte, marked `Idempotent-Replay: true`.
    3. Otherwise the method runs in a savepoint.  Success keeps effect and answer; a 400 undoes the
       effect and keeps the answer; any other failure undoes and keeps nothing.

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
        route, fingerprint = _route(request), _fingerprint(request)
        with transaction.atomic():
            _lock(f"{request.user.pk} {route} {key}")
            if (stored := _stored(request, route, key)) is not None:
                return _replay(stored, fingerprint)
            response = _run(handler, view, request, args, kwargs)
            _keep(response, request, route, key, fingerprint)
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


def _lock(name: str) -> None:
    """Hold `name` until the transaction ends, or raise InProgress.

    The lock goes after the commit is visible, so whoever takes it next sees the stored answer.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        if not cursor.fetchone()[0]:
            raise InProgress(retry_after_s=1)


def _stored(request: Request, route: str, key: str) -> IdempotencyRecord | None:
    mine = IdempotencyRecord.objects.filter(user=request.user.pk, route=route, key=key)
    record = mine.filter(expires_at__gt=Now()).first()
    if record is None:
        mine.delete()  # expired: the key is free again
    return record


def _replay(record: IdempotencyRecord, fingerprint: str) -> HttpResponse:
    if record.request_hash != fingerprint:
        raise KeyReused
    return HttpResponse(
        record.body,
        status=record.status,
        content_type=record.content_type,
        headers={**record.headers, REPLAY_HEADER: "true"},
    )


class _Undo(Exception):
    """Leaves the savepoint with a failure that is an answer."""


def _run(
    handler: Callable[..., HttpResponseBase],
    view: APIView,
    request: Request,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Response:
    response: Any = None
    try:
        with transaction.atomic():
            response = handler(view, request, *args, **kwargs)
            if response.status_code >= 400:
                raise _Undo
    except _Undo:
        pass
    except Exception as error:
        body, _ = problems.describe(error)
        if body["status"] not in _KEPT_FAILURES:
            raise
        response = problems.handler(error, {"request": request, "view": view})
    if not isinstance(response, Response):
        raise TypeError("an idempotent view method returns a Response")
    return response


def _keep(response: Response, request: Request, route: str, key: str, fingerprint: str) -> None:
    if response.status_code >= 400 and response.status_code not in _KEPT_FAILURES:
        return
    renderer: Any = request.accepted_renderer
    content = renderer.render(response.data, renderer.media_type, {}) if response.data is not None else b""
    person: Any = request.user  # signed in, or the view's permissions would have refused
    IdempotencyRecord.objects.create(
        user=person,
        route=route,
        key=key,
        request_hash=fingerprint,
        status=response.status_code,
        content_type=response.content_type or renderer.media_type,
        headers={name: response[name] for name in _KEPT_HEADERS if name in response},
        body=content.decode(),
        expires_at=Now() + timedelta(hours=LIMITS.idempotency_hours),
    )
