"""The words and looks of questions, for lists and pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from agentflow.api.templatetags.agentflow_ui import person

from .inbox import SOON
from .models import Approval, ApprovalKind, DecisionKind
from .states import BY_OPERATOR, STALE, ApprovalStatus

KINDS = {  # icon, what it is called, what the list says about it
    ApprovalKind.APPROVAL: ("user-check", "Approval", "approve or reject"),
    ApprovalKind.INPUT: ("forms", "Form", "fill in a form"),
    ApprovalKind.REVIEW: ("eye", "Review", "check before it flows on"),
    ApprovalKind.EDIT: ("pencil", "Edit", "change what was given"),
    ApprovalKind.FIX: ("bandage", "Stuck step", "pick a way on"),
    ApprovalKind.TOOL: ("plug", "Tool call", "an agent wants to use a tool"),
    ApprovalKind.BUDGET: ("coin", "Budget", "extend it, go on cheaper, or stop"),
}
OUTCOMES = {  # look, icon
    ApprovalStatus.APPROVED: ("completed", "circle-check"),
    ApprovalStatus.REJECTED: ("failed", "x"),
    ApprovalStatus.EXPIRED: ("human", "hourglass"),
    ApprovalStatus.CANCELLED: ("", "ban"),
}
AFTER_REJECTION = {
    "fail": "The step fails",
    "skip": "The step is skipped",
    "continue": "The workflow goes on and knows that you refused",
}


def urgency(approval: Approval, now: datetime) -> str:
    if approval.respond_by <= now:
        return "bad"
    return "warn" if approval.respond_by <= now + SOON else ""


def question_of(approval: Approval) -> str:
    return str(approval.request.get("title") or f"Approve: {approval.block_name}?")


def outcome(approval: Approval) -> str:
    """What became of a question, in a few words."""
    if approval.released and approval.sample is not None:
        return f"Released by sample: {approval.sample.inspect} of {approval.sample.of} were inspected"
    who = person(approval.responder) if approval.responder else ""
    if approval.decision == DecisionKind.REWORK:
        return f"{who} sent this back"
    if approval.reason == STALE:
        return "Asked again, because what it showed has changed"
    if approval.reason == BY_OPERATOR:
        return "An operator withdrew this"
    if approval.status == ApprovalStatus.APPROVED:
        return f"{who} {'approved' if approval.kind == ApprovalKind.APPROVAL else 'answered'} this"
    return {
        ApprovalStatus.REJECTED: f"{who} rejected this",
        ApprovalStatus.EXPIRED: "Nobody answered in time",
        ApprovalStatus.CANCELLED: "Withdrawn: the answer is no longer needed",
    }[ApprovalStatus(approval.status)]


def money(spent: Mapping[str, float]) -> str:
    """`0.42 USD`, of each currency."""
    return ", ".join(f"{amount:,.2f} {currency}" for currency, amount in sorted(spent.items()))
