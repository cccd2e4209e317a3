"""What the page of one question shows: what is asked, what follows each answer, what has been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.utils import timezone

from agentflow.api.templatetags.agentflow_ui import person, words
from agentflow.governance import access
from agentflow.governance.models import User
from agentflow.governance.roles import Permission
from agentflow.types import JSONObject, JSONValue
from executions import facts

from . import budget, fix, inbox, picture, rights, selectors
from .models import ANY_APPROVER, CLAIM, Approval, ApprovalKind, DecisionKind, OnTimeout
from .services import handing, holding, rework, weighing
from .services.edits import EDITABLE
from .states import ApprovalStatus
from .words import AFTER_REJECTION, KINDS, OUTCOMES, money, outcome, question_of, urgency

ALIKE_MAX = 100
COLLEAGUES_MAX = 200
AGREEING = (DecisionKind.APPROVE, DecisionKind.EDIT, DecisionKind.ANSWER)
NAMES_MAX = 5  # of steps and people, before the rest is a number
HISTORY_MAX = 30


def detail(approval: Approval, user: User) -> dict[str, Any]:
    """All that the page of one question shows."""
    now = timezone.now()
    icon, kind_word, _ = KINDS[ApprovalKind(approval.kind)]
    look, outcome_icon = OUTCOMES.get(ApprovalStatus(approval.status), ("", ""))
    open_now = approval.status == ApprovalStatus.PENDING
    desk = inbox.Desk(user) if open_now else None
    may_decide = desk is not None and desk.rows.filter(pk=approval.pk).exists()
    approve_word, reject_word = answer_words(approval)
    editable = EDITABLE in approval.request
    about_budget = budget.shown(approval)
    about_fix = fix.shown(approval, user)
    stuck = fix.page(about_fix, user) if about_fix is not None else None
    change = fix.for_form(about_fix) if about_fix is not None and may_decide else None
    fixes = (about_budget or stuck or {"ways": []})["ways"]
    back = rework.offer(approval)
    follows = selectors.what_follows(approval) if open_now else None
    return {
        "approval": approval,
        "icon": icon,
        "kind_word": kind_word,
        "question": question_of(approval),
        "description": str(approval.request.get("description") or ""),
        "template_name": approval.execution.template_version.template.name,
        "block_name": approval.block_name,
        "urgency": urgency(approval, now),
        "holds": f"Holds {approval.holds} steps" if approval.holds > 1 else f"Holds {approval.block_name}",
        "spent": money(approval.spent),
        "level_word": "Any approver" if approval.level == ANY_APPROVER else f"Level {approval.level}",
        "alike": _alike(approval, desk) if desk is not None and may_decide else "",
        "quorum": _quorum(approval),
        **_hands(approval, user, open_now=may_decide),
        "changes": changed(approval),
        "facts": shown_facts(approval) if about_budget is None else [],
        "outcome": outcome(approval) if not open_now else "",
        "outcome_look": look,
        "outcome_icon": outcome_icon,
        "newer": None if open_now else holding.newer(approval),
        "may_decide": may_decide,
        "who_decides": _who_decides(approval, user),
        "approve_word": approve_word,
        "reject_word": reject_word,
        "fixes": fixes,
        "budget": about_budget,
        "fix": stuck,
        "change": change is not None,
        "back": back,
        "back_over": used_up(back) if back is not None and not back.left else "",
        "follows": [*_paths(approval, follows), *_sent_back(approval, back)] if follows is not None else [],
        "picture": picture.of(approval) if open_now else None,
        "history": _history(approval),
        "ask": {
            "id": str(approval.pk),
            "kind": approval.kind,
            "contentHash": approval.content_hash,
            "inputSchema": change["schema"] if change is not None else approval.input_schema,
            "form": not fixes and bool(approval.input_schema or editable),
            "editable": _editable(approval, change),
            "change": change,
            "approveWord": approve_word,
            "again": _again(approval, back),
            "once": follows is not None and any(step.once for step in follows.approve),
        },
    }


def _editable(approval: Approval, change: JSONObject | None) -> JSONValue:
    """The value that the form shows; of a step that is changed the input that it was called with."""
    return change["values"] if change is not None else approval.request.get(EDITABLE)


def _alike(approval: Approval, desk: inbox.Desk) -> str:
    """How many others of the same step wait; empty: none."""
    count = len(inbox.alike(desk, approval).values("pk")[: ALIKE_MAX + 2]) - 1
    if count < 1:
        return ""
    return f"over {ALIKE_MAX}" if count > ALIKE_MAX else str(count)


def _quorum(approval: Approval) -> str:
    """How many have agreed of how many who must; empty where one is enough."""
    if approval.quorum == "any":
        return ""
    agreed = approval.votes.filter(
        counts=True, level_index=approval.level_index, decision__in=AGREEING
    ).count()
    return f"{agreed} of all" if approval.quorum == "all" else f"{agreed} of {approval.quorum}"


def _hands(approval: Approval, user: User, *, open_now: bool) -> dict[str, Any]:
    """Who is at it, who else is asked, and to whom it can be given."""
    holder = handing.holder(approval)
    found: dict[str, Any] = {"holder": holder, "mine": holder is not None and holder == user}
    if approval.claimed_at is not None:
        found["held_until"] = approval.claimed_at + CLAIM
    if not open_now:
        return found
    asked = rights.eligible(approval)
    colleagues = access.holders(Permission.DECIDE, [approval.workspace_id]).exclude(pk=user.pk)
    people = list(colleagues.order_by("first_name", "username")[:COLLEAGUES_MAX])
    others = [person(one) for one in people if one.pk in asked]
    more = len(asked - {user.pk}) - len(others[:NAMES_MAX])
    named = ", ".join(others[:NAMES_MAX])
    return found | {
        "others": f"{named} and {more} more" if more > 0 else named,
        "colleagues": [(one.get_username(), person(one)) for one in people],
    }


def answer_words(approval: Approval) -> tuple[str, str]:
    return ("Send answer", "Refuse") if approval.kind == ApprovalKind.INPUT else ("Approve", "Reject")


# -- what is asked ------------------------------------------------------------------


class Change(NamedTuple):
    label: str
    before: JSONValue
    after: JSONValue


def changed(approval: Approval) -> list[Change]:
    """What is shown otherwise than when it was last asked."""
    return [
        Change(_label(str(one.get("pointer", ""))), one.get("before"), one.get("after"))
        for one in approval.changes
        if isinstance(one, dict)
    ]


def _label(pointer: str) -> str:
    """`/facts/order/amount` is `Order, amount` for people."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    names = parts[1:] if parts[:1] == ["facts"] else parts
    return words(", ".join(names)) if names else "The question"


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    value: JSONValue
    changed: bool = False
    before: JSONValue = None


