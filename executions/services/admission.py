"""Whether a start may happen, and with which version: everything that is asked before `starting`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from agentflow.agents.registry import AgentSpec
from agentflow.errors import Conflict, InvalidInput, Unprocessable
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject
from agentflow.workflow import json_schema
from agentflow.workflow.definition import Definition, compensation_id
from agentflow.workflow.issues import pointer
from executions.models import Execution
from templates_app import selectors as templates
from templates_app.compiled import definition_of
from templates_app.models import Template, TemplateVersion
from templates_app.services import references
from templates_app.services.checking import start_issues
from templates_app.states import VersionStatus

from . import pinning, starting

LATEST = "latest"


class TemplateArchived(Conflict):
    """The template is archived; no execution of it can be started."""

    code = "template_archived"
    remedy = "Start another template."


class VersionNotPublished(Conflict):
    """A draft runs only simulated."""

    code = "version_not_published"
    remedy = "Publish the version, or start it with `simulation`."


class VersionDeprecated(Conflict):
    """The version is deprecated; no execution of it can be started any more."""

    code = "version_deprecated"
    remedy = "Start a newer version."


class NotStartable(Unprocessable):
    """The template needs something that is not there."""

    code = "not_startable"
    remedy = "Mend what the issues name, or start the template with `simulation`."


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a client asks for.  `version` is a number; None is the newest that may be started."""

    template_id: UUID
    input: JSONObject
    workspace_id: UUID | None = None
    version: int | None = None
    simulation: JSONObject | None = None
    durability: str | None = None  # `strict` or `group`; None: as the template says
    business_key: str | None = None  # unique among the template's executions that have not ended

    @property
    def simulated(self) -> bool:
        return self.simulation is not None


def start(*, by: User, request: StartRequest) -> Execution:
    """Start an execution on somebody's behalf.

    Raises:
        NotFound: there is no such template, or `by` may not see it.
        NotPermitted: `by` may not start it; authors start simulated ones only.
        InvalidInput: workspace, version, input or simulation do not fit; every problem is named.
        Conflict: the template or the version is in no state to be started.
        NotStartable: an agent, a level or a called template is missing.
    """
    version = _startable(by, request) or _looked_up(by, request)
    definition = definition_of(version.pk)
    issues = [*_input_issues(definition, request.input), *_simulation_issues(definition, request.simulation)]
    if issues:
        raise InvalidInput(_count(issues), issues=issues)
    specs = {} if request.simulated else references.agents_of(version)
    if not request.simulated:
        _refuse_what_is_missing(version, specs=specs)
    return starting.start(
        version=version,
        by=by,
        input=request.input,
        simulation=request.simulation,
        business_key=request.business_key,
        durability=request.durability,
        specs=specs,
    )


def _startable(by: User, request: StartRequest) -> TemplateVersion | None:
    """The version, if all about it is as it should be for a real start: the usual case, in one query."""
    if request.simulated:
        return None
    templates = Template.objects.visible_to(by, Permission.OPERATE).filter(archived_at=None)
    rows = TemplateVersion.objects.filter(
        template=request.template_id, template__in=templates, status=VersionStatus.PUBLISHED
    )
    if request.workspace_id is not None:
        rows = rows.filter(template__workspace=request.workspace_id)
    if request.version is not None:
        rows = rows.filter(number=request.version)
    rows = rows.select_related("template").defer(
        "definition", "template__search", "template__search_text", "template__description"
    )
    return rows.order_by("-number").first()


def _looked_up(by: User, request: StartRequest) -> TemplateVersion:
    """The version, looked up step by step, to say what stands against its start."""
    template = templates.template(by, request.template_id)
    _permit(by, template, simulated=request.simulated)
    _same_workspace(template, request.workspace_id)
    if template.archived_at is not None:
        raise TemplateArchived
    return _version(template, request)


