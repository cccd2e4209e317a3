"""Access tokens that stop working with the account or the password they were made for."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.utils.crypto import constant_time_compare
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

STAMP_CLAIM = "stamp"


def stamp(user: AbstractBaseUser) -> str:
    """Changes with the password; keyed, so it tells nothing about it."""
    return user.get_session_auth_hash()[:32]


def access_token(user: AbstractBaseUser) -> str:
    return _stamped(AccessToken, user)


def refresh_token(user: AbstractBaseUser) -> str:
    return _stamped(RefreshToken, user)


def _stamped(kind: type[Token], user: AbstractBaseUser) -> str:
    token = kind.for_user(user)
    token[STAMP_CLAIM] = stamp(user)
    return str(token)


class Bearer(JWTAuthentication):
    """`Authorization: Bearer <access token>`.

    Signature, algorithm, audience, issuer, expiry and kind are simplejwt's; here the account must
    be active and its password the one the token was made under.
    """

    def get_user(self, validated_token: Token) -> Any:
        user = super().get_user(validated_token)
        if not constant_time_compare(str(validated_token.get(STAMP_CLAIM, "")), stamp(user)):
            raise InvalidToken("The password was changed after this token was made.")
        return user