def shown_facts(approval: Approval) -> list[Fact]:
    """What the decision rests on; what is otherwise than when it was last asked says so."""
    given: JSONValue = approval.request.get("facts")
    error: JSONValue = approval.request.get("error")
    before = {one.label: one.before for one in changed(approval)}
    if isinstance(given, dict) and approval.calls:
        given = {**given, "calls": approval.calls}
    shown = [
        Fact(words(str(key)), value, words(str(key)) in before, before.get(words(str(key))))
        for key, value in (given.items() if isinstance(given, dict) else ())
        if value not in (None, "", [], {})
    ]
    if isinstance(error, dict):
        about = [
            ("Error", error.get("message")),
            ("Error kind", error.get("kind")),
            ("Error code", error.get("code")),
        ]
        return [Fact(label, value) for label, value in about if value] + shown
    return shown


def _who_decides(approval: Approval, user: User) -> str:
    if not access.can(user, Permission.DECIDE, approval.workspace_id):
        return "it takes an approver of the workspace"
    return f"it takes a member of the level {approval.level}"


# -- what follows -------------------------------------------------------------------


_IF = {
    ApprovalKind.INPUT: ("If you answer", "If you refuse"),
    ApprovalKind.BUDGET: ("If it goes on", "If you stop"),
}


def _paths(approval: Approval, follows: selectors.Follows) -> list[JSONObject]:
    known = _blocks(approval)
    behind = weighing.behind(known, approval.block_id)
    paths: list[JSONObject] = []
    if approval.kind != ApprovalKind.FIX:
        title, refused = _IF.get(ApprovalKind(approval.kind), ("If you approve", "If you reject"))
        steps = _approved(follows, known)
        paths.append({"key": "approve", "icon": "check", "title": title, "steps": steps})
        paths.append(
            {
                "key": "reject",
                "icon": "x",
                "title": refused,
                "steps": _refused(follows, known, behind),
            }
        )
    steps = _unanswered(approval)
    paths.append(
        {"key": "timeout", "icon": "hourglass", "title": "If nobody answers in time", "steps": steps}
    )
    return paths


