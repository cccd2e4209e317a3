from __future__ import annotations

from typing import cast
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agentflow.api import paging
from agentflow.api.idempotency import idempotent
from agentflow.conf import LIMITS
from agentflow.errors import InvalidInput
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject

from .. import documents, selectors
from ..models import Template, TemplateVersion
from ..services import authoring, checking
from . import schema


class _TemplateView(APIView):
    max_body_bytes = LIMITS.template_body_bytes

    def user(self) -> User:
        return cast(User, self.request.user)

    def template(self, template_id: UUID, permission: Permission = Permission.VIEW) -> Template:
        template = selectors.template(self.user(), template_id)
        if permission is not Permission.VIEW:
            access.require(self.user(), permission, template.workspace_id)
        return template

    def answer(self, template: Template, version: TemplateVersion, status: int = 200) -> Response:
        published = selectors.published_numbers([template]).get(template.pk)
        body = documents.document(template, version, published=published)
        return Response(body, status=status, headers={"ETag": f'"{version.content_hash}"'})


class TemplatesView(_TemplateView):
    @extend_schema(
        operation_id="templates_list",
        parameters=[*schema.FILTERS, *schema.PAGE],
        responses={200: schema.TemplateList},
    )
    def get(self, request: Request) -> Response:
        """List templates that are not archived: the latest change first, or the best match."""
        wanted = selectors.Wanted(
            workspace_id=paging.uuid(request, "workspaceId"),
            category=paging.text(request, "category") or "",
            tags=paging.texts(request, "tags"),
            search=paging.text(request, "search") or "",
        )
        blocks = paging.choice(request, "expand", ["blocks"]) is not None
        found, total = paging.page(request).of(selectors.templates(self.user(), wanted))
        newest = selectors.newest_versions(found, definitions=blocks)
        published = selectors.published_numbers(found)
        lines = [
            documents.summary(row, newest[row.pk], published=published.get(row.pk), blocks=blocks)
            for row in found
            if row.pk in newest  # else it was deleted between the two queries
        ]
        return Response({"templates": lines, "total": total})

    @extend_schema(
        operation_id="templates_create",
        request=schema.TemplateBody,
        responses={201: schema.WorkflowTemplate},
        examples=[schema.BODY_EXAMPLE],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Create a template; its first version is published at once unless `status` is `draft`."""
        submission = documents.read(_body(request))
        workspace_id = access.chosen(self.user(), Permission.AUTHOR, submission.workspace_id)
        version = authoring.create_template(
            workspace_id=workspace_id,
            by=self.user(),
            definition=submission.definition,
            status=submission.status,
        )
        response = self.answer(version.template, version, status=201)
        response["Location"] = f"{request.path}/{version.template_id}"
        return response


class TemplateView(_TemplateView):
    @extend_schema(
        operation_id="templates_get",
        parameters=[schema.VERSION],
        responses={200: schema.WorkflowTemplate},
    )
    def get(self, request: Request, template_id: UUID) -> Response:
        """Get a template: its newest version, or the one of `version`."""
        template = self.template(template_id)
        return self.answer(template, selectors.version(template, _version_number(request)))

    @extend_schema(
        operation_id="templates_update",
        parameters=[schema.IF_MATCH],
        request=schema.TemplateBody,
        responses={200: schema.WorkflowTemplate},
        examples=[schema.BODY_EXAMPLE],
    )
    def put(self, request: Request, template_id: UUID) -> Response:
        """Make a new version, published at once unless `status` is `draft`; an equal one makes none."""
        self.template(template_id, Permission.AUTHOR)
        submission = documents.read(_body(request))
        version = authoring.update_template(
            template_id=template_id,
            by=self.user(),
            definition=submission.definition,
            status=submission.status,
            expected=_if_match(request),
        )
        return self.answer(version.template, version)

    @extend_schema(operation_id="templates_delete", responses={200: schema.TemplateDeleted})
    def delete(self, request: Request, template_id: UUID) -> Response:
        """Delete a template; one that was ever started is archived instead."""
        self.template(template_id, Permission.AUTHOR)
        authoring.delete_template(template_id=template_id, by=self.user())
        return Response({"success": True})


class ValidateView(_TemplateView):
    @extend_schema(
        operation_id="templates_validate",
        parameters=[schema.VERSION],
        request=schema.CheckBody,
        responses={200: schema.ValidationReport},
        examples=[schema.REPORT_EXAMPLE],
    )
    def post(self, request: Request, template_id: UUID) -> Response:
        """Say all that stands against storing or starting a version, or the definition in the body."""
        template = self.template(template_id, Permission.AUTHOR)
        body = _body(request)
        if body:
            authors = selectors.authors(template.pk) | {self.user().pk}
        else:
            version = selectors.version(template, _version_number(request))
            body, authors = version.definition, selectors.authors(template.pk, up_to=version.number)
        issues = _issues(body, template, authors)
        valid = not any(issue["severity"] in ("error", "start") for issue in issues)
        return Response({"valid": valid, "issues": issues})


class VersionsView(_TemplateView):
    @extend_schema(
        operation_id="template_versions_list",
        parameters=schema.PAGE,
        responses={200: schema.VersionList},
    )
    def get(self, request: Request, template_id: UUID) -> Response:
        """List a template's versions, the newest first."""
        template = self.template(template_id)
        found, total = paging.page(request).of(selectors.versions(template))
        return Response({"versions": [documents.version_summary(row) for row in found], "total": total})


class VersionView(_TemplateView):
    @extend_schema(operation_id="template_versions_get", responses={200: schema.WorkflowTemplate})
    def get(self, request: Request, template_id: UUID, number: int) -> Response:
        """Get one version of a template."""
        template = self.template(template_id)
        return self.answer(template, selectors.version(template, number))


class PublishView(_TemplateView):
    max_body_bytes = LIMITS.body_bytes

    @extend_schema(
        operation_id="template_versions_publish",
        request=None,
        responses={200: schema.PublishedVersion},
    )
    def post(self, request: Request, template_id: UUID, number: int) -> Response:
        """Let a version be started; the newest published one is what a start takes."""
        _expect_nothing(request)
        template = self.template(template_id, Permission.AUTHOR)
        version = authoring.publish_version(template_id=template_id, number=number, by=self.user())
        issues = _issues(version.definition, template, selectors.authors(template.pk, up_to=number))
        return Response({**documents.version_summary(version), "issues": issues})


class DeprecateView(_TemplateView):
    max_body_bytes = LIMITS.body_bytes

    @extend_schema(
        operation_id="template_versions_deprecate",
        request=None,
        responses={200: schema.VersionSummary},
    )
    def post(self, request: Request, template_id: UUID, number: int) -> Response:
        """Start a version no more; its executions go on."""
        _expect_nothing(request)
        self.template(template_id, Permission.AUTHOR)
        version = authoring.deprecate_version(template_id=template_id, number=number, by=self.user())
        return Response(documents.version_summary(version))


def _body(request: Request) -> JSONObject:
    return cast(JSONObject, request.data)  # the parser lets nothing but an object pass


def _issues(body: JSONObject, template: Template, authors: frozenset[int]) -> list[JSONObject]:
    try:
        definition = documents.read(body).definition
    except InvalidInput as error:
        return error.issues
    found = checking.check(
        definition, workspace_id=template.workspace_id, template_id=template.pk, authors=authors
    )
    return [issue.as_json() for issue in found]


def _version_number(request: Request) -> int | None:
    return paging.number(request, "version", default=0, low=1, high=999_999_999) or None


def _if_match(request: Request) -> str | None:
    """The header's one entity tag; `*` and no header ask for nothing."""
    given = request.headers.get("If-Match", "*").strip()
    tag = given.removeprefix("W/").strip('"')
    if not tag or "," in tag:
        raise InvalidInput("If-Match must be one entity tag.", pointer="#If-Match", remedy="Send the ETag.")
    return None if given == "*" else tag


def _expect_nothing(request: Request) -> None:
    if request.data:
        raise InvalidInput("No body is expected here.", remedy="Send none, or an empty object.")
