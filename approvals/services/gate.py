"""Opening and withdrawing questions, on behalf of the engine and in its transactions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from agentflow.events import store
from agentflow.types import JSONObject, JSONValue
from executions.engine.facts import facts_of
from executions.models import BlockExecution, Timer, TimerKind
from executions.ports import Decision, HumanAsk
from executions.states import BlockStatus
from templates_app import selectors as templates

from ..models import Approval, ApprovalKind, ApprovalPolicy, DecisionKind
from ..states import APPROVAL, STALE, ApprovalStatus
from . import changes, levels, policies, sampling, successive, swapping, times, weighing

S = ApprovalStatus
K = ApprovalKind
OF_THE_MOMENT = frozenset(
    {K.FIX, K.TOOL, K.BUDGET}
)  # the engine's own: no decision about them is taken again
BARRING = frozenset({K.APPROVAL, K.REVIEW, K.TOOL, K.BUDGET})  # that agree to something, and fill in nothing
GATES = frozenset({"approval", "review"})
TITLE_CHARS = 200  # of a title in an event: events are hints


def timer_key(approval_id: UUID) -> str:
    return f"{TimerKind.APPROVAL_TIMEOUT}:{approval_id}"


def content_hash(*, request: JSONObject, input_schema: JSONObject, version_hash: str, attempt: int) -> str:
    """SHA-256 over all that a person sees and what it stands for, as canonical JSON."""
    seen = {
        "request": request,
        "inputSchema": input_schema,
        "versionHash": version_hash,
        "attempt": attempt,
    }
    text = json.dumps(seen, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Gate:
    """Binds `executions.ports.human_gate`.  The caller holds the execution's lock."""

    def unasked(self) -> int:
        waiting = BlockExecution.objects.filter(
            status=BlockStatus.WAITING_HUMAN,
            execution__completed_at=None,
            execution__epoch=F("epoch"),
        )
        asked = Approval.objects.filter(block_execution=OuterRef("pk"), status=S.PENDING)
        return waiting.exclude(Exists(asked)).count()

    def open(self, asks: Sequence[HumanAsk]) -> None:
        """Ask all of these, each with its timer and its event."""
        if asks:
            self._ask(asks, asked_before(asks))

    def _ask(self, asks: Sequence[HumanAsk], before: Mapping[int, Approval]) -> None:
        """`before` are the questions whose places they take, by the block."""
        desk = Desk(asks, before)
        prepared = [desk.prepare(ask) for ask in asks]
        approvals = Approval.objects.bulk_create([approval for approval, _ in prepared])
        Timer.objects.bulk_create(_timer(approval, due, desk) for approval, due in prepared)
        levels.assign(approvals)
        store.append_many([_event("approval_requested", approval) for approval in approvals])
        _poke(approvals)

    def decisions(self, *, execution_id: UUID, epoch: int, idx: int) -> dict[int, Decision]:
        rows = BlockExecution.objects.filter(execution=execution_id, epoch=epoch, idx=idx)
        iterations = {
            origin or pk: iteration
            for pk, origin, iteration in rows.values_list("pk", "carried_from", "iteration")
        }
        answered = Approval.objects.filter(
            block_execution__in=list(iterations), status__in=[S.APPROVED, S.REJECTED]
        ).exclude(Q(kind__in=OF_THE_MOMENT) | Q(decision=DecisionKind.REWORK))
        return {
            iterations[approval.block_execution_id]: Decision(
                approval_id=approval.pk,
                content_hash=approval.content_hash,
                approved=approval.status == S.APPROVED,
                response=approval.response,
            )
            for approval in answered.order_by("closed_at").defer("request", "input_schema")
        }

    def content_hash(self, ask: HumanAsk) -> str:
        return _hash_of(ask)

    def carry(self, asks: Sequence[tuple[HumanAsk, Decision]]) -> None:
        """Each becomes an approval of its own, with the person and the moment of the one answered."""
        answered = Approval.objects.select_related("responder").in_bulk(
            [decision.approval_id for _, decision in asks]
        )
        desk = Desk([ask for ask, _ in asks], weigh=False)
        approvals = Approval.objects.bulk_create(
            [_carried(desk.prepare(ask)[0], answered[decision.approval_id]) for ask, decision in asks]
        )
        store.append_many([_carried_event(approval) for approval in approvals])
        _poke(approvals)

    def stale(self, asks: Sequence[HumanAsk]) -> Sequence[HumanAsk]:
        shown = self._open_about(asks)
        return [
            ask for ask in asks if ask.block_pk in shown and shown[ask.block_pk].content_hash != _hash_of(ask)
        ]

    def renew(self, asks: Sequence[HumanAsk]) -> None:
        before = self._open_about(asks)
        for approval in before.values():
            self.cancel(
                execution_id=approval.execution_id,
                block_pks=[approval.block_execution_id],
                reason=STALE,
            )
        self._ask(asks, before)

    def _open_about(self, asks: Sequence[HumanAsk]) -> dict[int, Approval]:
        rows = Approval.objects.filter(
            block_execution__in=[ask.block_pk for ask in asks], status=S.PENDING
        ).exclude(kind__in=OF_THE_MOMENT)
        return {approval.block_execution_id: approval for approval in rows}

    def cancel(self, *, execution_id: UUID, block_pks: Sequence[int] | None, reason: str) -> None:
        """Withdraw what is open; an answer that came first stands."""
        rows = Approval.objects.filter(execution_id=execution_id)
        if block_pks is not None:
            rows = rows.filter(block_execution_id__in=list(block_pks))
        withdrawn = withdraw(rows, reason=reason)
        if not withdrawn:
            return
        drop_timers([approval.pk for approval in withdrawn])
        successive.withdrawn(withdrawn)
        store.append_many([_event("approval_cancelled", approval, reason=reason) for approval in withdrawn])
        _poke(withdrawn)