def _unanswered(approval: Approval) -> list[JSONObject]:
    """Who is asked next, level by level, and what becomes of it in the end."""
    later = [str(level.get("level", "")) for level in approval.levels[approval.level_index + 1 :]]
    steps: list[JSONObject] = [
        {"icon": "users", "name": "Any approver is asked" if level == ANY_APPROVER else f"{level} is asked"}
        for level in later[:NAMES_MAX]
    ]
    icon, name = UNANSWERED[OnTimeout(approval.on_timeout)]
    return [*steps, {"icon": icon, "name": name, "note": "if nobody there answers either" if steps else ""}]


UNANSWERED = {
    OnTimeout.FAIL: ("x", "The step fails"),
    OnTimeout.APPROVE: ("check", "It counts as approved"),
    OnTimeout.REJECT: ("x", "It counts as rejected"),
    OnTimeout.WAIT: ("clock-pause", "It keeps waiting"),
}


def _refused(
    follows: selectors.Follows, known: dict[str, facts.BlockFacts], behind: set[str]
) -> list[JSONObject]:
    """What a refusal leads to, what runs all the same, and what ends."""
    steps: list[JSONObject] = [
        {"icon": "x" if follows.on_reject == "fail" else "point", "name": AFTER_REJECTION[follows.on_reject]},
        *_steps(follows.reject),
    ]
    reached = {step.block_id for step in follows.reject}
    for step in follows.reject:
        reached |= weighing.behind(known, step.block_id)
    left_out = [known[block_id].name for block_id in known if block_id in behind - reached]
    if left_out:
        named = ", ".join(left_out[:NAMES_MAX])
        more = len(left_out) - NAMES_MAX
        note = f"{named} and {_count(more)} more" if more > 0 else named
        name = f"Left out: {_count(len(left_out))}"
        steps.append({"icon": "player-skip-forward", "name": name, "note": note})
    if follows.on_reject == "fail" and not follows.reject:
        steps.append({"icon": "ban", "name": "The workflow fails, once its other steps are done"})
    return steps


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _approved(follows: selectors.Follows, known: dict[str, facts.BlockFacts]) -> list[JSONObject]:
    named = [*follows.approve, *follows.then[:NAMES_MAX]]
    reached = {step.block_id for step in (*follows.approve, *follows.then)}
    for step in follows.then or follows.approve:
        reached |= weighing.behind(known, step.block_id)
    more = len(reached) - len(named)
    steps = _steps(named)
    if more > 0:
        steps.append({"icon": "dots", "name": f"Then {_count(more)}"})
    return steps or [{"icon": "circle-check", "name": "Nothing follows this step"}]


def _steps(steps: Iterable[selectors.Step]) -> list[JSONObject]:
    return [
        {
            "icon": "player-play",
            "name": step.name,
            "note": "if the workflow takes this way" if step.maybe else "",
            "tag": "Cannot be undone" if step.once else "",
        }
        for step in steps
    ]


