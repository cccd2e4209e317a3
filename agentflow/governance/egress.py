"""The form of a workspace's egress allow list: which hosts that are not public its agents may call."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from django.core.exceptions import ValidationError

ENTRIES_MAX = 200
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_ENTRY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(?::(?P<port>\d{1,5}))?")


def problem_with(entry: Any) -> str | None:
    """Why `entry` is not a host, or None.

    An entry is `host`, `host:port`, `*.domain` (every name below it, not the domain itself), or an
    IP address with an optional port (IPv6 in brackets).  No scheme, path, user or bare `*`.
    """
    if not isinstance(entry, str):
        return "must be text such as api.example.com or *.example.com:8443"
    match = _ENTRY.fullmatch(entry)
    if match is None or len(entry) > 260:
        return "must be a host with an optional port: no scheme, path, user or spaces; lower case"
    if match["port"] and not 1 <= int(match["port"]) <= 65535:
        return "has a port outside 1-65535"
    host = match["host"]
    if host.startswith("["):
        return None if _is_address(host[1:-1]) else "is not an IPv6 address"
    if _is_address(host):
        return None
    name = host.removeprefix("*.")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "is not a host name in lower-case ASCII (write other letters as xn--...)"
    if all(label.isdigit() for label in labels):
        return "looks like an IP address but is not one"
    return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def validate_allow_list(value: Any) -> None:
    """A Django validator that names every bad entry at once."""
    if not isinstance(value, list):
        raise ValidationError("The allow list must be a list of hosts.", code="not_a_list")
    if len(value) > ENTRIES_MAX:
        raise ValidationError(f"At most {ENTRIES_MAX} hosts can be listed.", code="too_many")
    problems = [f"{entry!r} {why}" for entry in value if (why := problem_with(entry))]
    if problems:
        raise ValidationError(problems, code="bad_host")
