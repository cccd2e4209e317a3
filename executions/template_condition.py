"""How well a template does: a pure function of facts, which are a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection
from django.urls import reverse

from agentflow.agents import circuit
from agentflow.agents import condition as agent_condition
from agentflow.agents.condition import AgentFacts
from agentflow.agents.models import Agent
from agentflow.agents.warning_models import AgentWarning
from agentflow.workflow import health
from agentflow.workflow.health import Figure, Health, Reason, Status
from templates_app.models import Template
from templates_app.states import VersionStatus

from . import facts as version_facts
from .incidents.models import Incident
from .incidents.states import IncidentState
from .models import Timer

WINDOWS = {"24h": 24, "7d": 24 * 7}  # hours
AT_MOST = 5000  # of the newest executions, and of the newest failures, are looked at
FEW = 5  # executions, before their failures say anything
MANY_FAILED, MOST_FAILED = 0.1, 0.5
NAMED = 5  # incidents, agents


@dataclass(frozen=True, slots=True)
class Runs:
    """Executions that ended within a window.  Those that people cancelled say nothing, and count nowhere."""

    completed: int = 0
    ended: int = 0
    p95_ms: float | None = None
    recovered: int = 0  # blocks that failed once and completed,
    failed_once: int = 0  # of so many that failed once and are settled


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    href: str = ""
    executions_href: str = ""
    runs: Mapping[str, tuple[Runs, Runs]] = field(default_factory=dict)  # by window: in it, and before
    incidents: Sequence[tuple[str, int, str]] = ()  # what it is of, its count, its page
    open_incidents: int = 0
    agents: Sequence[tuple[str, Health, str]] = ()  # those that it names, with their pages
    stuck: int = 0


def of_facts(facts: TemplateFacts) -> Health:
    reasons = [*_failing(facts), *_agents(facts), *_incidents(facts), *_stuck(facts)]
    seen = any(now.ended for now, _ in facts.runs.values())
    return health.health(reasons, _figures(facts), seen=seen)


def _figures(facts: TemplateFacts) -> Iterable[Figure]:
    for name, (now, before) in facts.runs.items():
        yield health.share("successRate", name, (now.completed, now.ended), (before.completed, before.ended))
        yield health.duration("p95Ms", name, (now.p95_ms, now.completed), (before.p95_ms, before.completed))
        yield health.share(
            "recoveredRate",
            name,
            (now.recovered, now.failed_once),
            (before.recovered, before.failed_once),
        )


def _failing(facts: TemplateFacts) -> Iterable[Reason]:
    runs = facts.runs.get("24h", (Runs(), Runs()))[0]
    failed = runs.ended - runs.completed
    if runs.ended < FEW or failed < MANY_FAILED * runs.ended:
        return
    status = Status.UNHEALTHY if failed >= MOST_FAILED * runs.ended else Status.DEGRADED
    message = f"{failed} of the {runs.ended} executions that ended within a day failed."
    yield Reason("failing", message, "See its incidents for what failed.", facts.executions_href, status)


def _agents(facts: TemplateFacts) -> Iterable[Reason]:
    troubled = [each for each in facts.agents if each[1].reasons]
    for agent_id, found, href in troubled[:NAMED]:
        first = found.reasons[0]
        yield Reason(
            f"agent_{found.status}",
            f"It needs the agent “{agent_id}”: {first.message}",
            first.remedy,
            href,
            found.status,
        )
    if len(troubled) > NAMED:
        message = f"{len(troubled) - NAMED} more of its agents are not well."
        yield Reason("more_agents", message, "See the list of agents.")


def _incidents(facts: TemplateFacts) -> Iterable[Reason]:
    for what, count, href in facts.incidents:
        said = f"{count} {'failure' if count == 1 else 'failures'}"
        message = f"An incident is open: {what}, {said}."
        yield Reason("open_incident", message, "Look after the incident, or resolve it.", href)
    more = facts.open_incidents - len(facts.incidents)
    if more > 0:
        message = f"{more} more {'incident is' if more == 1 else 'incidents are'} open."
        yield Reason("more_incidents", message, "See the list of incidents.")


def _stuck(facts: TemplateFacts) -> Iterable[Reason]:
    if facts.stuck:
        said, who = ("execution is", "it waits") if facts.stuck == 1 else ("executions are", "they wait")
        remedy = f"See what {who} for: the list of executions, narrowed to stuck ones."
        yield Reason("stuck", f"{facts.stuck} {said} stuck.", remedy, facts.executions_href)


# -- from the rows ---------------------------------------------------------------

_RUNS = """
WITH windows (name, length) AS (SELECT * FROM unnest(%(names)s::text[], %(hours)s::int[])),
runs AS (
  SELECT e.status, e.completed_at, extract(epoch FROM e.completed_at - e.started_at)::float8 * 1000 AS ms
  FROM executions_execution e
  WHERE e.template_version_id = ANY(%(versions)s::bigint[]) AND e.simulation IS NULL
    AND e.status IN ('completed', 'failed')
    AND e.completed_at > statement_timestamp() - 2 * %(longest)s * interval '1 hour'
  ORDER BY e.created_at DESC LIMIT %(most)s)
