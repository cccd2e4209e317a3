"""What happens to incidents, as events: in the log of the execution that failed first."""

from __future__ import annotations

from agentflow.events import store
from agentflow.events.models import Level
from agentflow.types import JSONObject
from executions.models import BlockExecution

from .models import Incident


def tell(incident: Incident, type: str, facts: JSONObject, *, level: Level = Level.INFO) -> None:
    """Record it in the transaction that makes it true; `incident_opened` and its waking are the clock's."""
    first = BlockExecution.objects.filter(pk=incident.sample_block).values_list("execution_id", flat=True)
    store.append(
        type=type,
        workspace_id=incident.workspace_id,
        execution_id=first.first(),
        block_id=incident.block_id,
        level=level,
        payload={"incidentId": str(incident.pk), **facts},
    )
