"""What can be done to a block that an incident holds, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from agentflow.agents import registry
from agentflow.conf import KB, LIMITS
from agentflow.errors import Conflict, InvalidInput, Unprocessable
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import Block
from agentflow.workflow.parsing import parse
from executions.states import BlockStatus as B
from executions.states import ExecutionStatus as E
from templates_app.models import TemplateVersion
from templates_app.services import checking
from templates_app.states import VersionStatus

from ..recovery.patching import PATCHED, merged, patched_definition
from ..snapshot import json_bytes

RETRY, SKIP, COMPLETE, MOVE = "retry", "skip", "complete", "move"
ACTIONS = (RETRY, SKIP, COMPLETE, MOVE)
_CAREFUL = {"pure": 0, "keyed": 1, "once": 2}


class FixInvalid(Unprocessable):
    """The fix does not fit the block."""

    code = "fix_invalid"
    remedy = "Mend what the issues name; the blocks wait as before."


class DoesNotFit(Conflict):
    """The fix does not fit the block as it is now."""

    remedy = "Choose another way on; the block waits as before."

    def __init__(self, code: str, message: str, **facts: str) -> None:
        super().__init__(message, **facts)
        self.code = code  # type: ignore[misc]  # what the outlook found


@dataclass(frozen=True, slots=True)
class Fix:
    """`action` retry: again, with the block changed by `patch`; skip; complete: with `output`; move: the
    execution goes on with version `number` of its template."""

    action: str
    patch: JSONObject
    output: JSONValue = None
    number: int | None = None

    def as_json(self) -> JSONObject:
        """`{"action": "retry", "agentId": "shop.b", "configuration": {...}, "input": ...}`"""
        found: JSONObject = {"action": self.action, **self.patch}
        if self.action == MOVE:
            return {**found, "templateVersion": self.number}
        return {**found, "output": self.output} if self.action == COMPLETE else found

    @classmethod
    def of(cls, response: JSONValue) -> Fix:
        """The answer to a `fix` question."""
        return cls.from_json(response) if isinstance(response, dict) else cls(RETRY, {})

    @classmethod
    def from_json(cls, stored: JSONObject) -> Fix:
        patch = {name: stored[name] for name in PATCHED if name in stored}
        return cls(
            str(stored.get("action", RETRY)), patch, stored.get("output"), stored.get("templateVersion")
        )


def from_person(given: JSONValue) -> Fix:
    """A fix as somebody wrote it, `{"action": "retry", "agentId": "shop.b"}`.

    Raises:
        FixInvalid: it is none.
    """
    takes = {RETRY: set(PATCHED), COMPLETE: {"output"}, MOVE: {"templateVersion"}, SKIP: set[str]()}
    if not isinstance(given, dict) or given.get("action") not in takes:
        raise FixInvalid(f"A fix is an object with an action: {', '.join(ACTIONS)}.", remedy="")
    allowed = takes[given["action"]]
    if unknown := sorted(given.keys() - allowed - {"action"}):
        raise FixInvalid(f"{given['action']} does not take {', '.join(unknown)}.", remedy="")
    if given["action"] != RETRY and (missing := sorted(allowed - given.keys())):
        raise FixInvalid(f"{given['action']} needs {missing[0]}.", remedy="")
    if not isinstance(given.get("templateVersion", 1), int) or not isinstance(given.get("agentId", ""), str):
        raise FixInvalid("templateVersion is a number, agentId a text.", remedy="")
    if not isinstance(given.get("configuration", {}), dict):
        raise FixInvalid("configuration is an object.", remedy="")
    return Fix.from_json(given)


@dataclass(frozen=True, slots=True)
class Held:
    """A block as a fix finds it."""

    status: str
    execution_status: str
    waits_for_fix: bool  # it has failed, and asks a person or is tried again
    child: bool  # its execution was started by another one
    present: bool  # of the execution's epoch
    item: bool  # of a `forEach`
    effect: str
    unknown: bool  # whether what it did is not known


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would happen; `code` is empty where nothing stands against it."""

    does: str
    code: str = ""
    message: str = ""


AGAIN = "tried_again"
RESTARTED = "restarted"
SKIPPED = "skipped"
COMPLETED = "completed"
MOVED = "moved"
NOTHING = "nothing"


def outlook(fix: Fix, held: Held, *, effect: str | None = None) -> Outlook:
    """What the fix would do to a block, as far as its row tells.  `effect`: of the agent in its place."""
    if effect is not None and _CAREFUL[effect] > _CAREFUL[held.effect]:
        return refused(
            "effect_not_allowed",
            f"The block may be called again as {held.effect}, and the other agent is {effect}.",
        )
    if "agentId" in fix.patch and held.unknown and held.effect != "pure":
        return refused("outcome_unknown", "What the first agent did is not known, and another cannot tell.")
    if not held.present:
        return refused("gone_on", "The execution was restarted since.")
    if fix.action == MOVE:
        return Outlook(MOVED)  # whether the execution fits is for `moving` to say
    if held.execution_status in (E.FAILED, E.CANCELLED):
        return _outlook_of_ended(fix, held)
    if held.execution_status in (E.COMPLETED, E.CANCELLING):
        return refused("execution_ended", f"The execution is {held.execution_status}.")
    if held.status == B.FAILED:
        return Outlook(AGAIN) if fix.action == RETRY else refused("block_not_open", "The block is failed.")
    if held.status in (B.WAITING_HUMAN, B.READY) and held.waits_for_fix:
        if held.item and fix.action != RETRY:
            return refused(
                "block_not_open", "An item of a forEach is only tried again; its block is skipped."
            )
        return Outlook({RETRY: AGAIN, SKIP: SKIPPED, COMPLETE: COMPLETED}[fix.action])
    return refused("gone_on", f"The block is {held.status}.")