SELECT w.name, r.completed_at > statement_timestamp() - w.length * interval '1 hour',
  count(*) FILTER (WHERE r.status = 'completed')::int, count(*)::int,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY r.ms) FILTER (WHERE r.status = 'completed')
FROM runs r JOIN windows w ON r.completed_at > statement_timestamp() - 2 * w.length * interval '1 hour'
GROUP BY 1, 2
"""

_RECOVERED = """
WITH windows (name, length) AS (SELECT * FROM unnest(%(names)s::text[], %(hours)s::int[])),
failed AS (
  SELECT f.last_at, b.status FROM executions_incident i
  JOIN executions_incidentblock f ON f.incident_id = i.id
  JOIN executions_blockexecution b ON b.id = f.block_id
  WHERE i.template_id = %(template)s AND NOT i.simulated AND b.completed_at IS NOT NULL
    AND f.last_at > statement_timestamp() - 2 * %(longest)s * interval '1 hour'
  ORDER BY f.last_at DESC LIMIT %(most)s)
SELECT w.name, f.last_at > statement_timestamp() - w.length * interval '1 hour',
  count(*) FILTER (WHERE f.status = 'completed')::int, count(*)::int
FROM failed f JOIN windows w ON f.last_at > statement_timestamp() - 2 * w.length * interval '1 hour'
GROUP BY 1, 2
"""


def of(template: Template) -> Health:
    return of_facts(read(template))


def read(template: Template) -> TemplateFacts:
    open_ones = Incident.objects.filter(template=template, simulated=False, state=IncidentState.OPEN)
    incidents = list(open_ones.order_by("-count", "pk")[:NAMED])
    return TemplateFacts(
        href=reverse("admin:templates_app_template_change", args=[template.pk]),
        executions_href=f"{reverse('admin:executions_execution_changelist')}?q={template.name}",
        runs=_runs(template),
        incidents=[
            (str(each), each.count, reverse("admin:executions_incident_change", args=[each.pk]))
            for each in incidents
        ],
        open_incidents=open_ones.count(),
        agents=_needed(template),
        stuck=Timer.objects.filter(
            stuck_at__isnull=False, execution__template_version__template=template
        ).count(),
    )


def _runs(template: Template) -> dict[str, tuple[Runs, Runs]]:
    given: dict[str, Any] = {
        "names": list(WINDOWS),
        "hours": list(WINDOWS.values()),
        "longest": max(WINDOWS.values()),
        "most": AT_MOST,
        "template": template.pk,
        "versions": list(template.versions.values_list("pk", flat=True)),
    }
    found: dict[tuple[str, bool], dict[str, float]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_RUNS, given)
        for name, lately, completed, ended, p95 in cursor.fetchall():
            found[name, lately] = {"completed": completed, "ended": ended, "p95_ms": p95}
        cursor.execute(_RECOVERED, given)
        for name, lately, recovered, failed in cursor.fetchall():
            found.setdefault((name, lately), {}).update(recovered=recovered, failed_once=failed)
    return {
        name: (Runs(**found.get((name, True), {})), Runs(**found.get((name, False), {})))  # type: ignore[arg-type]
        for name in WINDOWS
    }


def _needed(template: Template) -> list[tuple[str, Health, str]]:
    """The agents that its newest published version names, without their figures."""
    published = template.versions.filter(status=VersionStatus.PUBLISHED).order_by("-number")
    version = published.values_list("pk", flat=True).first()
    if version is None:
        return []
    known = version_facts.of_version(version)
    names = sorted({each.agent_id for each in known.values() if each.agent_id})
    agents = list(
        Agent.objects.filter(workspace=template.workspace_id, agent_id__in=names).order_by("agent_id")
    )
    states = circuit.states(template.workspace_id, [agent.agent_id for agent in agents])
    warned: dict[object, list[AgentWarning]] = {}
    for warning in AgentWarning.objects.filter(agent__in=agents, ended_at=None):
        warned.setdefault(warning.agent_id, []).append(warning)
    return [_one(agent, states[agent.agent_id], warned.get(agent.pk, ())) for agent in agents]


def _one(
    agent: Agent, state: circuit.CircuitState, warned: Sequence[AgentWarning]
) -> tuple[str, Health, str]:
    href = reverse("admin:agents_agent_change", args=[agent.pk])
    found = AgentFacts(
        href=href,
        enabled=agent.enabled,
        gone_at=agent.gone_at,
        health=agent.health,
        health_reason=agent.health_reason,
        failed_checks=agent.health_failures,
        circuit=state,
        warnings=warned,
    )
    return agent.agent_id, agent_condition.of_facts(found), href