def withdraw(rows: QuerySet[Approval], *, reason: str) -> list[Approval]:
    """Move the open ones among `rows` to cancelled; gives those that were moved."""
    leaving = APPROVAL.leaving(S.CANCELLED)
    moved = list(
        rows.filter(status__in=leaving)
        .order_by("pk")
        .select_for_update(no_key=True)
        .defer("request", "input_schema")
    )
    Approval.objects.filter(pk__in=[approval.pk for approval in moved], status__in=leaving).update(
        status=S.CANCELLED, closed_at=Now(), reason=reason, version=F("version") + 1
    )
    for approval in moved:
        approval.status = S.CANCELLED
    return moved


def drop_timers(approval_ids: Sequence[UUID]) -> None:
    Timer.objects.filter(key__in=[timer_key(approval_id) for approval_id in approval_ids]).delete()


def tell(type: str, approval: Approval, **facts: JSONValue) -> None:
    """Record an event of one approval and wake those who watch."""
    tell_all(type, [approval], **facts)


def tell_all(type: str, approvals: Sequence[Approval], **facts: JSONValue) -> None:
    """The same of many, of as many executions."""
    store.append_many([_event(type, approval, **facts) for approval in approvals])
    _poke(approvals)


def _timer(approval: Approval, due: times.Times, desk: Desk) -> Timer:
    """For the first reminder or the end; at once, or soon, where the clock has to look at it before."""
    timer = Timer(
        kind=TimerKind.APPROVAL_TIMEOUT,
        key=timer_key(approval.pk),
        execution_id=approval.execution_id,
        subject=approval.pk,
        due_at=due.timer_at,
    )
    if desk.released(approval):
        timer.due_at = Now()
    elif approval.calls and levels.present(approval).timeout_ms > swapping.LOOK_S * 1000:
        timer.due_at = Now() + timedelta(seconds=swapping.LOOK_S)
        timer.progress = swapping.BROUGHT_FORWARD
    return timer


class Desk:
    """Makes questions of one workspace; what they have in common is read once."""

    def __init__(
        self,
        asks: Sequence[HumanAsk],
        before: Mapping[int, Approval] | None = None,
        *,
        weigh: bool = True,
    ) -> None:
        workspace_id = asks[0].workspace_id
        self._policy = policies.policy_of(workspace_id)
        self._book = levels.Book(workspace_id)
        self._barred: dict[UUID, dict[str, str]] = {}
        self._before = before or {}
        places = [(ask.execution_id, ask.block_id) for ask in asks]
        self._weights = weighing.weigh(places) if weigh else {}
        self._drawn = sampling.drawn(asks, carried=not weigh)

    def released(self, approval: Approval) -> bool:
        """Whether a sample that has passed answers for it: then nobody needs to, and the clock closes it."""
        drawn = self._drawn.get(approval.block_execution_id)
        return drawn is not None and drawn.released

    def prepare(self, ask: HumanAsk) -> tuple[Approval, times.Times]:
        """The question as a row to be stored, and its times."""
        ladder = self._book.resolve(ask)
        first = ladder[0]
        weight = self._weights.get((ask.execution_id, ask.block_id), weighing.ALONE)
        due = times.times(first, self._policy)
        before = self._before.get(ask.block_pk)
        drawn = self._drawn.get(ask.block_pk)
        approval = Approval(
            workspace_id=ask.workspace_id,
            execution_id=ask.execution_id,
            block_execution_id=ask.block_pk,
            block_id=ask.block_id,
            block_name=ask.block_name or ask.block_id,
            attempt=ask.attempt,
            kind=ask.kind,
            request=ask.request,
            input_schema=ask.input_schema,
            content_hash=_hash_of(ask),
            levels=[level.as_json() for level in ladder],
            on_timeout=ask.on_timeout,
            barred=self._bars(ask) if ask.kind in BARRING else {},
            respond_by=due.respond_by,
            due_soon_at=due.due_soon_at,
            supersedes=before.pk if before is not None else None,
            changes=changes.between(before.request, ask.request) if before is not None else [],
            holds=weight.holds,
            spent=weight.spent,
            pulled_s=weight.pulled_s,
            calls=ask.request.get("calls", ""),
            sample=drawn.sample if drawn is not None else None,
            inspected=drawn is not None and drawn.inspected,
            sample_place=drawn.place if drawn is not None else None,
            **levels.columns(first),
        )
        return approval, due

    def _bars(self, ask: HumanAsk) -> dict[str, str]:
        """Who would decide about their own request, or pass the only gate of their own template."""
        if ask.execution_id not in self._barred:
            self._barred[ask.execution_id] = barred_from(ask.execution_id, self._policy)
        return self._barred[ask.execution_id]


