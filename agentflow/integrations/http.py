"""The one way out by HTTP: the client of API agents, which others take their connections from.

No proxies from the environment, and redirects that carry nothing to another server.
"""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass

import httpx2

from ..workflow.failures import FailureKind
from .egress import EgressError, EgressPolicy, EgressRefused, Resolver, system_resolver
from .http_failures import SAFE_METHODS
from .http_transport import CONNECT_TIMEOUT_S, EgressTransport
from .http_watch import RESPONSE_BYTES, OnCancel, watched

REDIRECTS = 5
URL_CHARS = 8192


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: httpx2.Headers
    body: bytes
    url: str

    @property
    def content_type(self) -> str:
        return str(self.headers.get("content-type", "")).split(";")[0].strip().lower()


class HttpClient:
    """Calls one address at a time for one policy; safe to share between threads."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        resolver: Resolver = system_resolver,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.raw = httpx2.Client(
            transport=EgressTransport(policy, resolver=resolver, verify=verify),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(CONNECT_TIMEOUT_S, read=None, write=None),
            headers={"accept-encoding": "gzip", "user-agent": "agentflow"},
        )

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        timeout_s: float,
        max_bytes: int = RESPONSE_BYTES,
        on_cancel: OnCancel | None = None,
    ) -> HttpResponse:
        """Send, follow redirects, and read the whole answer, whatever its status.

        Raises:
            EgressError: there is no whole answer.
        """
        if len(url) > URL_CHARS or any(char in url for char in "\\ \t\r\n"):
            raise EgressRefused("The address is too long, or has spaces or backslashes in it.")
        with watched(timeout_s=timeout_s, max_bytes=max_bytes, on_cancel=on_cancel):
            request = self.raw.build_request(method, url, headers=headers, content=content)
            for _ in range(REDIRECTS + 1):
                response = self.raw.send(request, stream=True)
                try:
                    following = _following(request, response)
                    if following is None:
                        return HttpResponse(
                            response.status_code, response.headers, response.read(), str(request.url)
                        )
                finally:
                    response.close()
                request = following
        raise EgressError(
            FailureKind.CONFIGURATION, "too_many_redirects", f"More than {REDIRECTS} redirects."
        )

    def close(self) -> None:
        self.raw.close()


def _following(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
    """The request a redirect asks for, or None when the answer stands as it is.

    What changes something is never sent to another origin, and no header of ours goes there but the
    harmless ones: `Authorization` is not the only one that carries a secret.
    """
    following = response.next_request
    if following is None:
        return None
    same = _origin(request.url) == _origin(following.url)
    if request.url.scheme == "https" and following.url.scheme != "https":
        raise EgressRefused("A redirect from https to http is not followed.")
    if not same and request.method not in SAFE_METHODS:
        raise EgressRefused(f"A redirect of {request.method} to another server is not followed.")
    if not same:
        kept = {"accept", "accept-encoding", "user-agent", "host", "accept-language"}
        for name in [name for name in following.headers if name.lower() not in kept]:
            del following.headers[name]
    return following


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return (url.scheme, url.host, url.port)


@functools.lru_cache(maxsize=64)
def client(policy: EgressPolicy) -> HttpClient:
    """This process's client for a policy, with its connections.

    One pool per policy: a connection that one workspace may use must not serve another.
    """
    return HttpClient(policy)
