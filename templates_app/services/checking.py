"""Everything that can be said against a definition: from itself, and from the rows around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from uuid import UUID

from django.db.models import Q

from agentflow.agents import registry
from agentflow.agents.registry import AgentSpec
from agentflow.conf import LIMITS
from agentflow.errors import Unprocessable
from agentflow.workflow import validation
from agentflow.workflow.definition import Definition
from agentflow.workflow.issues import closest, pointer
from agentflow.workflow.validation import Issue

from .. import selectors
from ..compiled import definition_of
from ..models import TemplateVersion
from ..ports import approval_levels
from ..states import VersionStatus
from . import coverage, llm_checks, references
from .references import BadTarget, Call, Pinned, Target


class InvalidDefinition(Unprocessable):
    """The definition is well-formed, but cannot work."""

    code = "invalid_definition"
    remedy = "Mend what the issues of severity error name and send it again."


def check(
    definition: Definition,
    *,
    workspace_id: UUID,
    template_id: UUID | None = None,
    authors: Collection[int] = (),
) -> list[Issue]:
    """All issues at once; `template_id` is the template whose version it is to be, one more by `authors`."""
    return [
        *validation.check(definition),
        *row_issues(definition, workspace_id=workspace_id, template_id=template_id),
        *coverage.issues(definition, workspace_id, authors),
    ]


def of_version(version: TemplateVersion) -> list[Issue]:
    """What stands against a version that is stored, as it is now."""
    return check(
        definition_of(version.pk),
        workspace_id=version.template.workspace_id,
        template_id=version.template_id,
        authors=selectors.authors(version.template_id, up_to=version.number),
    )


def refuse_errors(definition: Definition, *, workspace_id: UUID, template_id: UUID | None = None) -> None:
    """Let pass what may be stored.

    Raises:
        InvalidDefinition: there are issues of severity `error`; all issues are named.
    """
    issues = check(definition, workspace_id=workspace_id, template_id=template_id)
    count = sum(issue.severity == "error" for issue in issues)
    if count:
        raise InvalidDefinition(
            f"The definition has {count} problem{'s' if count != 1 else ''}.",
            issues=[issue.as_json() for issue in issues],
        )


def refuse_recursion(version: TemplateVersion) -> None:
    """Let a version be published: templates it calls may have come to call it since it was written.

    Raises:
        InvalidDefinition: it would call itself.
    """
    issues = [issue for issue in start_issues(version) if issue.severity == "error"]
    if issues:
        raise InvalidDefinition(issues=[issue.as_json() for issue in issues])


def start_issues(
    version: TemplateVersion, *, pinned: bool = False, specs: Mapping[str, AgentSpec] | None = None
) -> list[Issue]:
    """What stands against a real start of the version just now.  A simulated one asks nobody.

    `pinned`: the versions it calls are fixed already, whatever has become of their templates.  `specs` are
    the agents that it names, where they are known already.
    """
    return row_issues(
        definition_of(version.pk),
        workspace_id=version.template.workspace_id,
        template_id=version.template_id,
        calls=not pinned,
        specs=specs,
    )


def row_issues(
    definition: Definition,
    *,
    workspace_id: UUID,
    template_id: UUID | None,
    calls: bool = True,
    specs: Mapping[str, AgentSpec] | None = None,
) -> list[Issue]:
    """What the definition names and the workspace does not have."""
    if specs is None:
        specs = registry.resolve_many(workspace_id, {name for name, _ in references.agents(definition)})
    return [
        *_agents(definition, specs),
        *_capabilities(definition, workspace_id),
        *_levels(definition, workspace_id),
        *llm_checks.issues(definition, specs, workspace_id),
        *(_templates(definition, specs, workspace_id, template_id) if calls else ()),
    ]


def _start(code: str, at: str, message: str, remedy: str) -> Issue:
    return Issue(severity="start", code=code, pointer=at, message=message, remedy=remedy)


def _agents(definition: Definition, specs: Mapping[str, AgentSpec]) -> list[Issue]:
    issues = []
    for agent_id, at in references.agents(definition):
        spec = specs.get(agent_id)
        if spec is None:
            message = f"There is no agent {agent_id!r} in this workspace."
            issues.append(
                _start("unknown_agent", at, message, "Register it, or start the template simulated.")
            )
        elif spec.gone_at is not None:
            message = f"The source of the agent {agent_id!r} lists it no more."
            issues.append(
                _start("agent_gone", at, message, "Name another agent, or switch this one on again.")
            )
        elif not spec.enabled:
            message = f"The agent {agent_id!r} is switched off."
            issues.append(_start("agent_disabled", at, message, "Ask an operator to switch it on."))
    return issues


def _capabilities(definition: Definition, workspace_id: UUID) -> list[Issue]:
    issues = []
    for index, block in enumerate(definition.blocks):
        if block.agent_id is not None or not block.capabilities:
            continue
        if not registry.able(workspace_id, block.capabilities, block.tool_type):
            wanted = ", ".join(block.capabilities)
            message = f"No agent of this workspace that is switched on can do {wanted}."
            at = pointer("blocks", index, "capabilities")
            issues.append(_start("no_able_agent", at, message, "Register one, or name an agent."))
    return issues


def _levels(definition: Definition, workspace_id: UUID) -> list[Issue]:
    asked = list(references.levels(definition))
    if not asked:
        return []
    known = approval_levels().known_levels(workspace_id) | {references.ANYONE}
    issues = []
    for level, at in asked:
        if level not in known:
            meant = closest(level, sorted(known))
            remedy = f"Did you mean {meant!r}?" if meant else "Add the level to the workspace's ladder."
            message = f"The workspace has no approval level {level!r}."
            issues.append(_start("unknown_approval_level", at, message, remedy))
    return issues


# -- templates that templates call -------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A version that a call leads to, or why there is none."""

    name: str
    calls: frozenset[Target]
    problem: tuple[str, str, str] | None = None  # code, message, remedy
    version_id: int | None = None


