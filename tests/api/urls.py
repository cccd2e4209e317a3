"""Small views that stand for the real ones."""

from __future__ import annotations

import threading
from typing import Any

from django.db import OperationalError, transaction
from django.http import HttpResponse
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow import errors
from agentflow.api import paging, problems
from agentflow.api.idempotency import idempotent
from agentflow.api.serializers import StrictSerializer
from agentflow.governance.models import Workspace
from tests.waiting import PATIENCE_S


class Part(StrictSerializer):
    part_name = serializers.CharField()
    amount = serializers.IntegerField(required=False)


class Body(StrictSerializer):
    display_name = serializers.CharField(max_length=20)
    text = serializers.CharField(required=False, allow_blank=True)
    count = serializers.IntegerField(required=False, allow_null=True)
    ratio = serializers.FloatField(required=False)
    active = serializers.BooleanField(required=False)
    kind = serializers.ChoiceField(choices=["a", "b"], required=False)
    owner_id = serializers.UUIDField(required=False)
    due_at = serializers.DateTimeField(required=False)
    tags = serializers.ListField(child=serializers.CharField(), required=False)
    labels = serializers.DictField(child=serializers.CharField(), required=False)
    anything = serializers.JSONField(required=False)
    parts = Part(many=True, required=False)
    created = serializers.CharField(read_only=True)

    def validate_display_name(self, value: str) -> str:
        if value == "forbidden":
            raise serializers.ValidationError("Not this name.", code="forbidden_name")
        return value


class Echo(APIView):
    def post(self, request: Request) -> Response:
        body = Body(data=request.data)
        body.is_valid(raise_exception=True)
        return Response({"names": sorted(body.validated_data)})

    def get(self, request: Request) -> Response:
        page = paging.page(request)
        return Response({"limit": page.limit, "offset": page.offset, "id": str(paging.uuid(request, "id"))})


class Anything(APIView):
    json_root = "any"
    max_body_bytes = 3_000_000

    def post(self, request: Request) -> Response:
        return Response({"kind": type(request.data).__name__})


class Broken(Exception):
    pass


class Raise(APIView):
    def get(self, request: Request, what: str) -> Response:
        raise {
            "invalid": errors.InvalidInput("Wrong.", pointer="/a", remedy="Mend it."),
            "permitted": errors.NotPermitted(),
            "found": errors.NotFound(workspace_id="of somebody else"),
            "conflict": errors.Conflict("Twice."),
            "facts": errors.Conflict(
                "Taken.", claimed_by="an\x00na", attempt=2, status="pending", code="mine"
            ),
            "unavailable": errors.Unavailable("Away.", retry_after_s=7),
            "database": OperationalError("password=hunter2"),
            "broken": Broken("secret inside"),
        }[what]


class Make(APIView):
    """Makes a workspace row, and can be held, refused or broken while it does."""

    entered = threading.Event()
    go_on = threading.Event()
    hooks: list[str] = []

    @idempotent
    def post(self, request: Request, **kwargs: Any) -> Response:
        body: Any = request.data
        slug = body["slug"]
        made = Workspace.objects.create(slug=slug, name="made")
        transaction.on_commit(lambda: self.hooks.append(slug), robust=True)
        match body.get("then"):
            case "hold":
                self.entered.set()
                assert self.go_on.wait(PATIENCE_S)
            case "refuse":
                raise errors.InvalidInput("Refused.", pointer="/slug")
            case "conflict":
                raise errors.Conflict("Not now.")
            case "answer409":
                return Response({"code": "own"}, status=409)
            case "break":
                raise Broken("broken after the effect")
        headers = {"Location": f"/things/{made.pk}"}
        return Response({"id": str(made.pk), "z": 1, "a": 2}, status=201, headers=headers)


def page_that_breaks(request: Any) -> HttpResponse:
    raise Broken("secret inside")


urlpatterns = [
    path("api/echo", Echo.as_view()),
    path("api/anything", Anything.as_view()),
    path("api/raise/<str:what>", Raise.as_view()),
    path("api/make", Make.as_view()),
    path("api/make/<int:number>", Make.as_view()),
    path("api/breaks", page_that_breaks),
]
handler404 = problems.not_found
handler500 = problems.server_error
