"""What never changes about a run, read once by each process that works on it."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Generic, NamedTuple, TypeVar, cast
from uuid import UUID

from django.db import connection

from agentflow.errors import NotFound
from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.large import NOTE, Large
from agentflow.workflow.parsing import parse
from agentflow.workflow.plan import Plan, compile_plan
from executions.blobs import with_members
from executions.faults.drawing import Faults
from executions.models import Durability
from executions.recovery.patching import patched_definition
from templates_app.models import TemplateVersion

from .rows import loads

# `context.rework` of a run that was not: an expression reads the comment without asking whether there is one.
NEVER_SENT_BACK: JSONObject = {"round": 0, "comment": "", "by": "", "askedBy": "", "blocks": []}

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class VersionFacts:
    version_id: int
    template_id: UUID
    template_name: str
    number: int
    content_hash: str
    plan: Plan


@lru_cache(maxsize=128)
def version_facts(version_id: int) -> VersionFacts:
    """A version with its plan.  Versions are immutable, so this never goes stale.

    Raises:
        NotFound: it was deleted, which one that an execution refers to never is.
    """
    version = TemplateVersion.objects.select_related("template").filter(pk=version_id).first()
    if version is None:
        raise NotFound()
    return VersionFacts(
        version_id=version_id,
        template_id=version.template_id,
        template_name=version.template.name,
        number=version.number,
        content_hash=version.content_hash,
        plan=compile_plan(parse(version.definition)),
    )


@lru_cache(maxsize=32)
def _patched_version(version_id: int, patches: str) -> VersionFacts:
    definition = TemplateVersion.objects.values_list("definition", flat=True).get(pk=version_id)
    plan = compile_plan(parse(patched_definition(definition, json.loads(patches))))
    return replace(version_facts(version_id), plan=plan)


class Above(NamedTuple):
    """A run that waits for one below it: with which of its blocks."""

    execution_id: UUID
    version_id: int
    idx: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One run.  `input`, `simulation` and the pinned version are fixed when it is accepted."""

    execution_id: UUID
    workspace_id: UUID
    version: VersionFacts
    max_parallel: int
    strict: bool  # each outcome in a commit of its own
    input: JSONObject  # of a child, with what is large in it by reference
    refers: bool  # to large members
    simulation: JSONObject | None
    created_by_id: int | None
    depth: int
    root_id: UUID  # the run at depth 0: this one, or the one above it
    parent_execution_id: UUID | None
    above: tuple[Above, ...]  # from the run that waits for this one up to the root
    workspace: JSONObject  # as expressions see it
    once: frozenset[int]  # positions of blocks whose effect must not be repeated
    faults: Faults | None  # that it may meet on purpose

    def patched(self, patches: str | None) -> Facts:
        """The run with some of its blocks in other ways, as its row has them just now."""
        if patches is None:
            return self
        return replace(self, version=_patched_version(self.version.version_id, patches))

    @property
    def plan(self) -> Plan:
        return self.version.plan

    @property
    def limited(self) -> bool:
        """Whether the run itself needs a place of a concurrency key.  Simulated runs need none."""
        return self.plan.run_key is not None and self.simulation is None

    @property
    def keyed(self) -> bool:
        """Whether blocks of the run need places."""
        return self.plan.keyed and self.simulation is None

    @property
    def widest_key(self) -> int:
        return max((key.limit for key in self.plan.keys), default=0)

    def scope(self, outputs: dict[int, JSONObject], rework: JSONObject | None = None) -> dict[str, JSONValue]:
        """What an expression may name.

        `outputs` is `{idx: {"output": ..., "status": ...}}`, `rework` why the run was last sent back.
        """
        return {
            "input": self.input,
            "context": {
                "executionId": str(self.execution_id),
                "templateId": str(self.version.template_id),
                "templateName": self.version.template_name,
                "versionNumber": self.version.number,
                "simulated": self.simulation is not None,
                "rework": rework or NEVER_SENT_BACK,
            },
            "workspace": self.workspace,
            "blocks": {self.plan[idx].block_id: value for idx, value in outputs.items()},
        }


