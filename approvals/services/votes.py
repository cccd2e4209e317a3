"""What each person said to a question, kept with the evidence for it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace

from django.db.models import Q, QuerySet
from django.utils import timezone

from agentflow.api import context
from agentflow.errors import InvalidInput, NotPermitted
from agentflow.governance.models import User
from agentflow.types import JSONObject, JSONValue
from executions.engine.facts import VersionFacts, facts_of

from .. import rights
from ..models import Approval, ApprovalKind, ApprovalVote, DecisionKind
from ..states import ApprovalStatus
from . import changes, gate, levels
from . import edits as editing
from .levels import ALL, ANY

D = DecisionKind
COMMENTS_CHARS = 10_000
_FILLED_IN = frozenset({ApprovalKind.INPUT, ApprovalKind.FIX, ApprovalKind.BUDGET})
_APPROVING = frozenset({D.APPROVE, D.EDIT, D.ANSWER})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person says to a question."""

    approved: bool
    response: JSONValue = None
    comments: str = ""
    edits: list[JSONObject] | None = None
    rework: bool = False

    def decision(self, kind: str) -> DecisionKind:
        if self.rework:
            return D.REWORK
        if not self.approved:
            return D.REJECT
        if self.edits:
            return D.EDIT
        return D.ANSWER if kind in _FILLED_IN else D.APPROVE


def keep(approval: Approval, by: User, answer: Answer, *, right: JSONObject, channel: str) -> None:
    ApprovalVote.objects.create(
        approval=approval,
        level=approval.level,
        level_index=approval.level_index,
        user=by,
        on_behalf_of_id=right.pop("onBehalfOfId", None),
        decision=answer.decision(approval.kind),
        response=answer.response,
        edits=answer.edits,
        comments=answer.comments,
        evidence=_evidence(approval, right),
        channel=channel,
    )


def _evidence(approval: Approval, right: JSONObject) -> JSONObject:
    """What was shown, by what right it was decided, and how long it took."""
    return {
        "contentHash": approval.content_hash,
        "request": approval.request,
        "inputSchema": approval.input_schema,
        "versionNumber": _version(approval).number,
        "attempt": approval.attempt,
        "permission": right,
        "seconds": round(max((timezone.now() - approval.level_since).total_seconds(), 0.0), 3),
        "requestId": context.current().request_id,
    }


def _version(approval: Approval) -> VersionFacts:
    facts = facts_of(approval.execution_id)
    assert facts is not None
    return facts.version


def known(approval: Approval, by: User) -> ApprovalVote | None:
    """What `by` has said to this, if that counts.

    Raises:
        NotPermitted: it is open, and a deputy has answered in the place of `by`.
    """
    found = list(approval.votes.filter(Q(user=by) | Q(on_behalf_of=by), counts=True))
    own = next((vote for vote in found if vote.user_id == by.pk), None)
    if found and own is None and approval.status == ApprovalStatus.PENDING:
        raise NotPermitted("This was answered in your place.", remedy="Leave it to the others who are asked.")
    return own


def same(vote: ApprovalVote, approved: bool, response: JSONValue, comments: str) -> bool:
    """Whether this is the answer that was taken, sent again."""
    if editing.has_edits(response) and vote.edits:
        with suppress(InvalidInput):
            response, _ = editing.applied(response, vote.evidence["request"])
    return (
        (vote.decision in _APPROVING) == approved
        and _canonical(vote.response) == _canonical(response)
        and vote.comments == comments
    )


def _canonical(value: JSONValue) -> str:
    """As text, because Python takes True for 1; numbers as PostgreSQL gives them back: 1e22 as an integer."""
    read = json.loads(json.dumps(value), parse_float=_number)
    return json.dumps(read, sort_keys=True)


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def level_agrees(approval: Approval) -> bool:
    """Whether enough of the present level have approved what is shown now; one has just done so."""
    if approval.quorum == ANY:
        return True
    yes = agreed(approval)
    if approval.quorum == ALL:
        people = {each for pair in yes for each in pair}
        return bool(yes) and rights.eligible(approval) <= people
    return len(yes) >= int(approval.quorum)


def agreed(approval: Approval) -> QuerySet[ApprovalVote, tuple[int, int | None]]:
    """Who has approved what is shown now at the present level, and in whose place."""
    yes = approval.votes.filter(level_index=approval.level_index, counts=True, decision__in=_APPROVING)
    return yes.values_list("user_id", "on_behalf_of_id")


def show_changed(approval: Approval, by: User, answer: Answer) -> None:
    """Let the others of the level, and those after, decide on the changed value.

    What was said at this level before was said to something else, and no longer counts.
    """
    approval.votes.filter(level_index=approval.level_index).exclude(user=by).update(counts=False)
    assert isinstance(answer.response, dict)
    before = approval.request
    approval.request = {**before, editing.EDITABLE: answer.response[editing.EDITED]}
    if approval.quorum == ANY and levels.following(approval) is None:
        approval.request = before  # nobody is left to see it
        return
    approval.changes = changes.between(before, approval.request)
    approval.content_hash = gate.content_hash(
        request=approval.request,
        input_schema=approval.input_schema,
        version_hash=_version(approval).content_hash,
        attempt=approval.attempt,
    )
    approval.save(update_fields=["request", "changes", "content_hash"])


def whole(approval: Approval, answer: Answer) -> Answer:
    """The answer that decides, with what others changed before."""
    alone = approval.quorum == ANY and approval.level_index == 0
    if answer.edits or alone or approval.kind == ApprovalKind.FIX:
        return answer
    if not approval.votes.filter(counts=True, decision=D.EDIT).exists():
        return answer
    rest = answer.response if isinstance(answer.response, dict) else {}
    edited = {**rest, editing.EDITED: approval.request[editing.EDITABLE]}
    last = approval.votes.filter(counts=True, decision=D.EDIT).latest("at")
    return replace(answer, response=edited, edits=last.edits)
