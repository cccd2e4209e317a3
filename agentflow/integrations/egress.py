"""Where a call may go: public addresses, and what a workspace's administrator excepted.

A name is resolved once, every address it has must be allowed, and the connection is made to one of
those very addresses.  So a name that changes its answer between check and use (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import functools
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from ..workflow.failures import Failure, FailureKind

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Resolver: TypeAlias = Callable[[str, float], Sequence[str]]  # (name, seconds) -> addresses


class EgressError(Exception):
    """A call to the outside did not succeed; `failure` says how."""

    def __init__(
        self,
        kind: FailureKind,
        code: str,
        message: str,
        *,
        outcome_unknown: bool = False,
        retry_after_s: float | None = None,
        evidence: dict[str, object] | None = None,
    ) -> None:
        self.failure = Failure(
            kind,
            code,
            message,
            retry_after_s=retry_after_s,
            outcome_unknown=outcome_unknown,
            evidence=dict(evidence or {}),
        )
        super().__init__(message)


class EgressRefused(EgressError):
    """The destination is not one that this workspace may call; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.CONFIGURATION, "egress_refused", message)


class NotResolved(EgressError):
    """The name has no address just now."""

    def __init__(self, host: str) -> None:
        super().__init__(FailureKind.TRANSIENT, "dns_failed", f"The name {host} cannot be resolved.")


# Global by the registry's letter, yet answered inside: relays that carry IPv4 in IPv6, documentation,
# and the one public address that a cloud uses for its machines' own metadata.
_NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "168.63.129.16/32",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
# Metadata services live here; a name on the allow-list does not open it, only the address itself does.
_LINK_LOCAL: tuple[Network, ...] = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))


def plain(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_public(address: Address) -> bool:
    address = plain(address)
    if isinstance(address, IPv6Address) and (address.scope_id or address not in _GLOBAL_UNICAST_V6):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NEVER_PUBLIC if network.version == address.version)
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of an allow-list."""

    host: str = ""  # a name, or `*.example.com`
    network: Network | None = None
    port: int | None = None

    def permits(self, host: str, port: int, address: Address) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        if any(address in network for network in _LINK_LOCAL if network.version == address.version):
            return False
        if address.is_multicast or address.is_unspecified:
            return False
        return host == self.host or (self.host.startswith("*.") and host.endswith(self.host[1:]))


_ENTRY = re.compile(r"(?P<bare>\[[0-9a-f:./]+\]|[^:\[\]@\s]+)(?::(?P<port>\d{1,5}))?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def parse_rule(entry: str) -> Rule:
    """One entry: `name`, `*.name` (all below it, not itself), an address, or a network as `10.2.0.0/16`.

    Each may end in `:port`; IPv6 with a port is written in brackets.  No scheme, path, user or bare `*`.

    Raises:
        ValueError: it is none of these; says what is wrong, to follow the entry itself.
    """
    text = entry.lower()
    matched = None if len(text) > 260 else _ENTRY.fullmatch(text)
    bare, port = (matched["bare"].strip("[]"), matched["port"]) if matched else (text, None)
    if port and not 1 <= int(port) <= 65535:
        raise ValueError("has a port outside 1-65535")
    try:
        return Rule(network=ip_network(bare), port=int(port) if port else None)
    except ValueError:
        if matched is None or text.startswith("["):
            raise ValueError("is no host, address or network: no scheme, path, user or spaces") from None
    name = bare.rstrip(".")
    labels = name.removeprefix("*.").split(".")
    if "/" in name or labels[-1].isdigit():
        raise ValueError("looks like an address or a network but is none")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("is no host name in ASCII (write other letters as xn--...)")
    return Rule(host=name, port=int(port) if port else None)


@functools.lru_cache(maxsize=256)
def _rules(allow: tuple[str, ...]) -> tuple[Rule, ...]:
    rules = []
    for entry in allow:
        try:
            rules.append(parse_rule(entry))
        except ValueError:
            continue  # an entry nobody understands allows nothing
    return tuple(rules)


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What one workspace may reach besides public addresses.

    `allow` excepts: `"intranet.example"`, `"*.corp.example:8443"`, `"127.0.0.1:8701"`, `"10.2.0.0/16"`.
    """

    allow: tuple[str, ...] = ()

    def permits(self, host: str, port: int, address: Address) -> bool:
        address = plain(address)
        if is_public(address):
            return True
        return any(rule.permits(host, port, address) for rule in _rules(self.allow))

    def addresses(self, host: str, port: int, *, resolver: Resolver, timeout_s: float) -> list[Address]:
        """The addresses to connect to, each of them allowed.

        Raises:
            EgressRefused: one of them is not; an honest name has no mixture.
            NotResolved: there is none.
        """
        name = host.lower().rstrip(".").strip("[]")
        literal = _literal(name)
        found = [literal] if literal else [ip_address(text) for text in resolver(name, timeout_s)]
        if not found:
            raise NotResolved(name)
        for address in found:
            if not self.permits(name, port, address):
                raise EgressRefused(f"{name}:{port} leads to {address}, which this workspace may not call.")
        return [plain(address) for address in found]


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def system_resolver(name: str, timeout_s: float) -> list[str]:
    """The system's resolver, given up after `timeout_s`: `getaddrinfo` itself cannot be interrupted.

    Raises:
        NotResolved: no such name, or no answer in time.
    """
    answers: list[str] = []
    failed = threading.Event()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            failed.set()
            return
        answers.extend(dict.fromkeys(str(entry[4][0]) for entry in found))

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive() or failed.is_set():
        raise NotResolved(name)
    return answers
