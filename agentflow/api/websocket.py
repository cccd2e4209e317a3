"""Sockets whose rights are checked again and again, not only when they open."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, TypeAlias
from urllib.parse import parse_qs

from asgiref.sync import async_to_sync
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator, WebsocketDenier
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.urls import re_path
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from ..conf import LIMITS
from ..errors import AgentflowError, InvalidInput, NotFound, NotPermitted
from ..types import JSONObject
from . import context, listening, parsers, tickets
from .authentication import stamp
from .sharing import Together

log = logging.getLogger(__name__)

# Close codes: 4000 + the HTTP status that would have been the answer.
BAD_MESSAGE = 4400
NOT_SIGNED_IN = 4401
NOT_PERMITTED = 4403
NOT_FOUND = 4404
BROKEN = 1011
TOO_BIG = 1009

RECHECK_S = 30.0
FRESH_S = 1.0  # before a push the rights may rest on a check this old: at most one query a second per socket
BAD_MESSAGES_MAX = 20


class AuthenticatedConsumer(AsyncWebsocketConsumer, ABC):  # type: ignore[misc]  # channels ships no types
    """A socket of one signed-in person.

    A subclass implements `may_continue` (do the rights for what this socket shows still hold?),
    `opened` (join groups, replay from a cursor) and `handle` (one message from the client), and
    sends with `push`.  The person is `self.user`, set before any of them.

    Session or single-use `?ticket=`; without an Origin header only a ticket counts.  Every 30
    seconds, and before a push, the session, the account and `may_continue` are looked at again; on
    logout the socket closes at once.
    """

    user: AbstractBaseUser
    recheck_s: ClassVar[float] = RECHECK_S
    channel_layer_alias = None  # the process listens for all of its sockets: `listening`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watch: asyncio.Task[None] | None = None
        self._signing_out: asyncio.Task[None] | None = None
        self._session_key = ""
        self._stamp = ""
        self._checked_at = 0.0
        self._bad_messages = 0
        self._closed = False

    # What a subclass says -------------------------------------------------------------------------

    @abstractmethod
    async def may_continue(self) -> bool:
        """Whether this person may still see what the socket shows."""

    async def opened(self) -> None:
        """The socket is accepted and permitted."""

    async def handle(self, message: JSONObject) -> None:
        """One message from the client; an AgentflowError becomes an error message."""

    # Connecting and leaving -----------------------------------------------------------------------

    async def connect(self) -> None:
        # Accepted first: a browser is shown the close code only of an open socket.
        await self.accept()
        try:
            user = await self._identify()
            if user is None:
                await self.leave(NOT_SIGNED_IN, "Sign in first.")
                return
            self.user = user
            self._stamp = await database_sync_to_async(stamp)(user)
            if not await self.may_continue():
                await self.leave(NOT_FOUND, "There is nothing here for you.")
                return
            self._checked_at = time.monotonic()
            if self._session_key:
                listening.listener().listen(session_name(self._session_key), self._session_ended)
            self._watch = asyncio.create_task(self._keep_watch())
            await self.opened()
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets a code, no traceback
            await self._broke(error)

    async def disconnect(self, code: int) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        if self._session_key:
            listening.listener().forget(session_name(self._session_key), self._session_ended)

    async def leave(self, code: int, reason: str) -> None:
        """Close, once."""
        if not self._closed:
            self._closed = True
            await self.close(code=code, reason=reason)

    def _session_ended(self, message: JSONObject | None) -> None:
        if message is not None:
            self._signing_out = asyncio.create_task(self.leave(NOT_SIGNED_IN, "You signed out."))

    # Messages -------------------------------------------------------------------------------------

    async def push(self, message: JSONObject) -> None:
        """Send, unless the rights have gone."""
        await self.push_text(json.dumps(message))

    async def push_text(self, text: str) -> None:
        """As `push`, of what is JSON already."""
        if not self._closed and await self._still_welcome_soon():
            await self.send(text_data=text)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._closed:
            return
        if text_data is None:
            await self.leave(1003, "Send text, not binary.")
            return
        # A character is at most 4 bytes: most frames need not be encoded to be known small.
        if len(text_data) > LIMITS.websocket_frame_bytes:
            await self.leave(TOO_BIG, "The message is too large.")
            return
        try:
            data = text_data.encode(errors="replace")
            if len(data) > LIMITS.websocket_frame_bytes:
                await self.leave(TOO_BIG, "The message is too large.")
                return
            message = parsers.loads(data)
            if not isinstance(message, dict):
                raise InvalidInput("A message is a JSON object.")
            if not await self._still_welcome_soon():
                return
            with context.origin(channel="websocket", request_id=uuid.uuid4().hex):
                await self.handle(message)
        except AgentflowError as error:
            await self._complain(error)
        except Exception as error:  # noqa: BLE001  # as above
            await self._broke(error)

    async def dispatch(self, message: JSONObject) -> None:
        """Also a channel-layer event that its handler stumbles over must not end in a traceback."""
        try:
            await super().dispatch(message)
        except StopConsumer:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            await self._broke(error)

    async def _complain(self, error: AgentflowError) -> None:
        self._bad_messages += 1
        if self._bad_messages > BAD_MESSAGES_MAX:
            await self.leave(BAD_MESSAGE, "Too many messages that make no sense.")
            return
        issues = getattr(error, "issues", [])
        body = {"type": "error", "code": error.code, "detail": error.message, "issues": issues}
        await self.send(text_data=json.dumps(body))

    async def _broke(self, error: Exception) -> None:
        if isinstance(error, NotFound):
            await self.leave(NOT_FOUND, error.message[:100])
            return
        if isinstance(error, NotPermitted):
            await self.leave(NOT_PERMITTED, error.message[:100])
            return
        log.error("a socket broke", exc_info=error)
        await self.leave(BROKEN, "Something broke on our side; connect again.")

    # Rights ---------------------------------------------------------------------------------------

    async def _identify(self) -> AbstractBaseUser | None:
        ticket = _ticket(self.scope)
        if ticket is not None:
            bearer: AbstractBaseUser | None = await database_sync_to_async(tickets.redeem)(ticket)
            return bearer
        self._session_key = self.scope["session"].session_key or ""
        person: AbstractBaseUser | None = await database_sync_to_async(_active)(self.scope["user"].pk)
        return person

    async def _keep_watch(self) -> None:
        while not self._closed:
            due = self._checked_at + self.recheck_s
            if (now := time.monotonic()) < due:
                # All sockets of a process look on the stroke of the second, so they look together.
                stroke = self.recheck_s / RECHECK_S
                await asyncio.sleep(-(-due // stroke) * stroke - now)
                continue
            try:
                await self._still_welcome()
            except Exception as error:  # noqa: BLE001  # the database is away: rights unknown, so leave
                await self._broke(error)

    async def _still_welcome_soon(self) -> bool:
        return time.monotonic() - self._checked_at <= FRESH_S or await self._still_welcome()

    async def _still_welcome(self) -> bool:
        asked_at = time.monotonic()
        if not self._account_holds(await _accounts.ask(self.account)):
            await self.leave(NOT_SIGNED_IN, "You are no longer signed in.")
        elif not await self.may_continue():
            await self.leave(NOT_PERMITTED, "You may no longer see this.")
        else:
            self._checked_at = asked_at
            return True
        return False

    @property
    def account(self) -> tuple[Any, str]:
        """What `accounts_now` wants to know whom to look at."""
        return self.user.pk, self._session_key

    def _account_holds(self, account: Account) -> bool:
        user, session = account
        if user is None or not constant_time_compare(stamp(user), self._stamp):
            return False
        if not self._session_key:
            return True
        return (
            session.get(SESSION_KEY) == str(user.pk)
            and BACKEND_SESSION_KEY in session
            and constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash())
        )


def _active(pk: Any) -> AbstractBaseUser | None:
    return get_user_model()._default_manager.filter(pk=pk, is_active=True).first()


Account: TypeAlias = tuple[AbstractBaseUser | None, dict[str, Any]]  # the session's data: empty without one


def accounts_now(asked: Collection[tuple[Any, str]]) -> dict[tuple[Any, str], Account]:
    """The person, if active, and the session behind each pair of user and session key; two queries."""
    people = get_user_model()._default_manager.filter(is_active=True).in_bulk({pk for pk, _ in asked})
    keys = {key for _, key in asked if key}
    live = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now()) if keys else ()
    sessions = {session.session_key: session.get_decoded() for session in live}
    return {(pk, key): (people.get(pk), sessions.get(key, {})) for pk, key in asked}


_accounts = Together(accounts_now)


class Nowhere(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Any address that is no socket."""

    async def connect(self) -> None:
        await self.accept()
        await self.close(code=NOT_FOUND, reason="There is no such address.")


