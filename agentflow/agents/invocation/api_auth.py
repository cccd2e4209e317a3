"""How an API call shows who calls: a header of the agent's `auth`; for OAuth2 a token is fetched first."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from ...integrations import http, http_failures, waiting
from ...integrations.egress import EgressError, EgressPolicy
from ...types import JSONObject
from ...workflow.failures import Failure, FailureKind
from ..builtin import BuiltinFailure

TOKEN_BYTES = 65_536
EARLY_S = 30.0  # a token this near to its end is not used any more
UNSAID_S = 300.0  # how long one is good that does not say
TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Access:
    """What sends a call's headers; `renew` gives others after a 401, or None where that is of no use."""

    headers: dict[str, str]
    renew: Callable[[], dict[str, str] | None] = lambda: None


def access(
    auth: JSONObject | None,
    *,
    workspace_id: UUID,
    policy: EgressPolicy,
    timeout_s: float,
    on_cancel: Any,
    hide: Callable[[str], Any],
) -> Access:
    """
    Raises:
        EgressError, BuiltinFailure: there is no token to be had.
    """
    given = {name: str(value) for name, value in (auth or {}).items()}
    match given.get("type"):
        case None:
            return Access({})
        case "header":
            return Access({given["name"].lower(): _sendable(given["value"])})
        case "bearer":
            return Access(_bearer(_sendable(given["token"])))
        case "basic":
            pair = f"{given['username']}:{given['password']}".encode()
            return Access({"authorization": "Basic " + base64.b64encode(pair).decode()})
        case "oauth2":
            source = _Source(workspace_id, given, policy, timeout_s, on_cancel, hide)
            return source.access()
    raise BuiltinFailure(
        Failure(FailureKind.CONFIGURATION, "bad_configuration", "configuration.auth.type is unknown.")
    )


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _sendable(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        message = "configuration.auth: a header takes printable ASCII only."
        raise BuiltinFailure(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))
    return value


@dataclass
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)  # one fetches, the others wait for it
    token: str = ""
    until: float = 0.0


_tokens: dict[tuple[str, ...], _Kept] = {}
_tokens_lock = threading.Lock()


def forget_tokens() -> None:
    with _tokens_lock:
        _tokens.clear()


def _kept(key: tuple[str, ...]) -> _Kept:
    with _tokens_lock:
        if key not in _tokens and len(_tokens) >= TOKENS:
            _tokens.clear()
        return _tokens.setdefault(key, _Kept())


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one client gets its tokens.  They are kept in this process until they end."""

    workspace_id: UUID
    given: dict[str, str]
    policy: EgressPolicy
    timeout_s: float
    on_cancel: Any
    hide: Callable[[str], Any]

    def access(self) -> Access:
        kept = self._place()
        used = self._token(kept, refused="")
        return Access(_bearer(used), renew=lambda: _bearer(self._token(kept, refused=used)))

    def _place(self) -> _Kept:
        names = ("tokenUrl", "clientId", "scope", "audience", "clientAuth")
        secret = hashlib.sha256(self.given["clientSecret"].encode()).hexdigest()
        return _kept((str(self.workspace_id), secret, *(self.given.get(name, "") for name in names)))

    def _token(self, kept: _Kept, *, refused: str) -> str:
        # Who waits for the lock waits for a fetch, and must not hold the place that the fetch comes back to.
        with waiting.outside(), kept.lock:
            if not kept.token or kept.token == refused or kept.until <= time.monotonic():
                kept.token = ""
                kept.token, lasts_s = self._fetched()
                kept.until = time.monotonic() + max(lasts_s - EARLY_S, lasts_s / 2)
            self.hide(kept.token)
            return kept.token

    def _fetched(self) -> tuple[str, float]:
        client_id, secret = self.given["clientId"], self.given["clientSecret"]
        form = {"grant_type": "client_credentials"}
        form |= {name: self.given[name] for name in ("scope", "audience") if self.given.get(name)}
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        if self.given.get("clientAuth") == "body":
            form |= {"client_id": client_id, "client_secret": secret}
        else:
            pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()
            headers["authorization"] = "Basic " + base64.b64encode(pair).decode()
        try:
            response = http.client(self.policy).request(
                "POST",
                self.given["tokenUrl"],
                headers=headers,
                content=urlencode(form).encode(),
                timeout_s=self.timeout_s,
                max_bytes=TOKEN_BYTES,
                on_cancel=self.on_cancel,
            )
            http_failures.check_status(
                response.status, response.headers, method="POST", body=_error_of(response.body)
            )
        except EgressError as error:  # the call itself was not sent, so nothing can have come of it
            raise BuiltinFailure(
                replace(
                    error.failure,
                    message=f"No token: {error.failure.message}",
                    outcome_unknown=False,
                )
            ) from error
        return _read(response.body)


def _error_of(body: bytes) -> bytes:
    """Of a refusal only the standard's word for it: the rest may repeat what was sent."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return b""
    word = found.get("error") if isinstance(found, dict) else None
    return word[:100].encode(errors="replace") if isinstance(word, str) else b""


def _read(body: bytes) -> tuple[str, float]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    answer: JSONObject = found if isinstance(found, dict) else {}
    token = str(answer.get("access_token") or "")
    plain = token.isascii() and token.isprintable() and isinstance(answer.get("access_token"), str)
    if not token or not plain or str(answer.get("token_type", "bearer")).lower() != "bearer":
        raise BuiltinFailure(
            Failure(FailureKind.AGENT, "bad_token", "The token server's answer has no bearer token in it.")
        )
    lasts = answer.get("expires_in")
    if isinstance(lasts, int | float) and not isinstance(lasts, bool) and 0 < lasts < 10**9:
        return token, float(lasts)
    return token, UNSAID_S