def _outlook_of_ended(fix: Fix, held: Held) -> Outlook:
    if held.child:
        return refused("child_execution", "The execution belongs to another one, which is restarted instead.")
    if fix.action != RETRY or held.status != B.FAILED:
        return refused("execution_ended", f"The execution is {held.execution_status}.")
    return Outlook(RESTARTED)


def refused(code: str, message: str) -> Outlook:
    """Nothing would happen, and why."""
    return Outlook(NOTHING, code, message)


# -- whether it fits -----------------------------------------------------------


def check(
    fix: Fix,
    *,
    workspace_id: UUID,
    block_id: str,
    versions: Iterable[int],
    patches: Mapping[str, JSONObject] | None = None,
    at: str = "/fix",
) -> dict[int, str | None]:
    """Let pass a fix that fits each version; gives by version the effect of the agent in the block's place.

    `patches` are laid below; the issues' pointers are under `at`.

    Raises:
        FixInvalid: it does not; all issues of the first version that it does not fit are named.
    """
    found: dict[int, str | None] = {}
    for version in TemplateVersion.objects.filter(pk__in=versions).order_by("-number"):
        found[version.pk] = None
        if fix.patch:
            found[version.pk] = _check_one(fix, workspace_id, block_id, version, patches or {}, at)
    return found


def version_of(fix: Fix, template_id: UUID) -> TemplateVersion:
    """The version that executions are moved to.

    Raises:
        FixInvalid: the template has none that is published, or it cannot be started just now.
    """
    rows = TemplateVersion.objects.filter(template=template_id, number=fix.number or 0)
    version = rows.select_related("template").first()
    if version is None or version.status != VersionStatus.PUBLISHED:
        said = f"The template has no published version {fix.number}."
        issue = {
            "pointer": "/fix/templateVersion",
            "code": "no_such_version" if version is None else "version_not_published",
            "message": said,
            "remedy": "Name a version that is published.",
        }
        raise FixInvalid(said, issues=[issue])
    issues = [issue.as_json() for issue in checking.start_issues(version)]
    if issues:
        raise FixInvalid(f"Version {version.number} cannot be started: {issues[0]['message']}", issues=issues)
    return version


def laid(
    patches: Mapping[str, JSONObject], block_id: str, patch: JSONObject, at: str = ""
) -> dict[str, JSONObject]:
    """All that a run is changed by once this has been added.

    Raises:
        FixInvalid: it is too much, for it is read with every turn of the run.
    """
    made = merged(patches, block_id, patch)
    if json_bytes(made) > LIMITS.patches_bytes:
        limit = LIMITS.patches_bytes // KB
        raise FixInvalid(
            f"What is changed for one execution may have {limit} KB.",
            pointer=at,
            remedy="Make it smaller; a large value can be an input of the execution.",
        )
    return made


def _check_one(
    fix: Fix,
    workspace_id: UUID,
    block_id: str,
    version: TemplateVersion,
    patches: Mapping[str, JSONObject],
    at: str,
) -> str | None:
    before = parse(patched_definition(version.definition, patches))
    names = [block.block_id for block in before.blocks]
    if block_id not in names:
        raise FixInvalid("The block undoes another one; it can only be tried again as it is.", pointer=at)
    made = laid(patches, block_id, fix.patch, at)
    place = f"/blocks/{names.index(block_id)}"
    try:
        patched = parse(patched_definition(version.definition, made))
    except InvalidInput as error:
        raise _invalid(version, error.issues, place, at) from None
    known = {(issue.code, issue.pointer) for issue in checking.check(before, workspace_id=workspace_id)}
    issues = [
        issue.as_json()
        for issue in checking.check(patched, workspace_id=workspace_id)
        if issue.severity in ("error", "start") and (issue.code, issue.pointer) not in known
    ]
    if issues:
        raise _invalid(version, issues, place, at)
    return _effect(workspace_id, patched.blocks[names.index(block_id)]) if "agentId" in fix.patch else None


def _invalid(version: TemplateVersion, issues: list[JSONObject], place: str, at: str) -> FixInvalid:
    """The issues that the template would have; those of what was changed point there."""
    found = []
    for issue in issues:
        inside = str(issue["pointer"]).removeprefix(place)
        changed = inside.startswith(tuple(f"/{name}" for name in PATCHED))
        found.append({**issue, "pointer": at + inside if changed else at})
    many = "s" if len(found) != 1 else ""
    return FixInvalid(
        f"With it, version {version.number} has {len(found)} problem{many}: {found[0]['message']}",
        issues=found,
    )


def _effect(workspace_id: UUID, block: Block) -> str:
    (effect,) = registry.effects(workspace_id, [block])
    return effect
