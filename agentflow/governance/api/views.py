from __future__ import annotations

from dataclasses import asdict
from typing import cast

from django.contrib.auth.base_user import AbstractBaseUser
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ...api import paging, tickets
from .. import access, selectors
from ..services import sessions
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
