"""Signing in for programs: pairs of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth import authenticate
from django.db.models.functions import Now
from django.utils.crypto import constant_time_compare
from rest_framework.exceptions import AuthenticationFailed
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import RefreshToken

from ...api.authentication import STAMP_CLAIM, access_token, refresh_token, stamp
from ..models import SpentRefreshToken, User


@dataclass(frozen=True, slots=True)
class Tokens:
    access: str
    refresh: str


def sign_in(*, username: str, password: str) -> Tokens:
    """Tokens for a name and a password.

    Raises:
        AuthenticationFailed: they do not match, or the account is inactive; the two look the same.
    """
    user = authenticate(username=username, password=password)
    if user is None:
        raise AuthenticationFailed("The username or the password is wrong.", code="wrong_credentials")
    return Tokens(access=access_token(user), refresh=refresh_token(user))


def refresh(*, token: str) -> Tokens:
    """Exchange a refresh token, once, for a new pair.

    Raises:
        AuthenticationFailed: the token is not one of ours, ran out, was exchanged before, or its
            account was closed or given another password.
    """
    refused = AuthenticationFailed("This refresh token is not valid.", code="token_not_valid")
    try:
        encoded: Any = token.encode(errors="replace")
        claims = RefreshToken(encoded)
    except TokenError as error:
        raise refused from error
    user = User.objects.filter(pk=claims["user_id"], is_active=True).first()
    if user is None or not constant_time_compare(str(claims.get(STAMP_CLAIM, "")), stamp(user)):
        raise refused
    _, first_use = SpentRefreshToken.objects.get_or_create(
        jti=claims["jti"], defaults={"user": user, "expires_at": datetime.fromtimestamp(claims["exp"], UTC)}
    )
    if not first_use:
        raise refused
    return Tokens(access=access_token(user), refresh=refresh_token(user))


def purge_spent() -> int:
    """Forget exchanged tokens that have run out anyway.  For the clock."""
    return SpentRefreshToken.objects.filter(expires_at__lte=Now()).delete()[0]
