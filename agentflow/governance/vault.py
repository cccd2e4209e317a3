"""Seals secrets before they are stored and opens them where they are used.

Fernet (AES-128-CBC with HMAC-SHA256) with several keys: the first seals, all open.  What is sealed names its
place too, so that a row's ciphertext copied into another row opens nothing.
"""

from __future__ import annotations

import base64
import functools
import json
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class CannotOpen(Exception):
    """None of the keys opens this, or it was sealed for another place."""


def seal(value: str, *, workspace_id: UUID, name: str) -> str:
    place = {"workspace": str(workspace_id), "name": name, "value": value}
    return _box().encrypt(json.dumps(place).encode()).decode()


def opened(sealed: str, *, workspace_id: UUID, name: str) -> str:
    """
    Raises:
        CannotOpen
    """
    try:
        held = json.loads(_box().decrypt(sealed.encode()))
    except InvalidToken as error:
        raise CannotOpen(name) from error
    if (held["workspace"], held["name"]) != (str(workspace_id), name):
        raise CannotOpen(name)
    return str(held["value"])


def resealed(sealed: str) -> str:
    """The same under the first key.

    Raises:
        CannotOpen
    """
    try:
        return _box().rotate(sealed.encode()).decode()
    except InvalidToken as error:
        raise CannotOpen() from error


def sealed_by(sealed: str) -> str:
    """Which key opens it: `first`, an `older` one, or `none`."""
    keys = _box()._fernets
    for number, key in enumerate(keys):
        try:
            key.decrypt(sealed.encode())
        except InvalidToken:
            continue
        return "older" if number else "first"
    return "none"


def _box() -> MultiFernet:
    signing = [settings.SECRET_KEY, *(str(each) for each in settings.SECRET_KEY_FALLBACKS)]
    return _box_of(tuple(settings.AGENTFLOW_SECRET_KEYS), tuple(signing))


@functools.lru_cache(maxsize=4)
def _box_of(keys: tuple[str, ...], signing: tuple[str, ...]) -> MultiFernet:
    """Keys derived from the signing keys come last: they open what was sealed before there were others."""
    return MultiFernet([Fernet(key) for key in [*keys, *map(_derived, signing)]])


def _derived(signing_key: str) -> str:
    derivation = HKDF(SHA256(), length=32, salt=None, info=b"agentflow secrets")
    return base64.urlsafe_b64encode(derivation.derive(signing_key.encode())).decode()