def asked_before(asks: Sequence[HumanAsk]) -> dict[int, Approval]:
    """What people were last asked about these blocks before a restart, by the block as it is now."""
    now = BlockExecution.objects.filter(
        pk__in=[ask.block_pk for ask in asks if ask.kind not in OF_THE_MOMENT]
    )
    places = {
        (execution_id, idx, iteration): pk
        for pk, execution_id, epoch, idx, iteration in now.values_list(
            "pk", "execution_id", "epoch", "idx", "iteration"
        )
        if epoch > 1
    }
    if not places:
        return {}
    found: dict[int, Approval] = {}
    rows = Approval.objects.filter(
        execution__in={execution_id for execution_id, _, _ in places},
        block_execution__idx__in={idx for _, idx, _ in places},
        block_execution__iteration__in={iteration for _, _, iteration in places},
    ).exclude(kind__in=OF_THE_MOMENT)
    for approval in rows.select_related("block_execution").order_by("requested_at"):
        row = approval.block_execution
        pk = places.get((row.execution_id, row.idx, row.iteration))
        if pk is not None and pk != row.pk:
            found[pk] = approval
    return found


def barred_from(execution_id: UUID, policy: ApprovalPolicy) -> dict[str, str]:
    facts = facts_of(execution_id)
    assert facts is not None
    found: dict[str, str] = {}
    gates = sum(block.human is not None and block.human.type in GATES for block in facts.plan.blocks)
    if not policy.own_templates and gates == 1:
        authors = templates.authors(facts.version.template_id, up_to=facts.version.number)
        found |= {str(author): "own_template" for author in authors}
    if not policy.own_requests and facts.created_by_id is not None:
        found[str(facts.created_by_id)] = "own_request"
    return found


def _hash_of(ask: HumanAsk) -> str:
    return content_hash(
        request=ask.request,
        input_schema=ask.input_schema,
        version_hash=ask.version_hash,
        attempt=ask.attempt,
    )


def _carried(approval: Approval, answered: Approval) -> Approval:
    approval.status = answered.status
    approval.responder = answered.responder
    approval.response = answered.response
    approval.decision = answered.decision
    approval.comments = answered.comments
    approval.responded_at = answered.responded_at
    approval.carried_from = answered.carried_from or answered.pk
    approval.closed_at = Now()
    return approval


def _carried_event(approval: Approval) -> store.NewEvent:
    assert approval.responder is not None  # a constraint of the table
    return _event(
        "approval_carried",
        approval,
        approved=approval.status == S.APPROVED,
        approver=approval.responder.get_username(),
        carriedFrom=str(approval.carried_from),
    )


def _event(type: str, approval: Approval, **facts: JSONValue) -> store.NewEvent:
    """The facts that every approval event carries: enough to update a list, never what was asked."""
    payload: JSONObject = {
        "approvalId": str(approval.pk),
        "kind": approval.kind,
        "level": approval.level,
        "status": str(approval.status),
        "blockName": approval.block_name[:TITLE_CHARS],
        **facts,
    }
    return store.NewEvent(
        type=type,
        workspace_id=approval.workspace_id,
        execution_id=approval.execution_id,
        block_id=approval.block_id,
        payload=payload,
    )


def _poke(approvals: Sequence[Approval]) -> None:
    for execution_id in {approval.execution_id for approval in approvals}:
        store.poke(execution_id=execution_id)
    store.poke(approvals=bool(approvals))