class _Recent(Generic[K, V]):
    """The most recently used entries, for several threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
            return None

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._items[key] = value
            if len(self._items) > self._size:
                self._items.popitem(last=False)


_recent: _Recent[UUID, Facts] = _Recent(256)
# By hand, for every run is read by every process that works on it.  An effect is fixed at the start, so
# the first epoch tells which are `once`.
_FACTS = """
SELECT e.workspace_id, e.template_version_id, e.max_parallel, e.durability, e.input, e.input_blobs,
  e.simulation, e.created_by_id, e.depth, e.root, w.slug, w.name,
  (WITH RECURSIVE above AS (
     SELECT p.execution_id, a.template_version_id, p.idx, a.parent_block_id, 1 AS n
     FROM executions_blockexecution p JOIN executions_execution a ON a.id = p.execution_id
     WHERE p.id = e.parent_block_id
     UNION ALL
     SELECT p.execution_id, a.template_version_id, p.idx, a.parent_block_id, n + 1
     FROM above JOIN executions_blockexecution p ON p.id = above.parent_block_id
     JOIN executions_execution a ON a.id = p.execution_id)
   SELECT jsonb_agg(jsonb_build_array(execution_id, template_version_id, idx) ORDER BY n) FROM above),
  ARRAY(SELECT b.idx FROM executions_blockexecution b
        WHERE b.execution_id = e.id AND b.epoch = 1 AND b.iteration = 0 AND b.effect = 'once'),
  f.id, f.seed, f.rules, f.counts, e.business_key
FROM executions_execution e JOIN governance_workspace w ON w.id = e.workspace_id
LEFT JOIN executions_faultinjection f ON f.id = e.faults_id WHERE e.id = %s
"""


def facts_of(execution_id: UUID) -> Facts | None:
    """None: no such execution (a hint for a row that was rolled back or deleted)."""
    found = _recent.get(execution_id)
    if found is not None:
        return found
    with connection.cursor() as cursor:
        cursor.execute(_FACTS, [execution_id])
        row = cursor.fetchone()
    if row is None:
        return None
    workspace_id, version_id, max_parallel, durability, input, input_blobs, simulation, *_ = row
    created_by_id, depth, root_id, slug, name, chain, once = row[7:14]
    injection, seed, rules, counts, business_key = row[14:]
    above = tuple(Above(UUID(run), version, idx) for run, version, idx in loads(chain) or ())
    facts = Facts(
        execution_id=execution_id,
        workspace_id=workspace_id,
        version=version_facts(version_id),
        max_parallel=max_parallel,
        strict=durability == Durability.STRICT,
        input=with_members(cast(JSONObject, loads(input)), cast(JSONObject | None, loads(input_blobs))),
        refers=input_blobs is not None,
        simulation=cast(JSONObject | None, loads(simulation)),
        created_by_id=created_by_id,
        depth=depth,
        root_id=root_id or execution_id,
        parent_execution_id=above[0].execution_id if above else None,
        above=above,
        workspace=workspace_names(workspace_id, slug, name),
        once=frozenset(once),
        faults=None
        if injection is None
        else Faults.of(injection, seed, loads(rules), counts, business_key or str(execution_id)),
    )
    _recent.put(execution_id, facts)
    return facts


def workspace_of(execution_id: UUID) -> UUID | None:
    """The workspace of a run that this process has worked on lately."""
    found = _recent.get(execution_id)
    return None if found is None else found.workspace_id


def workspace_names(workspace_id: UUID, slug: str, name: str) -> JSONObject:
    """A workspace as expressions see it."""
    return {"id": str(workspace_id), "slug": slug, "name": name}


def as_json(value: JSONValue) -> str:
    """JSON text; where a large value is only mentioned, in evidence say, a note stands for it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_note)


def _note(value: object) -> str:
    if isinstance(value, Large):
        return NOTE
    raise TypeError(f"{type(value).__name__} is no JSON.")


def as_text(value: JSONValue) -> str | None:
    """JSON as a statement's parameter; None stays SQL's NULL, and so is what `blob_of` names."""
    return None if value is None or type(value) is Large else as_json(value)


def blob_of(value: JSONValue) -> UUID | None:
    """What a row refers to in place of a value that is large."""
    return value.key if type(value) is Large else None
