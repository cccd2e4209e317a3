from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from ...api import paging
from ...api.idempotency import idempotent
from ...governance import access
from ...governance.roles import Permission
from .. import selectors
from ..models import SourceKind
from ..services import sources, synchronising
from ..services.sources import SourceFields
from . import source_serializers as serializers
from .views import KEY, PAGE, UserView


class SourcesView(UserView):
    @extend_schema(
        operation_id="agent_sources_list",
        parameters=[*PAGE, OpenApiParameter("kind", str, enum=SourceKind.values)],
        responses={200: serializers.SourceList},
    )
    def get(self, request: Request) -> Response:
        """List where agents are found."""
        rows = selectors.sources(
            self.user(),
            workspace_id=paging.uuid(request, "workspaceId"),
            kind=paging.choice(request, "kind", SourceKind.values),
            search=paging.text(request, "search") or "",
        )
        found, total = paging.page(request).of(rows)
        return Response({"sources": serializers.SourceShown(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="agent_sources_create",
        parameters=[KEY],
        request=serializers.NewSource,
        responses={201: serializers.SourceShown},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Keep a source of agents; it is looked at soon, and again in every interval."""
        body = serializers.NewSource(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        workspace_id = access.chosen(self.user(), Permission.MANAGE_AGENTS, given.pop("workspace_id"))
        source = sources.add(by=self.user(), workspace_id=workspace_id, fields=SourceFields(**given))
        headers = {"Location": f"{request.path}/{source.pk}"}
        return Response(serializers.SourceShown(source).data, status=201, headers=headers)


class SourceView(UserView):
    @extend_schema(operation_id="agent_sources_get", responses={200: serializers.SourceShown})
    def get(self, request: Request, pk: UUID) -> Response:
        """Get a source, with what came of the last look at it."""
        return Response(serializers.SourceShown(selectors.source(self.user(), pk)).data)

    @extend_schema(
        operation_id="agent_sources_patch",
        request=serializers.ChangedSource(partial=True),
        responses={200: serializers.SourceShown},
    )
    def patch(self, request: Request, pk: UUID) -> Response:
        """Change some fields of a source."""
        source = selectors.source(self.user(), pk)
        access.require(self.user(), Permission.MANAGE_AGENTS, source.workspace_id)
        body = serializers.ChangedSource(data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        source = sources.change(
            by=self.user(), pk=pk, workspace_id=source.workspace_id, changes=body.validated_data
        )
        return Response(serializers.SourceShown(source).data)

    @extend_schema(operation_id="agent_sources_delete", responses={200: serializers.SourceRemoved})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Forget a source; its agents stay, as if entered by hand."""
        source = selectors.source(self.user(), pk)
        sources.remove(by=self.user(), pk=pk, workspace_id=source.workspace_id)
        return Response({"success": True})


class DiscoverView(UserView):
    @extend_schema(
        operation_id="agents_discover", request=serializers.Discovery, responses={200: serializers.Discovered}
    )
    def post(self, request: Request) -> Response:
        """Look at a source now, or at one that is to be kept; with `preview` only tell what would change."""
        kept = isinstance(request.data, dict) and request.data.get("sourceId") is not None
        body = serializers.Discovery(data=request.data, partial=kept)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        dry = bool(given.pop("preview", False))
        if kept:
            return self._kept(given, dry)
        given.pop("source_id")
        workspace_id = access.chosen(self.user(), Permission.MANAGE_AGENTS, given.pop("workspace_id"))
        fields = SourceFields(**given)
        if dry:
            found = synchronising.preview(by=self.user(), workspace_id=workspace_id, fields=fields)
            return _answer(None, found, dry=True)
        source = sources.add(by=self.user(), workspace_id=workspace_id, fields=fields)
        return self._kept({"source_id": source.pk}, dry=False)

    def _kept(self, given: dict[str, Any], dry: bool) -> Response:
        source = selectors.source(self.user(), given["source_id"])
        found = synchronising.synchronise(
            source_id=source.pk, workspace_id=source.workspace_id, by=self.user(), dry=dry
        )
        source.refresh_from_db()
        return _answer(serializers.SourceShown(source).data, found, dry=dry)


def _answer(source: Any, report: synchronising.Report, *, dry: bool) -> Response:
    return Response({"source": source, "report": report.as_json(), "preview": dry})
