"""Who calls an agent, for the pages of agents: blocks at work and waiting, ended calls, templates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import connection
from django.urls import reverse

from agentflow.agents.models import Agent
from agentflow.agents.ports import Attempt, Caller, Purpose, TemplateUse
from agentflow.types import JSONValue

from .engine.facts import as_json
from .engine.places import GOES_ON, LIVE
from .engine.rows import loads
from .services import budgeting

# Of the newest attempts of all agents: an index of them by agent would be paid for by every block.
LOOKED_AT = 20_000
TEMPLATES = 300  # of a workspace, those changed last

_FROM_PLACES = f"""
FROM executions_place p
JOIN executions_execution e ON e.id = p.execution_id
JOIN executions_blockexecution b ON b.id = p.block_id
WHERE p.workspace_id = %(workspace)s AND p.kind = 'agent' AND p.key = %(agent)s AND ({LIVE})
  AND (p.held OR {GOES_ON})
"""

_LOAD = "SELECT count(*) FILTER (WHERE p.held)::int, count(*) FILTER (WHERE NOT p.held)::int" + _FROM_PLACES

_CALLERS = f"""
SELECT x.id, t.name, x.block_id, x.held, x.started_at FROM (
  SELECT e.id, e.template_version_id, b.block_id, p.held, b.started_at, p.priority, p.id AS place
  {_FROM_PLACES}
  ORDER BY p.held DESC, p.priority DESC, p.id LIMIT %(limit)s) x
JOIN templates_app_templateversion v ON v.id = x.template_version_id
JOIN templates_app_template t ON t.id = v.template_id
ORDER BY x.held DESC, x.priority DESC, x.place
"""

_ATTEMPTS = """
SELECT e.id, t.name, b.block_id, b.iteration, a.attempt, a.outcome, a.failure->>'code', a.failure->>'message',
  extract(epoch FROM a.ended_at - a.started_at)::float8 * 1000, a.ended_at
FROM (SELECT * FROM executions_blockattempt ORDER BY id DESC LIMIT %(looked_at)s) a
JOIN executions_blockexecution b ON b.id = a.block_id
JOIN executions_execution e ON e.id = b.execution_id
JOIN templates_app_templateversion v ON v.id = e.template_version_id
JOIN templates_app_template t ON t.id = v.template_id
WHERE a.agent_id = %(agent)s AND e.workspace_id = %(workspace)s AND e.simulation IS NULL
ORDER BY a.id DESC LIMIT %(limit)s
"""

_TEMPLATES = """
SELECT v.id, t.name, v.number,
  v.calls::jsonb @> jsonb_build_array(jsonb_build_array(%(agent)s::text)), c.asked
FROM (SELECT * FROM templates_app_template WHERE workspace_id = %(workspace)s AND archived_at IS NULL
      ORDER BY updated_at DESC LIMIT %(looked_at)s) t
CROSS JOIN LATERAL (SELECT * FROM templates_app_templateversion
                    WHERE template_id = t.id ORDER BY number DESC LIMIT 1) v
CROSS JOIN LATERAL (
  SELECT coalesce(jsonb_agg(DISTINCT wanted), '[]') AS asked
  FROM json_array_elements(v.definition->'blocks') AS block,
       jsonb_array_elements((block->'capabilities')::jsonb) AS wanted
  WHERE block->>'agentId' IS NULL AND json_typeof(block->'capabilities') = 'array'
    AND (block->'capabilities')::jsonb <@ %(capabilities)s::jsonb) c
WHERE v.calls::jsonb @> jsonb_build_array(jsonb_build_array(%(agent)s::text)) OR c.asked <> '[]'
ORDER BY t.name LIMIT %(limit)s
"""

_PURPOSES = """
SELECT t.id, t.name, w.id, w.name, (
  SELECT coalesce(jsonb_agg(block->>'blockId'), '[]')
  FROM json_array_elements(v.definition->'blocks') AS block
  WHERE block->>'agentId' IS NULL AND json_typeof(block->'capabilities') = 'array')
FROM (SELECT * FROM templates_app_template
      WHERE workspace_id = ANY(%(workspaces)s::uuid[]) AND archived_at IS NULL
      ORDER BY updated_at DESC LIMIT %(limit)s) t
JOIN governance_workspace w ON w.id = t.workspace_id
CROSS JOIN LATERAL (SELECT definition FROM templates_app_templateversion
                    WHERE template_id = t.id ORDER BY number DESC LIMIT 1) v
ORDER BY t.name, t.id
"""


class Uses:
    """`agents.ports.AgentUses`."""

    def load(self, agent: Agent) -> tuple[int, int]:
        return self._rows(_LOAD, agent)[0]

    def callers(self, agent: Agent, limit: int) -> Sequence[Caller]:
        return [
            Caller(_page(execution), template, block_id, held, since)
            for execution, template, block_id, held, since in self._rows(_CALLERS, agent, limit=limit)
        ]

    def attempts(self, agent: Agent, limit: int) -> Sequence[Attempt]:
        return [
            Attempt(
                _page(execution),
                template,
                f"{block_id} #{iteration}" if iteration else block_id,
                number,
                outcome,
                code or "",
                message or "",
                max(ms, 0.0),
                ended_at,
            )
            for execution, template, block_id, iteration, number, outcome, code, message, ms, ended_at in (
                self._rows(_ATTEMPTS, agent, limit=limit, looked_at=LOOKED_AT)
            )
        ]

    def templates(self, agent: Agent, capabilities: Collection[str], limit: int) -> Sequence[TemplateUse]:
        wanted: JSONValue = sorted(capabilities)
        rows = self._rows(_TEMPLATES, agent, limit=limit, looked_at=TEMPLATES, capabilities=as_json(wanted))
        return [
            TemplateUse(
                reverse("admin:templates_app_templateversion_change", args=[pk]),
                name,
                number,
                named,
                tuple(loads(asked)),
            )
            for pk, name, number, named, asked in rows
        ]

    def budget(self, agent: Agent) -> tuple[Mapping[str, float], Mapping[str, float]]:
        standing = budgeting.of_agent(agent)
        return standing.spent, standing.allowed

    def purposes(self, workspace_ids: Collection[UUID], limit: int) -> Sequence[Purpose]:
        with connection.cursor() as cursor:
            cursor.execute(_PURPOSES, {"workspaces": list(workspace_ids), "limit": limit})
            return [
                Purpose(template_id, name, workspace_id, workspace, tuple(loads(choosing)))
                for template_id, name, workspace_id, workspace, choosing in cursor.fetchall()
            ]

    @staticmethod
    def _rows(statement: str, agent: Agent, **given: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, {"workspace": agent.workspace_id, "agent": agent.agent_id, **given})
            return list(cursor.fetchall())


def _page(execution: Any) -> str:
    return reverse("execution-page", args=[execution])