def _sent_back(approval: Approval, offer: rework.Offer | None) -> list[JSONObject]:
    """What runs again when nothing else is chosen, and how often that may still be."""
    if offer is None:
        return []
    known = _blocks(approval)
    usual = [way for way in offer.ways if way.usual]
    again = dict.fromkeys(block_id for way in usual for block_id in way.again)
    steps: list[JSONObject] = [
        {"icon": "refresh", "name": f"{known[block_id].name} runs again"} for block_id in [*again][:NAMES_MAX]
    ]
    if len(again) > NAMES_MAX:
        steps.append({"icon": "dots", "name": f"And {_count(len(again) - NAMES_MAX)} more"})
    if usual and any(way.repeats for way in usual):
        steps[-1]["tag"] = "Cannot be undone"
    times = "once" if offer.left == 1 else f"{offer.left} times"
    asked = {
        "icon": "user-check",
        "name": "Then you are asked again",
        "note": f"It can be sent back {times} more",
    }
    steps.append(asked if offer.left else {"icon": "ban", "name": used_up(offer)})
    return [{"key": "rework", "icon": "arrow-back-up", "title": "If you send it back", "steps": steps}]


def _again(approval: Approval, offer: rework.Offer | None) -> dict[str, list[str]]:
    """What runs again by each block that it may be sent back to, as people call it."""
    known = _blocks(approval) if offer is not None else {}
    ways = offer.ways if offer is not None else ()
    return {way.block_id: [known[each].name for each in way.again] for way in ways}


def used_up(offer: rework.Offer) -> str:
    return f"It was sent back {offer.done} of {offer.most} times: no more"


def _blocks(approval: Approval) -> dict[str, facts.BlockFacts]:
    return facts.of_version(approval.execution.template_version_id)


# -- what has been ------------------------------------------------------------------


class Happened(NamedTuple):
    at: datetime
    text: str
    said: str = ""


def _history(approval: Approval) -> list[Happened]:
    """Asked, said, taken, decided: the oldest first, and the questions about the same step before it."""
    happened = [Happened(approval.requested_at, _asked(approval))]
    for vote in approval.votes.select_related("user", "on_behalf_of")[:HISTORY_MAX]:
        who = person(vote.user)
        if vote.on_behalf_of is not None:
            who = f"{who} for {person(vote.on_behalf_of)}"
        said = VOTED[DecisionKind(vote.decision)]
        happened.append(Happened(vote.at, f"{who} {said}", vote.comments))
    happened += [
        Happened(remark.at, f"{person(remark.user)} wrote", remark.text)
        for remark in approval.remarks.select_related("user").order_by("-at")[:HISTORY_MAX]
    ]
    if approval.claimed_by is not None and approval.claimed_at is not None:
        happened.append(Happened(approval.claimed_at, f"{person(approval.claimed_by)} took it"))
    happened += [
        Happened(given.at, f"{person(given.delegated_by)} gave it to {person(given.user)}", given.reason)
        for given in approval.assignees.select_related("user", "delegated_by").exclude(delegated_by=None)
    ]
    answered = not approval.released and approval.status in {ApprovalStatus.APPROVED, ApprovalStatus.REJECTED}
    if approval.closed_at and not (answered and len(happened) > 1 and approval.quorum == "any"):
        happened.append(Happened(approval.closed_at, outcome(approval)))
    return sorted([*_earlier(approval), *happened])


VOTED = {
    DecisionKind.APPROVE: "approved",
    DecisionKind.EDIT: "approved with changes",
    DecisionKind.ANSWER: "answered",
    DecisionKind.REJECT: "rejected",
    DecisionKind.REWORK: "sent it back",
}


def _asked(approval: Approval) -> str:
    whom = "any approver" if approval.level == ANY_APPROVER else f"level {approval.level}"
    return f"Asked after try {approval.attempt}, {whom}" if approval.attempt > 1 else f"Asked, {whom}"


def _earlier(approval: Approval) -> list[Happened]:
    """What became of the questions that this step asked before."""
    rows = Approval.objects.filter(
        execution=approval.execution_id, block_id=approval.block_id, requested_at__lt=approval.requested_at
    )
    closed = rows.exclude(closed_at=None).select_related("responder").defer("request", "input_schema")
    return [
        Happened(one.closed_at, f"Before: {outcome(one)}", one.comments)
        for one in closed.order_by("-closed_at")[:NAMES_MAX]
        if one.closed_at is not None
    ]
