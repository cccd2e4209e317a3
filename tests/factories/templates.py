"""Templates and versions as rows, and a shorthand for a whole template from its definition."""

from __future__ import annotations

from typing import Any

import factory
from factory.django import DjangoModelFactory

from agentflow.governance.models import User, Workspace
from agentflow.types import JSONObject
from agentflow.workflow.definition import content_hash
from agentflow.workflow.parsing import parse
from templates_app.models import Template, TemplateVersion
from templates_app.services import authoring, references
from templates_app.states import VersionStatus

ONE_BLOCK: JSONObject = {"name": "One block", "blocks": [{"blockId": "only"}]}


class TemplateFactory(DjangoModelFactory[Template]):
    class Meta:
        model = Template

    workspace = factory.SubFactory("tests.factories.governance.WorkspaceFactory")
    created_by = factory.SubFactory("tests.factories.governance.UserFactory")
    name = factory.Sequence(lambda n: f"Template {n}")


class TemplateVersionFactory(DjangoModelFactory[TemplateVersion]):
    """A published version; hash, size and calls follow from `definition`."""

    class Meta:
        model = TemplateVersion

    template = factory.SubFactory(TemplateFactory)
    number = 1
    status = VersionStatus.PUBLISHED
    definition = factory.LazyFunction(lambda: dict(ONE_BLOCK))
    content_hash = factory.LazyAttribute(lambda row: content_hash(parse(row.definition)))
    block_count = factory.LazyAttribute(lambda row: len(row.definition["blocks"]))
    calls = factory.LazyAttribute(
        lambda row: [list(call) for call in references.calls(parse(row.definition))]
    )
    created_by = factory.SelfAttribute("template.created_by")


def write_template(workspace: Workspace, by: User, *blocks: JSONObject, **fields: Any) -> TemplateVersion:
    """A template written the way an author writes one; `status="draft"` keeps it from being published.

    `write_template(workspace, author, {"blockId": "a"}, name="Refund", tags=["money"])`
    """
    status = VersionStatus(fields.pop("status", VersionStatus.PUBLISHED))
    body = {"name": "A template", **fields, "blocks": list(blocks) or ONE_BLOCK["blocks"]}
    return authoring.create_template(workspace_id=workspace.pk, by=by, definition=parse(body), status=status)