def _templates(
    definition: Definition, specs: Mapping[str, AgentSpec], workspace_id: UUID, template_id: UUID | None
) -> list[Issue]:
    issues: list[Issue] = []
    places: list[tuple[Target, str]] = []
    for caller, path in references.callers(definition):
        call = references.call(caller)
        target = references.target(call, specs) if call is not None else None
        if isinstance(target, BadTarget):
            at = pointer(*path, "configuration")
            issues.append(_start("no_template", at, target.message, "Name a template of this workspace."))
        elif target is not None:
            places.append((target, pointer(*path, "configuration", "templateId")))
    if not places:
        return issues
    graph, too_deep = _call_graph({target for target, _ in places}, workspace_id)
    for target, at in places:
        found = graph[target]
        if found.problem:
            issues.append(_start(found.problem[0], at, *found.problem[1:]))
        loop = _loop(target, graph, [template_id] if template_id else [])
        if loop:
            calls = " calls ".join(loop)
            message = (
                f"The template would call itself (pattern 22, recursion): {calls}, which is running already."
            )
            issues.append(
                Issue("error", "template_recursion", at, message, "Call a template that does not lead back.")
            )
    if too_deep:
        message = f"Templates call templates more than {LIMITS.usecase_depth} deep."
        issues.append(
            _start("calls_too_deep", places[0][1], message, "Bring the steps into fewer templates.")
        )
    return issues


def pinned(version: TemplateVersion, specs: Mapping[str, AgentSpec]) -> list[Pinned]:
    """The versions that calls lead to just now, at whatever depth; `specs` are the agents it names.

    No query for a version that calls no template.
    """
    targets = references.targets(references.calls_of(version), specs)
    if not targets:
        return []
    graph, _ = _call_graph(targets, version.template.workspace_id)
    return [
        Pinned(found.version_id, target.number is None)
        for target, found in graph.items()
        if found.version_id is not None and found.problem is None
    ]


