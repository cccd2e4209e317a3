"""The five meanings of failure.  Only `agentflow.api` knows which HTTP status each becomes."""

from __future__ import annotations

from typing import Any, ClassVar


class AgentflowError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    remedy: ClassVar[str] = ""

    def __init__(self, message: str = "", *, remedy: str = "", **facts: Any) -> None:
        self.message = message or (type(self).__doc__ or "").strip().split("\n")[0]
        self.remedy_text = remedy or self.remedy
        self.facts = facts
        super().__init__(self.message)


class InvalidInput(AgentflowError):
    """The request cannot be understood or breaks a rule.

    `issues` lists every problem found, each with a JSON pointer, so that a client mends all at once.
    """

    code = "invalid_input"

    def __init__(
        self,
        message: str = "",
        *,
        pointer: str = "",
        issues: list[dict[str, Any]] | None = None,
        remedy: str = "",
        **facts: Any,
    ) -> None:
        super().__init__(message, remedy=remedy, **facts)
        self.pointer = pointer
        self.issues = issues or []


class Unprocessable(InvalidInput):
    """The request can be understood, but what it describes cannot work."""

    code = "unprocessable"


class NotPermitted(AgentflowError):
    """You may see this, but not do that with it."""

    code = "not_permitted"


class NotFound(AgentflowError):
    """There is no such object, or you may not see it."""

    code = "not_found"


class Conflict(AgentflowError):
    """The object is not in a state that allows this."""

    code = "conflict"


class Gone(Conflict):
    """What was here is over for good."""

    code = "gone"


class PreconditionFailed(Conflict):
    """The object is no longer as the request takes it to be."""

    code = "precondition_failed"


class Unavailable(AgentflowError):
    """A service this needs does not answer just now."""

    code = "unavailable"
