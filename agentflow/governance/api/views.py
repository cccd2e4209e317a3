from __future__ import annotations

from dataclasses import asdict
from typing import cast
from uuid import UUID

from django.contrib.auth.base_user import AbstractBaseUser
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ...api import paging, tickets
from .. import access, selectors
from ..roles import Permission
from ..services import secrets, sessions
from . import serializers


class _Open(APIView):
    """For those who are not signed in yet; a wrong secret is a 401 all the same."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def get_authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class TokenView(_Open):
    @extend_schema(request=serializers.SignIn, responses={200: serializers.TokenPair})
    def post(self, request: Request) -> Response:
        """Get an access token (5 minutes) and a refresh token (12 hours, used once)."""
        body = serializers.SignIn(data=request.data)
        body.is_valid(raise_exception=True)
        return Response(asdict(sessions.sign_in(**body.validated_data)))


class TokenRefreshView(_Open):
    @extend_schema(request=serializers.Refresh, responses={200: serializers.TokenPair})
    def post(self, request: Request) -> Response:
        """Exchange a refresh token for a new pair; the old one is spent."""
        body = serializers.Refresh(data=request.data)
        body.is_valid(raise_exception=True)
        return Response(asdict(sessions.refresh(token=body.validated_data["refresh"])))


class WebSocketTicketView(APIView):
    @extend_schema(request=serializers.NoFields, responses={200: serializers.Ticket})
    def post(self, request: Request) -> Response:
        """Get a ticket that opens one WebSocket: `/ws/...?ticket=...`."""
        serializers.NoFields(data=request.data).is_valid(raise_exception=True)
        person = cast(AbstractBaseUser, request.user)  # anonymous requests were turned away
        return Response({"ticket": tickets.issue(person), "expiresInSeconds": tickets.LIFETIME_S})


class MeView(APIView):
    @extend_schema(responses={200: serializers.Me})
    def get(self, request: Request) -> Response:
        """Who is signed in, and which roles they hold where."""
        roles = selectors.roles_of(request.user)
        return Response(
            {
                "username": request.user.get_username(),
                "isSuperuser": request.user.is_superuser,
                "workspaces": [
                    {
                        **serializers.WorkspaceBrief(workspace).data,
                        "roles": [role.value for role in roles.get(workspace.pk, [])],
                    }
                    for workspace in access.workspaces(request.user)
                ],
            }
        )


class WorkspacesView(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("offset", int)],
        responses={200: serializers.WorkspaceList},
    )
    def get(self, request: Request) -> Response:
        """The workspaces one belongs to."""
        found, total = paging.page(request).of(access.workspaces(request.user))
        return Response({"workspaces": serializers.WorkspaceBrief(found, many=True).data, "total": total})


_WORKSPACE = OpenApiParameter("workspaceId", UUID, description="Needed by members of several workspaces.")


class SecretsView(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter("workspaceId", UUID, description="Only this workspace's."),
            OpenApiParameter("limit", int),
            OpenApiParameter("offset", int),
        ],
        responses={200: serializers.SecretList},
    )
    def get(self, request: Request) -> Response:
        """List the secrets of the workspaces one administers: names and times, never values."""
        rows = selectors.secrets_visible_to(request.user).order_by("name", "pk")
        workspace_id = paging.uuid(request, "workspaceId")
        if workspace_id is not None:
            access.require(request.user, Permission.ADMINISTER, workspace_id)
            rows = rows.filter(workspace_id=workspace_id)
        found, total = paging.page(request).of(rows)
        return Response({"secrets": serializers.SecretShown(found, many=True).data, "total": total})


class SecretView(APIView):
    @extend_schema(
        request=serializers.SecretValue,
        responses={200: serializers.SecretShown, 201: serializers.SecretShown},
    )
    def put(self, request: Request, name: str) -> Response:
        """Set a secret.  It can be used and replaced from then on, and never read."""
        body = serializers.SecretValue(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        workspace_id = access.chosen(request.user, Permission.ADMINISTER, given["workspace_id"])
        secret, created = secrets.put_secret(
            by=request.user, workspace_id=workspace_id, name=name, value=given["value"]
        )
        return Response(serializers.SecretShown(secret).data, status=201 if created else 200)

    @extend_schema(parameters=[_WORKSPACE], responses={200: serializers.SecretDeleted})
    def delete(self, request: Request, name: str) -> Response:
        """Delete a secret; calls of agents that refer to it fail from then on."""
        given = paging.uuid(request, "workspaceId")
        workspace_id = access.chosen(request.user, Permission.ADMINISTER, given)
        secrets.delete_secret(by=request.user, workspace_id=workspace_id, name=name)
        return Response({"success": True})
