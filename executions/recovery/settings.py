"""What a workspace says about recovery: its policy and its rules, read together and kept for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.db import DatabaseError, transaction
from django.db.models.functions import Now
from pydantic import ValidationError

from agentflow.agents.registry import cached
from agentflow.workflow.definition import Recovery
from agentflow.workflow.plan import PlanBlock
from executions.engine.rows import loads

from .rules import Rule

log = structlog.get_logger(__name__)

TELL_S = 60.0  # a rule that throws says so once in this time and process

_READ = """
SELECT (SELECT policy FROM executions_recoverypolicy WHERE workspace_id = %(workspace)s),
  (SELECT jsonb_agg(jsonb_build_array(name, condition, kind, code, id) ORDER BY place, created_at)
   FROM executions_failurerule WHERE workspace_id = %(workspace)s AND enabled)
"""


@dataclass(frozen=True, slots=True)
class Settings:
    recovery: Recovery | None = None
    rules: tuple[Rule, ...] = ()


def of(workspace_id: UUID) -> Settings:
    return cached(("recovery", workspace_id), lambda: _load(workspace_id))


def recovery_of(workspace_id: UUID, planned: PlanBlock) -> Recovery:
    """What the block and its template say, laid over what the workspace does."""
    return planned.recovery.over(of(workspace_id).recovery)


def _load(workspace_id: UUID) -> Settings:
    from executions.engine.run import raw_cursor  # above this in the order of imports

    row = raw_cursor().execute(_READ, {"workspace": workspace_id}).fetchone()
    policy, rules = (loads(value) for value in row or (None, None))
    recovery: Recovery | None = None
    if policy:
        try:
            recovery = Recovery.model_validate(policy, by_alias=True, by_name=False)
        except ValidationError as error:  # written by an older version; what the templates say counts
            log.error("recovery_policy_unusable", workspace_id=str(workspace_id), error=str(error))
    return Settings(recovery, tuple(Rule(*each) for each in rules or ()))


_told: dict[str, float] = {}
_lock = threading.Lock()


def tell_broken(broken: Sequence[tuple[Rule, str]]) -> None:
    """Show at a rule that it threw: after the commit, and not for each of a thousand failures."""
    now = time.monotonic()
    with _lock:
        due = [(rule, said) for rule, said in broken if now - _told.get(rule.pk, -TELL_S) >= TELL_S]
        _told.update({rule.pk: now for rule, _ in due})
    if due:
        transaction.on_commit(lambda: _note(due), robust=True)


def _note(due: Sequence[tuple[Rule, str]]) -> None:
    from .rule_models import FailureRule

    for rule, said in due:
        try:
            FailureRule.objects.filter(pk=rule.pk).update(error=said, error_at=Now())
        except DatabaseError as error:
            log.warning("failure_rule_not_told", rule=rule.pk, error=str(error))
