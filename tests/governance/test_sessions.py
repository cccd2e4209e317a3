from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings
from rest_framework.test import APIClient

from agentflow.api.authentication import STAMP_CLAIM, access_token, refresh_token, stamp
from agentflow.governance.models import User
from agentflow.governance.roles import Role
from tests.factories.governance import PASSWORD, UserFactory, WorkspaceFactory, client_of, member

pytestmark = pytest.mark.django_db


def me(token: str | bytes) -> Any:
    client = APIClient()
    bearer = token.decode("latin1") if isinstance(token, bytes) else token
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {bearer}")
    return client.get("/api/v1/me")


def claims_of(user: User, **changed: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    claims = {
        "token_type": "access",
        "user_id": str(user.pk),
        "jti": "0" * 32,
        "aud": "agentflow",
        "iss": "agentflow",
        "iat": now,
        "exp": now + timedelta(minutes=5),
        STAMP_CLAIM: stamp(user),
    }
    claims.update(changed)
    return {name: value for name, value in claims.items() if value is not None}


def signed(claims: dict[str, Any], key: Any = settings.SECRET_KEY, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


def unsigned(user: User) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value, default=str).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims_of(user, exp=4e9, iat=1))}."


def test_a_name_and_password_give_tokens_that_work() -> None:
    workspace = WorkspaceFactory.create()
    user = member(workspace, Role.APPROVER, Role.AUTHOR)
    WorkspaceFactory.create()
    answer = APIClient().post("/api/v1/auth/token", {"username": user.username, "password": PASSWORD})
    assert answer.status_code == 200
    assert set(answer.json()) == {"access", "refresh"}
    body = me(answer.json()["access"]).json()
    assert body["username"] == user.username
    assert [(w["workspaceId"], w["roles"]) for w in body["workspaces"]] == [
        (str(workspace.pk), ["author", "approver"])
    ]


@pytest.mark.parametrize("active", [True, False])
def test_a_wrong_password_and_a_closed_account_look_the_same(active: bool) -> None:
    user = UserFactory.create(is_active=active)
    password = "wrong" if active else PASSWORD
    answer = APIClient().post("/api/v1/auth/token", {"username": user.username, "password": password})
    assert answer.status_code == 401
    assert answer.json()["code"] == "wrong_credentials"
    assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": None},
        {"aud": "another-service"},
        {"iss": "somebody"},
        {"exp": datetime(2020, 1, 1, tzinfo=UTC)},
        {"exp": None},
        {"jti": None},
        {"token_type": "refresh"},
        {"token_type": None},
        {"user_id": None},
        {"user_id": "999999999"},
        {STAMP_CLAIM: None},
        {STAMP_CLAIM: "0" * 32},
    ],
)
def test_a_token_with_one_wrong_claim_is_refused(changed: dict[str, Any]) -> None:
    user = UserFactory.create()
    assert me(signed(claims_of(user))).status_code == 200
    answer = me(signed(claims_of(user, **changed)))
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_a_token_signed_in_another_way_is_refused() -> None:
    user = UserFactory.create()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for token in (
        unsigned(user),
        signed(claims_of(user), key="x" * 64),
        signed(claims_of(user), algorithm="HS512"),
        signed(claims_of(user), key=pem, algorithm="RS256"),
        signed(claims_of(user))[:-2] + "xx",
        "not.a.token",
        b"\xff\xfe.\x80.",
        "a" * 5000,
    ):
        assert me(token).status_code == 401, token


def test_a_token_dies_with_the_password_and_with_the_account() -> None:
    user = UserFactory.create()
    token = access_token(user)
    assert me(token).status_code == 200
    user.set_password("another long password")
    user.save()
    assert me(token).status_code == 401
    token = access_token(user)
    assert me(token).status_code == 200
    user.is_active = False
    user.save()
    assert me(token).status_code == 401


def test_a_refresh_token_is_exchanged_once_and_opens_nothing_itself() -> None:
    user = UserFactory.create()
    token = refresh_token(user)
    assert me(token).status_code == 401
    first = APIClient().post("/api/v1/auth/token/refresh", {"refresh": token})
    assert first.status_code == 200
    assert me(first.json()["access"]).status_code == 200
    assert APIClient().post("/api/v1/auth/token/refresh", {"refresh": token}).status_code == 401
    second = APIClient().post("/api/v1/auth/token/refresh", {"refresh": first.json()["refresh"]})
    assert second.status_code == 200


def test_only_a_living_refresh_token_is_exchanged() -> None:
    user = UserFactory.create()
    token = refresh_token(user)
    refused = [
        access_token(user),
        "rubbish",
        "\u00e9",
        signed(claims_of(user, token_type="refresh", aud=None)),
    ]
    for bad in refused:
        assert APIClient().post("/api/v1/auth/token/refresh", {"refresh": bad}).status_code == 401, bad
    user.set_password("another long password")
    user.save()
    assert APIClient().post("/api/v1/auth/token/refresh", {"refresh": token}).status_code == 401


def test_a_session_counts_and_its_writes_need_the_csrf_token() -> None:
    user = UserFactory.create()
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get("/api/v1/me").status_code == 200
    answer = client.post("/api/v1/auth/ws-ticket", {})
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


def test_an_anonymous_request_is_a_401_with_a_remedy() -> None:
    for answer in (APIClient().get("/api/v1/me"), APIClient().post("/api/v1/auth/ws-ticket", {})):
        assert answer.status_code == 401
        assert answer["WWW-Authenticate"] == 'Bearer realm="api"'
        assert answer.json()["code"] == "not_authenticated"
        assert "auth/token" in answer.json()["remedy"]


def test_workspaces_are_listed_in_pages_and_only_ones_own() -> None:
    user = UserFactory.create()
    from agentflow.governance.services.workspaces import grant

    for _ in range(3):
        grant(user=user, role=Role.VIEWER, workspace=WorkspaceFactory.create())
    WorkspaceFactory.create()
    body = client_of(user).get("/api/v1/workspaces?limit=2&offset=2").json()
    assert (len(body["workspaces"]), body["total"]) == (1, 3)
