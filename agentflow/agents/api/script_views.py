from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from ...api import paging
from ...api.idempotency import idempotent
from ...governance import access
from ...governance.roles import Permission
from .. import selectors
from ..calls import Completed
from ..services import scripts
from ..services.scripts import ScriptFields
from . import script_serializers as shapes
from .serializers import Deleted
from .views import KEY, PAGE, UserView


class ScriptsView(UserView):
    @extend_schema(operation_id="scripts_list", parameters=PAGE, responses={200: shapes.ScriptList})
    def get(self, request: Request) -> Response:
        """List the registered scripts."""
        rows = selectors.scripts(
            self.user(),
            workspace_id=paging.uuid(request, "workspaceId"),
            search=paging.text(request, "search") or "",
        )
        found, total = paging.page(request).of(rows)
        return Response({"scripts": shapes.ScriptShown(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="scripts_create",
        parameters=[KEY],
        request=shapes.NewScript,
        responses={201: shapes.ScriptShown},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Register a script, as its version 1."""
        body = shapes.NewScript(data=request.data)
        body.is_valid(raise_exception=True)
        given = dict(body.validated_data)
        workspace_id = access.chosen(self.user(), Permission.MANAGE_AGENTS, given.pop("workspace_id"))
        script = scripts.register_script(
            by=self.user(),
            workspace_id=workspace_id,
            name=given.pop("name"),
            description=given.pop("description"),
            fields=ScriptFields(**given),
        )
        headers = {"Location": f"{request.path}/{script.pk}"}
        return Response(shapes.ScriptShown(script).data, status=201, headers=headers)


class ScriptView(UserView):
    @extend_schema(operation_id="scripts_get", responses={200: shapes.ScriptWithSource})
    def get(self, request: Request, pk: UUID) -> Response:
        """Get a script with the source of its newest version."""
        return Response(shapes.ScriptWithSource(selectors.script(self.user(), pk)).data)

    @extend_schema(operation_id="scripts_delete", responses={200: Deleted})
    def delete(self, request: Request, pk: UUID) -> Response:
        """Delete a script that no agent runs, with its versions."""
        script = selectors.script(self.user(), pk)
        scripts.delete_script(by=self.user(), pk=pk, workspace_id=script.workspace_id)
        return Response({"success": True})


class ScriptVersionsView(UserView):
    @extend_schema(
        operation_id="scripts_versions",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("offset", int)],
        responses={200: shapes.ScriptVersionList},
    )
    def get(self, request: Request, pk: UUID) -> Response:
        """List the versions of a script, the newest first."""
        found, total = paging.page(request).of(selectors.script_versions(self.user(), pk))
        return Response({"versions": shapes.ScriptVersionShown(found, many=True).data, "total": total})

    @extend_schema(
        operation_id="scripts_new_version",
        parameters=[KEY],
        request=shapes.NewVersion,
        responses={201: shapes.ScriptShown},
    )
    @idempotent
    def post(self, request: Request, pk: UUID) -> Response:
        """Give a script its next version; the same again adds none."""
        script = selectors.script(self.user(), pk)
        access.require(self.user(), Permission.MANAGE_AGENTS, script.workspace_id)
        body = shapes.NewVersion(data=request.data)
        body.is_valid(raise_exception=True)
        script = scripts.add_version(
            by=self.user(),
            pk=pk,
            workspace_id=script.workspace_id,
            fields=ScriptFields(**body.validated_data),
        )
        return Response(shapes.ScriptShown(script).data, status=201)


class ScriptVersionView(UserView):
    @extend_schema(operation_id="scripts_version", responses={200: shapes.ScriptVersionWithSource})
    def get(self, request: Request, pk: UUID, number: int) -> Response:
        """Get one version of a script with its source."""
        return Response(
            shapes.ScriptVersionWithSource(selectors.script_version(self.user(), pk, number)).data
        )


class TryScriptView(UserView):
    @extend_schema(operation_id="scripts_try", request=shapes.NewTrial, responses={200: shapes.TrialShown})
    def post(self, request: Request, pk: UUID) -> Response:
        """Run a script once in the sandbox, for at most 20 s, and say what a block would have of it."""
        script = selectors.script(self.user(), pk)
        access.require(self.user(), Permission.MANAGE_AGENTS, script.workspace_id)
        body = shapes.NewTrial(data=request.data)
        body.is_valid(raise_exception=True)
        trial = scripts.try_script(
            by=self.user(), pk=pk, workspace_id=script.workspace_id, **body.validated_data
        )
        told = {"status": "failed", "output": None, "failure": None, "log": trial.log, "ms": trial.ms}
        if isinstance(trial.outcome, Completed):
            return Response(told | {"status": "completed", "output": trial.outcome.output})
        return Response(told | {"failure": shapes.TrialFailure(trial.outcome.failure).data})