def _call_graph(targets: set[Target], workspace_id: UUID) -> tuple[dict[Target, _Found], bool]:
    """Everything that can be reached, a few queries for each level of calls; True: it goes too deep."""
    graph: dict[Target, _Found] = {}
    for _ in range(LIMITS.usecase_depth):
        graph.update(_look_up(targets, workspace_id))
        targets = {call for target in targets for call in graph[target].calls} - graph.keys()
        if not targets:
            return graph, False
    graph.update({target: _Found(str(target.template_id), frozenset()) for target in targets})
    return graph, True


def _look_up(targets: set[Target], workspace_id: UUID) -> dict[Target, _Found]:
    versions = _versions(targets, workspace_id)
    calls = {version.pk: references.calls_of(version) for version in versions}
    specs = references.known_to((call for each in calls.values() for call in each), workspace_id)
    by_template: dict[UUID, list[TemplateVersion]] = defaultdict(list)
    for version in versions:
        by_template[version.template_id].append(version)
    return {
        target: _found(target, by_template.get(target.template_id, []), calls, specs) for target in targets
    }


def _versions(targets: set[Target], workspace_id: UUID) -> Sequence[TemplateVersion]:
    """Of each template the newest version and the newest published one, and those named by number."""
    ids = {target.template_id for target in targets}
    rows = (
        TemplateVersion.objects.filter(template__workspace_id=workspace_id, template_id__in=ids)
        .select_related("template")
        .defer("definition", "template__search", "template__search_text", "template__description")
    )
    newest = rows.order_by("template_id", "-number").distinct("template_id")
    published = newest.filter(status=VersionStatus.PUBLISHED)
    pinned = [Q(template_id=t.template_id, number=t.number) for t in targets if t.number is not None]
    found = [*newest, *published, *(rows.filter(reduce(or_, pinned)) if pinned else ())]
    return list({version.pk: version for version in found}.values())


def _found(
    target: Target,
    versions: Iterable[TemplateVersion],
    calls: Mapping[int, Iterable[Call]],
    specs: Mapping[str, AgentSpec],
) -> _Found:
    there = sorted(versions, key=lambda version: -version.number)
    wanted = [
        version
        for version in there
        if version.number == target.number
        or (target.number is None and version.status == VersionStatus.PUBLISHED)
    ]
    problem = _problem(target, there, wanted)
    if not wanted:
        return _Found(there[0].template.name if there else str(target.template_id), frozenset(), problem)
    version = wanted[0]
    reached = frozenset(references.targets(calls[version.pk], specs))
    return _Found(version.template.name, reached, problem, version.pk)


def _problem(
    target: Target, there: Sequence[TemplateVersion], wanted: Sequence[TemplateVersion]
) -> tuple[str, str, str] | None:
    if not there:
        message = f"There is no template {target.template_id} in this workspace."
        return "unknown_template", message, "Name a template of this workspace by its id."
    template = there[0].template
    if template.archived_at is not None:
        message = f"The template {template.name!r} is archived."
        return "template_archived", message, "Name a template that is still in use."
    if not wanted and target.number is not None:
        message = f"The template {template.name!r} has no version {target.number}."
        return "unknown_version", message, f"Its newest version is {there[0].number}."
    if not wanted or wanted[0].status != VersionStatus.PUBLISHED:
        which = f"version {target.number}" if target.number else "a version"
        message = f"The template {template.name!r} does not have {which} that is published."
        return "template_not_published", message, "Publish it."
    return None


def _loop(target: Target, graph: Mapping[Target, _Found], path: list[UUID]) -> list[str] | None:
    """The names along the first chain of calls that comes back to where it was."""
    name = repr(graph[target].name)
    if target.template_id in path:
        return [name]
    for call in sorted(graph[target].calls, key=str):
        rest = _loop(call, graph, [*path, target.template_id])
        if rest:
            return [name, *rest]
    return None
