"""What rows tell about a template's failures, in a fixed number of bounded queries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from agentflow.agents import registry
from agentflow.types import JSONObject
from executions.engine.rows import loads
from executions.engine.run import raw_cursor
from executions.recovery.experience import WEEKS
from executions.recovery.ordering import Tried
from templates_app.models import Template, TemplateVersion

from .facts import Facts, Seen

VERSIONS = 5  # the newest ones
RUNS, LEAST_RUNS = 1_000, 20  # the latest; the larger the template, the fewer
ATTEMPTS = 20_000  # the latest
DAYS = 14
INPUTS = 400
INPUT_BYTES = 20_000
LINKS = 10  # executions that a proposal names

_SEEN = """
WITH runs AS (
  SELECT e.id, v.number FROM unnest(%(versions)s::bigint[], %(numbers)s::int[]) AS v(id, number)
  CROSS JOIN LATERAL (
    SELECT id, created_at FROM executions_execution
    WHERE template_version_id = v.id AND simulation IS NULL AND patches IS NULL
      AND faults_id IS NULL
      AND created_at > statement_timestamp() - %(days)s * interval '1 day'
    ORDER BY created_at DESC LIMIT %(runs)s) e
  ORDER BY e.created_at DESC LIMIT %(runs)s)
SELECT r.number, b.block_id, b.id, r.id, a.attempt, a.agent_id, a.outcome = 'ok',
  greatest(extract(epoch FROM a.ended_at - a.started_at), 0)::float8, a.failure->>'code', a.failure->>'kind',
  a.failure->'recovery'->>'strategy', a.failure->>'outcomeUnknown' = 'true', b.status, b.reason
FROM runs r
JOIN executions_blockexecution b ON b.execution_id = r.id AND b.attempt > 0
JOIN executions_blockattempt a ON a.block_id = b.id
WHERE a.outcome IN ('ok', 'error')
ORDER BY a.id DESC LIMIT %(attempts)s
"""

_RETRIED = """
SELECT code, sum(tries)::bigint, sum(recovered)::bigint, sum(seconds)
FROM executions_strategytally
WHERE workspace_id = %(workspace)s AND template_id IS NULL AND week > current_date - 7 * %(weeks)s
  AND strategy IN ('retry', 'ask')
GROUP BY code HAVING sum(tries) > 0
"""

_INPUTS = """
SELECT id, input FROM executions_blockexecution
WHERE id = ANY(%(rows)s) AND jsonb_typeof(input) = 'object' AND pg_column_size(input) <= %(bytes)s
"""

_INCIDENTS = """
SELECT block_id, code, array_agg(id ORDER BY last_seen DESC) FROM executions_incident
WHERE template_id = %(template)s AND NOT simulated
  AND last_seen > statement_timestamp() - %(days)s * interval '1 day'
GROUP BY 1, 2 LIMIT 1000
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """`number`: of the version whose definition `facts` has, the newest.  `runs`: looked at, at most."""

    template: Template
    number: int
    runs: int
    facts: Facts
    incidents: Mapping[tuple[str, str], Sequence[UUID]]

    def links(self, block_id: str, codes: Collection[str], rows: Collection[int]) -> JSONObject:
        """Where the failures can be looked at."""
        ids = [each.execution_id for each in self.facts.by_block.get(block_id, ()) if each.row in rows]
        named = list(dict.fromkeys(map(str, reversed(ids))))
        found = [
            str(pk)
            for (block, code), pks in self.incidents.items()
            if block == block_id and (not codes or code in codes)
            for pk in pks
        ]
        return {
            "executions": named[:LINKS],
            "executionCount": len(named),
            "incidents": found[:LINKS],
            "days": DAYS,
            "runsAtMost": self.runs,
        }


