"""Writing templates.  Who may is the caller's question; every change is audited in its transaction."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import ForeignObjectRel, ProtectedError
from django.utils import timezone

from agentflow.conf import KB
from agentflow.errors import Conflict, NotFound, PreconditionFailed, Unprocessable
from agentflow.governance import audit
from agentflow.governance.models import User
from agentflow.types import JSONObject
from agentflow.workflow.definition import Definition, content_hash, dump

from ..models import Template, TemplateVersion
from ..states import VERSION, VersionStatus
from . import checking, references

# A tsvector holds 1 MB at most, and one word of text may become several of its entries.
SEARCH_TEXT_BYTES = 64 * KB


class StaleTemplate(PreconditionFailed):
    """The template has a newer version than the one you started from."""

    code = "stale_version"
    remedy = "GET the template again, bring your change into it and PUT it with the new ETag."


class TemplateArchived(Conflict):
    """The template is archived; it can be read, but not changed."""

    code = "template_archived"
    remedy = "Create a new template from it."


class BadNewStatus(Unprocessable):
    """A new version is a draft or published; it cannot begin as deprecated."""

    code = "bad_new_status"
    remedy = 'Leave "status" out, or send "draft".'


def create_template(
    *, workspace_id: UUID, by: User, definition: Definition, status: VersionStatus = VersionStatus.PUBLISHED
) -> TemplateVersion:
    """Make a template with its first version.

    Raises:
        InvalidDefinition: the definition has issues of severity `error`.
        BadNewStatus: `status` is deprecated.
    """
    _check_new(status)
    checking.refuse_errors(definition, workspace_id=workspace_id)
    with transaction.atomic():
        template = Template(workspace_id=workspace_id, created_by=by)
        _describe(template, definition)
        template.save(force_insert=True)
        version = _add_version(template, 1, by=by, definition=definition, status=status)
        _record("template.create", template, by, {"name": template.name, **_facts(version)})
    return version


def update_template(
    *,
    template_id: UUID,
    by: User,
    definition: Definition,
    status: VersionStatus = VersionStatus.PUBLISHED,
    expected: str | None = None,
) -> TemplateVersion:
    """Make the definition the template's newest version; gives the version that is newest then.

    A definition equal to the newest version's makes none; it publishes that version if that is a
    draft and `status` asks for it.  `expected` is the number or the content hash of the version the
    author started from.

    Raises:
        NotFound: there is no such template.
        InvalidDefinition: the definition has issues of severity `error`.
        BadNewStatus: a new version would begin as deprecated.
        StaleTemplate: the newest version is another than `expected`.
        TemplateArchived: no version can be added any more.
    """
    # Outside the lock: a check may take as long as a second, and depends on no version of this template.
    checking.refuse_errors(definition, workspace_id=_workspace_of(template_id), template_id=template_id)
    fingerprint = content_hash(definition)
    with transaction.atomic():
        template = _lock(template_id)
        newest = _newest(template)
        if expected is not None and expected not in (str(newest.number), newest.content_hash):
            raise StaleTemplate(version_number=newest.number, content_hash=newest.content_hash)
        if template.archived_at is not None:
            raise TemplateArchived
        if newest.content_hash == fingerprint:
            if newest.status == VersionStatus.DRAFT and status == VersionStatus.PUBLISHED:
                _move(template, newest, VersionStatus.PUBLISHED, by)
            return newest
        _check_new(status)
        _describe(template, definition)
        template.save()
        version = _add_version(template, newest.number + 1, by=by, definition=definition, status=status)
        _record("template.update", template, by, _facts(version))
    return version


def publish_version(*, template_id: UUID, number: int, by: User) -> TemplateVersion:
    """Let a version be started; the newest published one is what a start takes.  Safe to repeat.

    Raises:
        NotFound: there is no such version.
        TemplateArchived: nothing of this template starts any more.
        InvalidDefinition: since it was written, the version has come to call itself.
    """
    return _set_status(template_id, number, VersionStatus.PUBLISHED, by)


def deprecate_version(*, template_id: UUID, number: int, by: User) -> TemplateVersion:
    """Start a version no more; its executions go on.  Safe to repeat.

    Raises:
        NotFound: there is no such version.
    """
    return _set_status(template_id, number, VersionStatus.DEPRECATED, by)


def delete_template(*, template_id: UUID, by: User) -> bool:
    """Remove a template; one that was ever started is archived instead.  True: it is really gone.

    Raises:
        NotFound: there is no such template.
    """
    with transaction.atomic():
        template = _lock(template_id)
        if _removed(template):
            _record("template.delete", template, by, {"name": template.name})
            return True
        if template.archived_at is None:
            template.archived_at = timezone.now()
            template.save(update_fields=["archived_at", "updated_at"])
            _record("template.archive", template, by, {"name": template.name})
        return False


def _removed(template: Template) -> bool:
    """Delete the rows, unless an execution refers to a version."""
    if any(_refers(relation, template) for relation in TemplateVersion._meta.related_objects):
        return False
    try:
        with transaction.atomic():
            TemplateVersion.objects.filter(template=template.pk).only("pk").delete()
            Template.objects.filter(pk=template.pk).only("pk").delete()
            # An execution that was started since Django looked is found here, not when we commit.
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                cursor.execute("SET CONSTRAINTS ALL DEFERRED")
    except (ProtectedError, IntegrityError):
        return False
    return True


def _refers(relation: ForeignObjectRel, template: Template) -> bool:
    """Asked first, because Django would load every row that forbids the deletion."""
    rows: Any = relation.related_model
    return bool(rows._base_manager.filter(**{f"{relation.field.name}__template": template.pk}).exists())


def _set_status(template_id: UUID, number: int, status: VersionStatus, by: User) -> TemplateVersion:
    with transaction.atomic():
        template = _lock(template_id)
        version = template.versions.select_related("created_by").filter(number=number).first()
        if version is None:
            raise NotFound("The template has no such version.", version_number=number)
        version.template = template
        if version.status != status:
            if status == VersionStatus.PUBLISHED:
                if template.archived_at is not None:
                    raise TemplateArchived
                checking.refuse_recursion(version)
            _move(template, version, status, by)
    return version


def _move(template: Template, version: TemplateVersion, status: VersionStatus, by: User) -> None:
    before = VersionStatus(version.status)
    VERSION.check(before, status)
    version.status = status
    version.save(update_fields=["status"])
    template.save(update_fields=["updated_at"])
    verb = "publish" if status == VersionStatus.PUBLISHED else "deprecate"
    _record(f"template.{verb}", template, by, {**_facts(version), "before": before.value})


def _lock(template_id: UUID) -> Template:
    """The template's row, held until commit: it orders the numbers of versions and their status."""
    found = (
        Template.objects.select_for_update(no_key=True, of=("self",))
        .select_related("created_by")
        .filter(pk=template_id)
        .first()
    )
    if found is None:
        raise NotFound("There is no such template.", template_id=str(template_id))
    return found


