"""The versions that an execution's sub-workflows run, fixed when it is accepted, for all below it.

The execution that a client started has the pins; its children, and theirs, look them up there.  A fork
has a copy.  A pin keeps its template from being deleted; publishing, deprecating and archiving change
nothing for an execution under way.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db.models import Q

from agentflow.agents.calls import StartChild
from executions.engine.run import raw_cursor
from executions.models import Pin
from templates_app.models import TemplateVersion
from templates_app.services.references import Pinned
from templates_app.states import VersionStatus

# The versions are kept from being deleted until this commits; one that is gone already is no pin.
_WRITE = """
INSERT INTO executions_pin (execution_id, version_id, newest)
SELECT %(execution)s, v.id, x.newest
FROM templates_app_templateversion v JOIN unnest(%(versions)s::bigint[], %(newest)s::bool[])
  AS x(version, newest) ON x.version = v.id
FOR KEY SHARE OF v
"""

_COPY = """
INSERT INTO executions_pin (execution_id, version_id, newest)
SELECT %(execution)s, version_id, newest FROM executions_pin WHERE execution_id = %(source)s
"""


def write(execution_id: UUID, pins: Collection[Pinned]) -> None:
    if not pins:
        return
    newest = {pin.version_id: False for pin in pins} | {pin.version_id: True for pin in pins if pin.newest}
    raw_cursor().execute(
        _WRITE, {"execution": execution_id, "versions": list(newest), "newest": list(newest.values())}
    )


def copy(execution_id: UUID, *, source: UUID) -> None:
    """Give a fork the pins of the execution, or of the one above it that a client started."""
    raw_cursor().execute(_COPY, {"execution": execution_id, "source": source})


def any_of(execution_id: UUID) -> bool:
    return Pin.objects.filter(execution=execution_id).exists()


def version_of(root: UUID, workspace_id: UUID, wanted: StartChild) -> int | None:
    """The version that a sub-workflow runs, None if there is none.

    What no pin names is looked up as it is now: an agent was pointed to another template since the
    start, or the execution is from before there were pins.
    """
    which = Q(newest=True) if wanted.version is None else Q(version__number=wanted.version)
    pins = Pin.objects.filter(which, execution=root, version__template=wanted.template_id)
    return pins.values_list("version", flat=True).first() or _now(workspace_id, wanted)


def _now(workspace_id: UUID, wanted: StartChild) -> int | None:
    """The version named, else the newest published; of the same workspace."""
    versions = TemplateVersion.objects.filter(
        template_id=wanted.template_id,
        template__workspace_id=workspace_id,
        template__archived_at=None,
        status=VersionStatus.PUBLISHED,
    )
    if wanted.version is not None:
        versions = versions.filter(number=wanted.version)
    return versions.order_by("-number").values_list("pk", flat=True).first()
