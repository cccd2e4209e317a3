"""How near agents are to a text in meaning: vectors of an embedding model, where the installation has one.

Off unless `AGENTFLOW_LLM_EMBEDDING_MODEL` names a model.  The clock keeps a vector of what each agent says of
itself (`AgentMeaning`); a text is turned into one when somebody asks.  Where the service does not answer,
words alone decide, as they do without it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from uuid import UUID

from django.conf import settings
from django.db.models import F, Q
from django.utils import timezone

from ..integrations import llm
from ..integrations.egress import EgressError
from . import registry
from .models import Agent, AgentMeaning

log = logging.getLogger(__name__)

AT_ONCE = 50  # agents, in one request
TEXT_CHARS = 8000  # of one agent, or of what is looked for
ASKED_S, KEPT_S = 3.0, 30.0  # for a person's question, and for the clock's
REMEMBERED = 1000  # texts


def on() -> bool:
    return bool(settings.AGENTFLOW_LLM_EMBEDDING_MODEL and settings.AGENTFLOW_LLM_BASE_URL)


def keep_up() -> int:
    """Make the vectors of agents that are new, or say something else by now; how many it looked at.

    Raises:
        EgressError: the service does not answer.
    """
    if not on():
        return 0
    model = settings.AGENTFLOW_LLM_EMBEDDING_MODEL
    stale = Q(meaning=None) | Q(updated_at__gt=F("meaning__at")) | ~Q(meaning__model=model)
    agents = list(Agent.objects.filter(stale).select_related("meaning").order_by("pk")[:AT_ONCE])
    now = timezone.now()
    wanted = []
    for agent in agents:
        text = _text(agent)
        held = getattr(agent, "meaning", None)
        of = hashlib.sha256(text.encode()).hexdigest()
        made = AgentMeaning(agent_id=agent.pk, model=model, at=now, of=of)
        if held is not None and (held.of, held.model) == (made.of, model):
            AgentMeaning.objects.filter(pk=held.pk).update(at=now)
        else:
            wanted.append((made, text))
    if wanted:
        for (made, _), vector in zip(wanted, _embed([t for _, t in wanted], timeout_s=KEPT_S), strict=True):
            made.vector = vector
        AgentMeaning.objects.bulk_create(
            [made for made, _ in wanted],
            update_conflicts=True,
            unique_fields=["agent"],
            update_fields=["model", "of", "vector", "at"],
        )
    return len(agents)


def fit(workspace_id: UUID, text: str) -> dict[str, float]:
    """How near agents are to a text, from 0 to 1; empty where nobody knows."""
    if not on():
        return {}
    model = settings.AGENTFLOW_LLM_EMBEDDING_MODEL
    text = text[:TEXT_CHARS]
    try:
        asked = registry.cached(("meaning", model, text), lambda: _embed([text], timeout_s=ASKED_S)[0])
    except EgressError as error:
        log.warning("the embedding model does not answer: %s", error)
        return {}
    rows = AgentMeaning.objects.filter(agent__workspace_id=workspace_id, model=model)
    found = rows.values_list("agent__agent_id", "vector")
    return {agent_id: max(_cosine(asked, vector), 0.0) for agent_id, vector in found}


def _text(agent: Agent) -> str:
    """What an agent says of itself."""
    said = [agent.name or agent.agent_id, agent.description]
    for each in agent.capabilities:
        named = each if isinstance(each, dict) else {"name": str(each)}
        said.append(" ".join([named.get("name", ""), *named.get("tags", ()), named.get("description", "")]))
    return "\n".join(line for line in said if line)[:TEXT_CHARS]


def _embed(texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
    base_url, api_key, policy = llm.installation()
    model = settings.AGENTFLOW_LLM_EMBEDDING_MODEL
    return llm.embed(
        texts, model=model, base_url=base_url, api_key=api_key, policy=policy, timeout_s=timeout_s
    )


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other):
        return 0.0
    sizes = sum(x * x for x in one) * sum(x * x for x in other)
    return sum(x * y for x, y in zip(one, other, strict=True)) / sizes**0.5 if sizes else 0.0
