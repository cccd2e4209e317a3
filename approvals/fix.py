"""The question about a step that cannot go on, as its pages and the API show it: what was tried, what is
alike, how the step is called, and the ways on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.urls import reverse

from agentflow.conf import LIMITS
from agentflow.governance.models import User
from agentflow.types import JSONObject
from executions.incidents import fixing, stand_ins
from executions.incidents.models import Incident
from executions.incidents.stand_ins import StandIn
from executions.models import BlockExecution
from executions.recovery import timeline
from executions.snapshot import json_bytes

from .models import Approval, ApprovalKind
from .services import mending
from .states import ApprovalStatus

TRIES = 20  # the latest


@dataclass(frozen=True, slots=True)
class Way:
    """One of the buttons.  `changes`: what the step is called with may be changed with it."""

    action: str
    icon: str
    title: str
    note: str
    changes: bool = False


WAYS = (
    Way("retry", "refresh", "Run again", "The step is tried once more, from the start."),
    Way(
        "retry",
        "pencil",
        "Change it and run again",
        "Another agent, input or configuration, for this execution only.",
        changes=True,
    ),
    Way(
        "complete",
        "check",
        "Done with this output",
        "It was done elsewhere: you give its output, the rest goes on.",
    ),
    Way("skip", "player-skip-forward", "Skip", "The step is left out, and what only follows from it."),
    Way("fail", "x", "Fail", "The step fails, and the workflow does what it says for a failure."),
    Way(
        "abort",
        "ban",
        "Give up",
        "What was done is undone where the workflow says how, and it ends as failed.",
    ),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """`step` is None where nothing of it can be changed; `values` is the input that it was called with."""

    may_change: bool
    step: JSONObject | None
    values: JSONObject | None
    tries: list[JSONObject]
    agents: list[StandIn]
    incident: Incident | None

    @property
    def input_schema(self) -> JSONObject | None:
        return next((each.input_schema for each in self.agents if each.called), None)

    @property
    def ways(self) -> list[Way]:
        return [
            way
            for way in WAYS
            if (self.may_change or not (way.changes or way.action == mending.ABORT))
            and (self.step is not None or not (way.changes or way.action == mending.ABORT))
        ]


def shown(approval: Approval, user: User) -> Shown | None:
    """None: it is no such question."""
    if approval.kind != ApprovalKind.FIX:
        return None
    block = BlockExecution.objects.select_related("execution__template_version").get(
        pk=approval.block_execution_id
    )
    waits = approval.status == ApprovalStatus.PENDING
    step = fixing.step(block) if waits else None
    if step is not None and json_bytes(step) > LIMITS.question_bytes:
        step = None
    return Shown(
        may_change=mending.may_change(user, approval),
        step=step,
        values=_values(block) if step is not None else None,
        tries=_tries(block),
        agents=stand_ins.stand_ins(block) if step is not None else [],
        incident=Incident.objects.visible_to(user).filter(blocks__block=block).order_by("-last_seen").first(),
    )


def _values(block: BlockExecution) -> JSONObject | None:
    """The input of the last try, where a form can show it; of an item it is that item's alone."""
    given = block.input
    if not isinstance(given, dict) or not given or block.iteration:
        return None
    return given if json_bytes(given) <= LIMITS.question_bytes else None


def _tries(block: BlockExecution) -> list[JSONObject]:
    failed = timeline.decided(block.execution).filter(block=block).reverse()[:TRIES]
    return timeline.entries(list(reversed(failed)))


# -- the page -----------------------------------------------------------------------

THEN = {
    "retry": "Tried again",
    "reassign": "Given to another agent",
    "queue": "Waited for an agent",
    "restart": "Restarted from a recovery point",
    "ask": "You are asked",
    "compensate": "Undone, and ended",
    "fail": "Failed",
}
CIRCUITS = {"open": "kept out after failures", "half_open": "let in again to try"}


def page(about: Shown, user: User) -> dict[str, Any]:
    """The same in words."""
    step = about.step or {}
    return {
        "incident": about.incident,
        "alike": _alike(about.incident),
        "incident_page": _page_of(about.incident, user),
        "tries": [
            {**one, "then": THEN.get(str(one["strategy"]["name"]), one["strategy"]["name"])}
            for one in about.tries
        ],
        "may_change": about.step is not None and about.may_change,
        "agents": [_agent(each) for each in about.agents],
        "values": about.values,
        "input_text": _written(step.get("input") or {}),
        "configuration_text": _written(step.get("configuration") or {}),
        "ways": about.ways,
    }


def _alike(incident: Incident | None) -> str:
    if incident is None:
        return ""
    times = "once" if incident.count == 1 else f"{incident.count:,} times"
    return f"This failure has happened {times} since {incident.first_seen:%Y-%m-%d %H:%M}"


def _page_of(incident: Incident | None, user: User) -> str:
    if incident is None or not user.is_staff:
        return ""
    return reverse("admin:executions_incident_change", args=[incident.pk])


def _agent(one: StandIn) -> dict[str, Any]:
    calls = one.successes + one.failures
    words = [f"{one.successes} of {calls} calls of a day succeeded" if calls else "no calls in the last day"]
    if one.mean_ms is not None:
        words.append(f"{one.mean_ms / 1000:.2g} s" if one.mean_ms >= 100 else f"{one.mean_ms:.0f} ms")
    if one.circuit in CIRCUITS:
        words.append(CIRCUITS[one.circuit])
    return {"agent_id": one.agent_id, "name": one.name, "called": one.called, "words": " · ".join(words)}


def _written(value: JSONObject) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def for_form(about: Shown) -> dict[str, Any] | None:
    """What the page's script needs to let the step be changed."""
    if about.step is None or not about.may_change:
        return None
    return {"step": about.step, "values": about.values, "schema": about.input_schema or {}}