class _OriginOrTicket:
    """Lets pages of our own hosts in, and programs (no Origin header) that bring a ticket."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.guarded = AllowedHostsOriginValidator(application)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        try:
            parse_qs(scope.get("query_string", b"").decode("ascii"), max_num_fields=20)
        except ValueError:
            return await WebsocketDenier()(scope, receive, send)
        origins = [value for name, value in scope.get("headers", []) if name == b"origin"]
        if len(origins) > 1:
            return await WebsocketDenier()(scope, receive, send)
        if not origins and _ticket(scope) is not None:
            return await self.application(scope, receive, send)
        try:
            return await self.guarded(scope, receive, send)
        except ValueError:  # an Origin that is no address, such as one with port 99999
            return await WebsocketDenier()(scope, receive, send)


def _ticket(scope: Any) -> str | None:
    values = parse_qs(scope.get("query_string", b"").decode("ascii", errors="replace")).get("ticket")
    return values[0] if values else None


def application(routes: list[Any]) -> Any:
    """The WebSocket half of the ASGI application."""
    return _OriginOrTicket(AuthMiddlewareStack(URLRouter([*routes, re_path(r"", Nowhere.as_asgi())])))


def session_name(session_key: str) -> str:
    """By which one session's sockets are told; the key itself stays out of Valkey."""
    return "session." + hashlib.sha256(session_key.encode()).hexdigest()[:40]


def close_sockets_of_session(sender: Any, request: HttpRequest | None, **kwargs: Any) -> None:
    """On logout.  Best effort: without Valkey the sockets close at their next check."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    if not key:
        return
    try:
        async_to_sync(listening.tell)([session_name(key)], {"type": "ended"})
    except Exception:  # signing out must not fail for it
        log.warning("could not tell the sockets of a session that it ended", exc_info=True)


def connect_signals() -> None:
    user_logged_out.connect(close_sockets_of_session, dispatch_uid="agentflow.api.close_sockets")