def check_fork(
    *, by: User, execution: Execution, input: JSONObject | None, simulation: JSONObject | None
) -> None:
    """Whether a fork of `execution`, which `by` may see, may be started; None: as the execution has it.

    A version that has been deprecated since is no obstacle: a fork goes on with what was begun.

    Raises:
        NotPermitted, InvalidInput, Conflict, NotStartable: as `start`.
    """
    version = execution.template_version
    _permit(by, version.template, simulated=simulation is not None or execution.simulated)
    if version.template.archived_at is not None:
        raise TemplateArchived
    definition = definition_of(version.pk)
    issues = _simulation_issues(definition, simulation)
    if input is not None:
        issues = [*_input_issues(definition, input), *issues]
    if issues:
        raise InvalidInput(_count(issues), issues=issues)
    if simulation is None and not execution.simulated:
        _refuse_what_is_missing(version, pinned=pinning.any_of(execution.root or execution.pk))


def _permit(by: User, template: Template, *, simulated: bool) -> None:
    if simulated and access.can(by, Permission.AUTHOR, template.workspace_id):
        return
    access.require(by, Permission.OPERATE, template.workspace_id)


def _same_workspace(template: Template, workspace_id: UUID | None) -> None:
    # A foreign workspace, one that does not exist and a wrong one get the same answer.
    if workspace_id is not None and workspace_id != template.workspace_id:
        raise InvalidInput(
            "The template does not belong to that workspace.",
            pointer="/workspaceId",
            remedy="Send the template's workspaceId, or leave it out.",
        )


def _version(template: Template, request: StartRequest) -> TemplateVersion:
    rows = template.versions.defer("definition").order_by("-number")
    if request.version is None:
        version = rows.filter(status=VersionStatus.PUBLISHED).first()
        if version is None and request.simulated:
            version = rows.filter(status=VersionStatus.DRAFT).first()
        if version is None:
            raise VersionNotPublished("The template has no published version.")
    else:
        version = rows.filter(number=request.version).first()
        if version is None:
            raise InvalidInput(
                f"The template has no version {request.version}.",
                pointer="/templateVersion",
                remedy="Leave it out to start the newest published version.",
            )
    version.template = template
    if version.status == VersionStatus.DEPRECATED:
        raise VersionDeprecated
    if version.status == VersionStatus.DRAFT and not request.simulated:
        raise VersionNotPublished
    return version


def _refuse_what_is_missing(
    version: TemplateVersion, *, pinned: bool = False, specs: Mapping[str, AgentSpec] | None = None
) -> None:
    issues = start_issues(version, pinned=pinned, specs=specs)
    if issues:
        found = [issue.as_json() for issue in issues]
        raise NotStartable(_count(found), issues=found)


def _input_issues(definition: Definition, value: JSONObject) -> list[JSONObject]:
    if definition.input_schema is None:
        return []
    return json_schema.issues(value, definition.input_schema, at="/input")


def _simulation_issues(definition: Definition, simulation: JSONObject | None) -> list[JSONObject]:
    """Block ids in the script that the definition does not have: a misspelt one would silently do nothing."""
    known = {block.block_id for block in definition.blocks}
    known |= {compensation_id(block.block_id) for block in definition.blocks if block.compensation}
    return [
        _unknown_block(part, block_id)
        for part in ("outputs", "failures", "answers")
        for block_id in _unknown((simulation or {}).get(part) or {}, known)
    ]


def _unknown(scripted: Iterable[str], known: set[str]) -> list[str]:
    return [block_id for block_id in scripted if block_id not in known]


def _unknown_block(part: str, block_id: str) -> JSONObject:
    return {
        "pointer": pointer("simulation", part, block_id),
        "code": "unknown_block",
        "message": f"The template has no block {block_id!r}.",
        "remedy": "Name a blockId of the version that is started.",
    }


def _count(issues: list[JSONObject]) -> str:
    return str(issues[0]["message"]) if len(issues) == 1 else f"{len(issues)} things are wrong."
