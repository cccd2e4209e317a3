"""Tickets that open one WebSocket: a token must not stand in an address, where logs keep it."""

from __future__ import annotations

import hashlib
import secrets

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.cache import cache
from django.utils.crypto import constant_time_compare

from .authentication import stamp

LIFETIME_S = 30


def issue(user: AbstractBaseUser) -> str:
    """A ticket good for one connection within LIFETIME_S."""
    ticket = secrets.token_urlsafe(32)
    cache.set(_key(ticket), {"user": user.pk, "stamp": stamp(user)}, timeout=LIFETIME_S)
    return ticket


def redeem(ticket: str) -> AbstractBaseUser | None:
    """The ticket's user, once; None if it was used, ran out or never was."""
    key = _key(ticket)
    held = cache.get(key)
    # Two connections may both have read it; only one of them deletes it.
    if held is None or not cache.delete(key):
        return None
    user = get_user_model()._default_manager.filter(pk=held["user"], is_active=True).first()
    if user is None or not constant_time_compare(held["stamp"], stamp(user)):
        return None
    return user


def _key(ticket: str) -> str:
    return "ws-ticket:" + hashlib.sha256(ticket.encode(errors="replace")).hexdigest()