def read(template_id: UUID) -> Evidence | None:
    """None: there is no such template any more, or nothing of it is to be changed."""
    template = Template.objects.filter(pk=template_id, archived_at=None).defer("search_text").first()
    versions = list(TemplateVersion.objects.filter(template=template_id).order_by("-number")[:VERSIONS])
    if template is None or not versions:
        return None
    newest = versions[0]
    seen = _seen(versions, newest.definition)
    failing = {each.block_id for each in seen if not each.ok}
    found = raw_cursor().execute(_INCIDENTS, {"template": template_id, "days": DAYS}).fetchall()
    facts = Facts(
        definition=newest.definition,
        seen=seen,
        retried=_retried(template.workspace_id),
        inputs=_inputs([each for each in seen if each.block_id in failing]),
        agents=_agents(template.workspace_id, newest.definition),
    )
    incidents = {(block_id, code): pks for block_id, code, pks in found}
    return Evidence(template, newest.number, _runs(newest), facts, incidents)


def of_version(template_id: UUID, number: int, block_id: str) -> list[Seen]:
    """What came of a block since a version has it as that one does."""
    versions = list(
        TemplateVersion.objects.filter(template=template_id, number__gte=number).order_by("number")[:VERSIONS]
    )
    if not versions or versions[0].number != number:
        return []
    return [each for each in _seen(versions, versions[0].definition) if each.block_id == block_id]


def _seen(versions: Sequence[TemplateVersion], definition: JSONObject) -> list[Seen]:
    """Attempts of blocks that are in their version as they are in this definition, the latest last."""
    same = {version.number: _alike(version.definition, definition) for version in versions}
    given = {
        "versions": [version.pk for version in versions],
        "numbers": [version.number for version in versions],
        "days": DAYS,
        "runs": _runs(versions[0]),
        "attempts": ATTEMPTS,
    }
    found = []
    for number, block_id, row, execution_id, attempt, agent_id, ok, seconds, *told in (
        raw_cursor().execute(_SEEN, given).fetchall()
    ):
        if block_id in same[number]:
            code, kind, strategy, unknown, status, reason = told
            found.append(
                Seen(
                    block_id, row, execution_id, attempt, agent_id, ok, seconds, code or "", kind or "",
                    strategy or "", bool(unknown), status, reason,
                )
            )  # fmt: skip
    found.reverse()
    return found


def _runs(version: TemplateVersion) -> int:
    return max(min(RUNS, ATTEMPTS // max(version.block_count, 1)), LEAST_RUNS)


def _alike(one: JSONObject, other: JSONObject) -> frozenset[str]:
    """The blocks that both have, doing the same; where they stand does not matter."""
    settings = ("recovery", "defaultRetryPolicy")
    if [(one.get("globalSettings") or {}).get(name) for name in settings] != [
        (other.get("globalSettings") or {}).get(name) for name in settings
    ]:
        return frozenset()
    blocks = {block["blockId"]: _canonical(block) for block in one["blocks"]}
    return frozenset(
        block["blockId"] for block in other["blocks"] if blocks.get(block["blockId"]) == _canonical(block)
    )


def _canonical(block: JSONObject) -> str:
    kept = {
        name: value for name, value in block.items() if name not in ("name", "description", "dependencies")
    }
    return json.dumps(kept, sort_keys=True)


def _retried(workspace_id: UUID) -> dict[str, Tried]:
    rows = raw_cursor().execute(_RETRIED, {"workspace": workspace_id, "weeks": WEEKS}).fetchall()
    return {code: Tried(*counts) for code, *counts in rows}


def _inputs(seen: Iterable[Seen]) -> dict[int, JSONObject]:
    """Of the latest rows that failed and that did not, as many of each block."""
    by_block: dict[tuple[str, bool], dict[int, None]] = defaultdict(dict)
    for each in reversed(list(seen)):
        by_block[each.block_id, each.ok].setdefault(each.row)
    if not by_block:
        return {}
    most = max(INPUTS // len(by_block), 1)
    rows = [row for some in by_block.values() for row in list(some)[:most]]
    found = raw_cursor().execute(_INPUTS, {"rows": rows[:INPUTS], "bytes": INPUT_BYTES}).fetchall()
    return {row: cast(JSONObject, loads(value)) for row, value in found}


def _agents(workspace_id: UUID, definition: JSONObject) -> frozenset[str]:
    named = {
        name
        for block in definition["blocks"]
        for name in (block.get("recovery") or {}).get("alternatives") or ()
    }
    specs = registry.resolve_many(workspace_id, named) if named else {}
    return frozenset(name for name, spec in specs.items() if spec.enabled and spec.gone_at is None)