def _workspace_of(template_id: UUID) -> UUID:
    found = Template.objects.filter(pk=template_id).values_list("workspace_id", flat=True).first()
    if found is None:
        raise NotFound("There is no such template.", template_id=str(template_id))
    return found


def _newest(template: Template) -> TemplateVersion:
    newest = template.versions.select_related("created_by").order_by("-number")[0]
    newest.template = template
    return newest


def _check_new(status: VersionStatus) -> None:
    if status == VersionStatus.DEPRECATED:
        raise BadNewStatus(pointer="/status")


def _add_version(
    template: Template, number: int, *, by: User, definition: Definition, status: VersionStatus
) -> TemplateVersion:
    return TemplateVersion.objects.create(
        template=template,
        number=number,
        label=definition.version or "",
        status=status,
        definition=dump(definition),
        content_hash=content_hash(definition),
        block_count=len(definition.blocks),
        calls=[list(call) for call in references.calls(definition)],
        created_by=by,
    )


def _describe(template: Template, definition: Definition) -> None:
    """Repeat what lists and searches look at."""
    template.name = definition.name
    template.description = definition.description or ""
    template.category = definition.metadata.category or ""
    template.tags = list(definition.tags)
    template.metadata = definition.metadata.model_dump(mode="json", by_alias=True, exclude_unset=True)
    template.search_text = search_text(definition)


def search_text(definition: Definition) -> str:
    """What a template is found by beside its name; what matters most comes first, for the end is cut off."""
    parts = [*definition.tags, definition.metadata.category or "", definition.description or ""]
    parts += [text for block in definition.blocks for text in (block.name or "", block.block_id)]
    parts += [block.description or "" for block in definition.blocks]
    text = "\n".join(dict.fromkeys(part for part in parts if part))
    return text.encode()[:SEARCH_TEXT_BYTES].decode(errors="ignore")


def _facts(version: TemplateVersion) -> JSONObject:
    return {
        "versionNumber": version.number,
        "status": str(version.status),
        "contentHash": version.content_hash,
    }


def _record(action: str, template: Template, by: User, detail: JSONObject) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=template.workspace_id,
        target_type="template",
        target_id=str(template.pk),
        detail=detail,
    )
