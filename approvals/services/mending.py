"""The answer to a `fix` question: who may change how the step is called, and whether that fits."""

from __future__ import annotations

from agentflow.errors import NotPermitted
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue
from executions.incidents import fixing
from executions.incidents.fixes import Fix

from ..models import Approval

ABORT = "abort"


class ForOperators(NotPermitted):
    """Only an operator of the workspace changes a step, or gives its execution up."""

    code = "for_operators"
    remedy = "Run it again as it is, or leave the question to somebody who is also an operator."


def may_change(user: User, approval: Approval) -> bool:
    return access.can(user, Permission.OPERATE, approval.workspace_id)


def checked(approval: Approval, by: User, response: JSONValue) -> list[JSONObject] | None:
    """What the answer changes of how the step is called, as a JSON Patch; None: nothing.

    Raises:
        ForOperators: it changes something, or aborts, and `by` may only decide.
        fixes.FixInvalid, fixes.DoesNotFit: the step may not be changed so.
    """
    fix = Fix.of(response)
    if (fix.patch or fix.action == ABORT) and not may_change(by, approval):
        raise ForOperators
    return fixing.checked(fix, approval.block_execution) or None if fix.patch else None
