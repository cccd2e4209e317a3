"""What a message says, whatever the channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.urls import reverse

from agentflow.api.templatetags.agentflow_ui import person, words
from agentflow.types import JSONValue
from executions.models import Compensation, Execution

from ..models import ANY_APPROVER, Approval
from ..states import ApprovalStatus
from .models import Delivery
from .states import Topic

TITLE_CHARS = 150
FACTS = 8  # shown in a mail; the page has all
FACT_CHARS = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")

HEADLINES = {
    Topic.REQUESTED: "Your answer is needed",
    Topic.REMINDER: "Still waiting for an answer",
    Topic.ESCALATED: "Passed on to you",
    Topic.DECIDED: "Decided",
    Topic.EXPIRED: "Nobody answered in time",
    Topic.WITHDRAWN: "No longer needed",
    Topic.COMMENTED: "New comment",
    Topic.GIVEN_UP: "Given up",
}


@dataclass(frozen=True, slots=True)
class Content:
    """One question, or an execution that was given up, as a message shows it."""

    delivery: Delivery
    approval: Approval | None
    workspace_name: str
    headline: str
    title: str
    description: str
    template_name: str
    block_name: str
    level: str
    simulated: bool
    outcome: str
    facts: list[tuple[str, str]]
    url: str  # of its page; empty where the service does not know its own address
    comment: str = ""
    links: Mapping[str, str] = field(default_factory=dict)  # what each answers with -> its address

    @property
    def waits(self) -> bool:
        return self.approval is not None and self.approval.status == ApprovalStatus.PENDING

    @property
    def about(self) -> list[str]:
        """Where it belongs."""
        parts = [self.template_name, self.block_name, self.level]
        return [part for part in parts if part] + (["simulated"] if self.simulated else [])

    @property
    def button(self) -> str:
        if self.approval is None:
            return "See the execution"
        return "Answer in the inbox" if self.waits else "See what was decided"

    @property
    def subject(self) -> str:
        return line(f"{self.headline}: {self.title}", TITLE_CHARS)


def content_of(delivery: Delivery, approval: Approval, links: Mapping[str, str] | None = None) -> Content:
    """`approval` with its execution, template and responder."""
    request = approval.request
    return Content(
        delivery=delivery,
        approval=approval,
        workspace_name=approval.workspace.name,
        headline=HEADLINES[Topic(delivery.topic)],
        title=title(approval),
        description=str(request.get("description") or "")[:2000],
        template_name=line(approval.execution.template_version.template.name, TITLE_CHARS),
        block_name=line(approval.block_name, TITLE_CHARS),
        level="any approver" if approval.level == ANY_APPROVER else f"level {approval.level}",
        simulated=approval.execution.simulated,
        outcome=outcome(approval),
        facts=_facts(request.get("facts")),
        url=inbox_url(approval),
        links=links or {},
        comment=_comment(delivery, approval)[:1000],
    )


UNDONE = {
    Compensation.DONE: "What it had done was undone.",
    Compensation.STOPPED: "Not all that it had done was undone: somebody stopped that.",
}


def content_of_execution(delivery: Delivery, execution: Execution) -> Content:
    """`execution` with its template and workspace; said is what held when it ended."""
    facts = delivery.facts
    undone = UNDONE.get(facts.get("compensation", ""), "There was nothing to undo.")
    template_name = line(execution.template_version.template.name, TITLE_CHARS)
    steps = ", ".join(str(each) for each in facts.get("blocks", ())[:FACTS])
    shown = {"Step": steps, "Code": facts.get("code"), "Business key": execution.business_key}
    return Content(
        delivery=delivery,
        approval=None,
        workspace_name=execution.workspace.name,
        headline=HEADLINES[Topic(delivery.topic)],
        title=template_name,
        description=line(facts.get("message", ""), FACT_CHARS),
        template_name=template_name,
        block_name="",
        level="",
        simulated=execution.simulated,
        outcome=f"The execution ended as failed. {undone}",
        facts=[(name, line(value, FACT_CHARS)) for name, value in shown.items() if value],
        url=execution_url(execution),
    )


def _comment(delivery: Delivery, approval: Approval) -> str:
    """What was said: under the question, or with its answer."""
    if delivery.topic != Topic.COMMENTED:
        return approval.comments
    return remark(approval, delivery.facts)


def title(approval: Approval) -> str:
    return line(approval.request.get("title") or f"Approve: {approval.block_name}?", TITLE_CHARS)


def remark(approval: Approval, facts: Mapping[str, Any]) -> str:
    """The comment that an event's facts name, and whose it is; empty where it is gone."""
    number: Any = facts.get("commentId")
    said = approval.remarks.filter(pk=number).select_related("user").first()
    return f"{person(said.user)}: {said.text}" if said else ""


def outcome(approval: Approval) -> str:
    """What became of a question; empty while it is open."""
    if approval.released:
        return "Released: those that were inspected for it were approved."
    who = person(approval.responder)
    return {
        ApprovalStatus.APPROVED: f"{who} approved this." if who else "Approved.",
        ApprovalStatus.REJECTED: f"{who} rejected this." if who else "Rejected.",
        ApprovalStatus.EXPIRED: "Nobody answered in time.",
        ApprovalStatus.CANCELLED: "It was withdrawn: the answer is no longer needed.",
    }.get(ApprovalStatus(approval.status), "")


def line(text: Any, most: int) -> str:
    """One line of text: nothing in it may end a header or a row."""
    found = _CONTROL.sub(" ", str(text)).strip()
    return found if len(found) <= most else found[: most - 1] + "…"


def inbox_url(approval: Approval) -> str:
    return address(reverse("inbox-question", args=[approval.pk]))


def execution_url(execution: Execution) -> str:
    return address(reverse("execution-page", args=[execution.pk]))


def address(path: str) -> str:
    """A path of this service as others reach it; empty where that is not known."""
    base: str = settings.AGENTFLOW_BASE_URL
    return base + path if base else ""


def host() -> str:
    """The right side of message ids."""
    return urlsplit(settings.AGENTFLOW_BASE_URL).hostname or "agentflow.invalid"


def _facts(given: JSONValue) -> list[tuple[str, str]]:
    if not isinstance(given, dict):
        return []
    shown = [(line(words(str(key)), 60), _short(value)) for key, value in given.items() if _plain(value)]
    return shown[:FACTS]


def _plain(value: JSONValue) -> bool:
    return isinstance(value, str | int | float | bool) and value != ""


def _short(value: JSONValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return line(value, FACT_CHARS)
