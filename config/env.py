"""The environment, read once, typed and loud: a bad value stops the process with its name."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from urllib.parse import urlsplit


class BadEnvironment(SystemExit):
    """A variable is missing or malformed."""


def text(name: str, default: str | None = None) -> str:
    """`NAME`, or the content of the file named by `NAME_FILE` (for secrets)."""
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise BadEnvironment(f"{name}_FILE: cannot read {path}: {error.strerror}") from error
    value = os.environ.get(name, default)
    if value is None:
        raise BadEnvironment(f"{name} is not set; set it, or {name}_FILE to a file that holds it")
    return value


def integer(name: str, default: int) -> int:
    value = text(name, str(default))
    try:
        return int(value)
    except ValueError:
        raise BadEnvironment(f"{name} must be a whole number, not {value!r}") from None


def boolean(name: str, default: bool) -> bool:
    value = text(name, "true" if default else "false").lower()
    if value not in {"true", "false", "1", "0", "yes", "no"}:
        raise BadEnvironment(f"{name} must be true or false, not {value!r}")
    return value in {"true", "1", "yes"}


def address(name: str) -> str:
    """An http or https address without a slash at its end; empty where it is not set."""
    value = text(name, "").rstrip("/")
    parts = urlsplit(value)
    if value and (
        parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment
    ):
        raise BadEnvironment(f"{name} must be an address such as https://flow.example.com, not {value!r}")
    return value


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def fernet_keys(name: str) -> list[str]:
    """A comma-separated list of keys, each 32 bytes in URL-safe base64."""
    keys = words(name)
    for number, key in enumerate(keys, start=1):
        try:
            size = len(base64.b64decode(key, altchars=b"-_", validate=True))
        except (binascii.Error, ValueError):
            size = 0
        if size != 32:
            raise BadEnvironment(f"{name}: key {number} is not 32 bytes in URL-safe base64")
    return keys
