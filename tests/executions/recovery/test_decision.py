"""What is decided about a failure, tried with everything that a policy can say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.types import JSONObject
from agentflow.workflow.definition import Recovery, RetryPolicy
from agentflow.workflow.failures import Failure, FailureKind
from executions.recovery.decision import Candidates, Cause, History, Policy, Strategy, decide
from executions.recovery.ordering import Experience, Tried, learned
from tests import work

REPEATS = {Strategy.RETRY, Strategy.REASSIGN, Strategy.QUEUE, Strategy.RESTART}
RUNGS = ["retry", "reassign", "queue", "restart", "ask", "compensate", "fail"]
LAST = ["ask", "compensate", "fail"]

ladders = st.none() | st.lists(st.sampled_from(RUNGS), min_size=1, max_size=7)
last = st.none() | st.sampled_from(LAST).map(lambda rung: [rung])
recoveries = st.fixed_dictionaries(
    {
        "transient": ladders,
        "agent": ladders,
        "configuration": ladders,
        "critical": last,
        "unknownOutcome": last,
        "maxReassignments": st.none() | st.integers(0, 20),
        "maxRestarts": st.none() | st.integers(0, 10),
        "adaptive": st.none() | st.booleans(),
    }
).map(Recovery.model_validate)
policies = st.builds(
    Policy,
    retry=st.builds(
        RetryPolicy,
        max_retries=st.integers(0, 20),
        retry_conditions=st.sets(
            st.sampled_from(["transient", "agent", "configuration", "critical", "c"])
        ).map(tuple),
        on_exhausted=st.sampled_from(["ask", "fail"]),
    ),
    recovery=recoveries,
    on_unknown=st.sampled_from([Strategy.ASK, Strategy.FAIL]),
    compensates=st.booleans(),
)
failures = st.builds(
    Failure,
    kind=st.sampled_from(FailureKind),
    code=st.sampled_from(["c", "worker_lost", "poison", "timeout"]),
    message=st.just("said"),
    retry_after_s=st.none() | st.floats(0, 86400),
    outcome_unknown=st.booleans(),
)
effects = st.sampled_from(["pure", "keyed", "once"])
candidates = st.builds(
    Candidates,
    agents=st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    point=st.none() | st.integers(1, 9),
    reassigned=st.booleans(),
)
tried = st.builds(
    lambda recovered, failed, seconds: Tried(recovered + failed, recovered, seconds),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.floats(0, 1e9),
)
experiences = st.none() | st.dictionaries(st.sampled_from(RUNGS), tried).map(
    lambda known: Experience("template", "agent", "c", known)
)


@given(policies, st.lists(st.tuples(failures, candidates, experiences), min_size=1), effects)
def test_whatever_fails_comes_to_a_person_or_to_an_end_and_repeats_no_effect_twice(
    policy: Policy, course: list[tuple[Failure, Candidates, Experience | None]], effect: str
) -> None:
    """The same failures come again and again: the decisions go on by themselves only so often.

    Whatever was learned: the order changes only where the policy lets it, and only among what goes on.
    """
    used: Counter[Strategy] = Counter()
    history = History(effect=effect)
    most = policy.retry.max_retries + policy.recovery.reassignments + policy.recovery.restarts + 10 + 3
    for step in range(most + 1):
        failure, found, experience = course[step % len(course)]
        history = replace(
            history,
            used=used,
            crashes=history.crashes + (failure.code == "worker_lost"),
            bound=history.bound or (failure.outcome_unknown and effect != "pure"),
            experience=experience,
        )
        decision = decide(failure, policy, history, found)
        if decision.learned:
            assert policy.recovery.adaptive
            assert decision.cause in (Cause.TRANSIENT, Cause.AGENT, Cause.CONFIGURATION)
            written, order = decision.learned["written"], decision.learned["order"]
            assert sorted(written) == sorted(order)
            kept = {"ask", "compensate", "fail", "restart"}
            assert [rung in kept and rung for rung in written] == [rung in kept and rung for rung in order]
        if failure.outcome_unknown and effect == "once":
            assert decision.strategy not in REPEATS
        if history.bound:
            assert decision.strategy is not Strategy.REASSIGN
        if failure.code == "poison" and decision.cause is not Cause.UNKNOWN_OUTCOME:
            assert decision.strategy is Strategy.ASK
        if policy.compensates:
            assert decision.strategy not in (Strategy.FAIL, Strategy.COMPENSATE, Strategy.RESTART)
        assert decision.after_s >= 0
        assert decision.as_json()["strategy"] in RUNGS
        if decision.strategy not in REPEATS:
            return
        used[decision.strategy] += 1
    pytest.fail(f"It went on by itself {most + 1} times: {used}")


def decided(recovery: JSONObject, *, kind: FailureKind = FailureKind.AGENT, **rest: object) -> list[str]:
    """What is done one after the other about a failure that comes again each time."""
    history: JSONObject = {"effect": rest.pop("effect", "pure"), "bound": rest.pop("bound", False)}
    policy = Policy(retry=RetryPolicy(max_retries=2), recovery=Recovery.model_validate(recovery))
    found: list[str] = []
    used = Counter[Strategy]()
    while len(found) < 20:
        decision = decide(
            Failure(kind, "c", "said", outcome_unknown=bool(history["bound"])),
            policy,
            History(used=used, **history),
            Candidates(**rest),  # type: ignore[arg-type]
            uniform=lambda: 0.0,
        )
        found.append(str(decision.strategy))
        if decision.strategy not in REPEATS:
            return found
        used[decision.strategy] += 1
    raise AssertionError(found)


@pytest.mark.parametrize(
    ("recovery", "given", "expected"),
    [
        ({}, {}, ["retry", "retry", "ask"]),
        ({}, {"kind": FailureKind.CONFIGURATION}, ["ask"]),
        ({}, {"kind": FailureKind.CRITICAL}, ["fail"]),
        ({}, {"effect": "once", "bound": True}, ["ask"]),
        ({"agent": ["reassign"]}, {"agents": ("b",)}, ["reassign", "reassign", "reassign", "ask"]),
        ({"agent": ["reassign", "fail"], "maxReassignments": 1}, {"agents": ("b",)}, ["reassign", "fail"]),
        ({"agent": ["reassign", "retry"]}, {"agents": ("b",), "bound": True}, ["retry", "retry", "ask"]),
        ({"agent": ["reassign", "compensate"]}, {}, ["compensate"]),
        ({"agent": ["retry", "restart"]}, {"point": 7}, ["retry", "retry", "restart", "ask"]),
        ({"agent": ["queue", "fail"]}, {}, ["queue"] * 10 + ["fail"]),
        ({"critical": ["compensate"]}, {"kind": FailureKind.CRITICAL}, ["compensate"]),
    ],
)
def test_a_ladder_is_climbed_rung_by_rung(
    recovery: JSONObject, given: JSONObject, expected: list[str]
) -> None:
    assert decided(recovery, **given) == expected


def test_retry_after_is_waited_for_and_what_could_not_be_done_is_said() -> None:
    failure = Failure(FailureKind.TRANSIENT, "http_429", "Slow down.", retry_after_s=30)
    policy = Policy(recovery=Recovery(transient=("reassign", "retry")))
    decision = decide(failure, policy, History(effect="pure"), Candidates(reassigned=False))
    assert (decision.strategy, decision.after_s) == (Strategy.RETRY, 30)
    assert decision.as_json()["passed"] == [
        {"strategy": "reassign", "why": "the block names its agent and no alternatives"}
    ]


BAD, GOOD, SLOW = Tried(50, 5, 100), Tried(50, 45, 100), Tried(50, 45, 9000)


@pytest.mark.parametrize(
    ("ladder", "known", "expected"),
    [
        ("retry reassign", {"retry": BAD, "reassign": GOOD}, "reassign retry"),
        ("retry reassign", {"retry": GOOD, "reassign": BAD}, "retry reassign"),
        ("queue retry", {"queue": SLOW, "retry": BAD}, "retry queue"),  # less often, but in less time
        ("retry reassign", {"retry": Tried(40, 18, 80), "reassign": Tried(40, 22, 80)}, "retry reassign"),
        ("retry reassign", {"retry": BAD, "reassign": Tried(19, 19, 19)}, "retry reassign"),
        ("retry queue reassign", {"retry": BAD, "reassign": GOOD}, "reassign queue retry"),
        ("retry restart reassign", {"retry": BAD, "reassign": GOOD}, "retry restart reassign"),
        ("retry ask reassign", {"retry": BAD, "reassign": GOOD, "ask": GOOD}, "retry ask reassign"),
        ("retry reassign queue", {"retry": BAD, "reassign": SLOW, "queue": GOOD}, "queue retry reassign"),
    ],
)
def test_what_did_clearly_better_goes_first_among_what_goes_on_by_itself(
    ladder: str, known: dict[str, Tried], expected: str
) -> None:
    assert learned(ladder.split(), known) == tuple(expected.split())


def test_a_learned_order_is_told_and_only_where_the_policy_lets_it_be_learned() -> None:
    failure = Failure(FailureKind.AGENT, "garbage", "said")
    history = History(experience=Experience("template", "agent", "garbage", {"retry": BAD, "reassign": GOOD}))
    written: JSONObject = {"agent": ["retry", "reassign"]}
    for adaptive, expected in ((None, Strategy.RETRY), (False, Strategy.RETRY), (True, Strategy.REASSIGN)):
        recovery = Recovery.model_validate({**written, "adaptive": adaptive})
        decision = decide(failure, Policy(recovery=recovery), history, Candidates(agents=("b",)))
        assert decision.strategy is expected
        assert bool(decision.learned) is bool(adaptive)
    assert decision.as_json()["learned"] == {
        "scope": "template",
        "cause": "agent",
        "code": "garbage",
        "written": ["retry", "reassign", "ask"],
        "order": ["reassign", "retry", "ask"],
        "results": {
            "reassign": {"tries": 50, "recovered": 45, "meanSeconds": 2.0},
            "retry": {"tries": 50, "recovered": 5, "meanSeconds": 2.0},
        },
    }


def test_a_decision_is_little_work() -> None:
    """Far below a millisecond on any machine: some dozens of calls."""
    failure = Failure(FailureKind.TRANSIENT, "timeout", "Late.")
    policy = Policy(recovery=Recovery(transient=("reassign", "queue", "restart", "retry", "ask")))
    assert work.calls(lambda: decide(failure, policy, History(), Candidates())) < 100
    adaptive = replace(policy, recovery=policy.recovery.model_copy(update={"adaptive": True}))
    known = History(experience=Experience("template", "transient", "", {"queue": GOOD, "reassign": BAD}))
    assert work.calls(lambda: decide(failure, adaptive, known, Candidates())) < 200


def test_no_ladder_repeats_what_must_happen_once_even_if_validation_let_it_through() -> None:
    written = Recovery().model_copy(
        update={"unknown_outcome": ("retry", "reassign", "queue", "restart", "fail")}
    )
    decision = decide(
        Failure(FailureKind.TRANSIENT, "c", "said", outcome_unknown=True),
        Policy(retry=RetryPolicy(max_retries=2), recovery=written),
        History(effect="once"),
        Candidates(agents=("b",), point=7, reassigned=True),
    )
    assert decision.strategy is Strategy.FAIL
    assert [strategy for strategy, _ in decision.passed] == [
        Strategy.RETRY,
        Strategy.REASSIGN,
        Strategy.QUEUE,
        Strategy.RESTART,
    ]
