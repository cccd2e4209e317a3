"""Open questions, asked the way the engine asks them: through the gate, with timer and event.

approval = ApprovalFactory(kind="input", input_schema={...})
approval = ApprovalFactory(execution=asking_execution(workspace, "first", "second"), block_id="second")
"""

from __future__ import annotations

from typing import Any

import factory
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from agentflow.conf import LIMITS
from agentflow.governance.models import Workspace
from agentflow.types import JSONObject
from approvals.models import Approval, ApprovalLevel
from executions.models import Execution, Timer
from executions.ports import HumanAsk, human_gate

from .executions import ExecutionFactory


def asking_definition(*block_ids: str, kind: str = "approval", **human: Any) -> JSONObject:
    """Blocks that each ask a person, and `after`, which follows all of them."""
    asks = {"type": kind, **human}
    work: JSONObject = {} if kind == "input" else {"agentId": "builtin.echo"}
    return {
        "name": "Ask first",
        "blocks": [
            *({"blockId": each, "name": f"Step {each}", "humanInLoop": asks, **work} for each in block_ids),
            {
                "blockId": "after",
                "name": "What follows",
                "agentId": "builtin.echo",
                "dependencies": list(block_ids),
            },
        ],
    }


def asking_execution(
    workspace: Workspace | None, *block_ids: str, kind: str = "approval", human: JSONObject | None = None
) -> Execution:
    """A run whose blocks `block_ids` all wait for a person."""
    execution: Execution = ExecutionFactory.create(
        workspace=workspace,
        definition=asking_definition(*block_ids, kind=kind, **(human or {})),
        waiting_human=list(block_ids),
    )
    return execution


class ApprovalFactory(factory.django.DjangoModelFactory[Approval]):
    """One question; without `execution`, of a run of its own in `workspace`."""

    class Meta:
        model = Approval

    workspace = None
    execution = factory.LazyAttribute(
        lambda ask: asking_execution(
            ask.workspace, ask.block_id, kind="input" if ask.kind == "input" else "approval"
        )
    )
    block_id = "ask"
    kind = "approval"
    level = "user"
    request = factory.LazyFunction(lambda: {"title": "May it go on?", "facts": {"amount": 640}})
    input_schema = factory.LazyFunction(dict)
    timeout_ms = LIMITS.approval_timeout_ms
    levels = ()  # of `LevelAsk`
    on_timeout = "fail"
    escalate = False
    business_hours = False
    sample = 0
    sample_of = 0

    @classmethod
    def _create(cls, model_class: Any, *args: Any, **kwargs: Any) -> Approval:
        execution = kwargs["execution"]
        block = execution.blocks.get(block_id=kwargs["block_id"])
        ask = HumanAsk(
            workspace_id=execution.workspace_id,
            execution_id=execution.pk,
            block_pk=block.pk,
            block_id=block.block_id,
            attempt=max(block.attempt, 1),
            version_hash=execution.template_version.content_hash,
            kind=kwargs["kind"],
            level=kwargs["level"],
            request=kwargs["request"],
            input_schema=kwargs["input_schema"],
            timeout_ms=kwargs["timeout_ms"],
            block_name=f"Step {block.block_id}",
            levels=tuple(kwargs["levels"]),
            on_timeout=kwargs["on_timeout"],
            escalate=kwargs["escalate"],
            business_hours=kwargs["business_hours"],
            sample=kwargs["sample"],
            sample_of=kwargs["sample_of"],
        )
        with transaction.atomic():
            human_gate().open([ask])
        return Approval.objects.get(block_execution=block, status="pending")


class ApprovalLevelFactory(factory.django.DjangoModelFactory[ApprovalLevel]):
    """A rung with a group of its own; `members` are put into it."""

    class Meta:
        model = ApprovalLevel
        skip_postgeneration_save = True

    name = "finance"
    position = 1
    group = factory.LazyAttribute(
        lambda rung: Group.objects.create(name=f"{rung.name} of {rung.workspace.pk}")
    )

    @factory.post_generation  # type: ignore[untyped-decorator]  # factory_boy ships no types
    def members(self: ApprovalLevel, create: bool, extracted: Any, **kwargs: Any) -> None:
        for user in extracted or ():
            user.groups.add(self.group)


def let_time_pass(approval: Approval) -> None:
    """Bring a question to the end of its time."""
    Approval.objects.filter(pk=approval.pk).update(respond_by=Now())
    Timer.objects.filter(subject=approval.pk).update(due_at=Now(), tries=F("tries"))
