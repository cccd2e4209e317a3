from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.workflow.definition import RetryPolicy
from agentflow.workflow.failures import Failure, FailureKind
from agentflow.workflow.retry import delay_s, wants_retry


def policy(**fields: Any) -> RetryPolicy:
    return RetryPolicy.model_validate({"jitter": False, "initialDelay": 1000, "maxDelay": 10_000, **fields})


@pytest.mark.parametrize(
    ("strategy", "delays"),
    [
        ("fixed", [1, 1, 1, 1, 1]),
        ("linear", [1, 2, 3, 4, 5]),
        ("exponential", [1, 3, 9, 10, 10]),
    ],
)
def test_delays_grow_as_the_strategy_says_up_to_the_greatest(strategy: str, delays: list[float]) -> None:
    chosen = policy(backoffStrategy=strategy, multiplier=3)
    assert [delay_s(chosen, attempt, lambda: 0.5) for attempt in range(1, 6)] == delays


def test_jitter_spreads_the_delay_from_nothing_to_all_of_it() -> None:
    chosen = policy(backoffStrategy="fixed", jitter=True, initialDelay=8000)
    assert delay_s(chosen, 1, lambda: 0.0) == 0
    assert delay_s(chosen, 1, lambda: 0.25) == 2
    assert delay_s(chosen, 1, lambda: 0.999) == pytest.approx(7.992)


def test_an_attempt_far_beyond_all_numbers_waits_the_greatest_delay() -> None:
    assert delay_s(policy(multiplier=100), 100_000, lambda: 0.5) == 10


policies = st.builds(
    policy,
    backoffStrategy=st.sampled_from(["fixed", "linear", "exponential"]),
    initialDelay=st.integers(0, 10**9),
    maxDelay=st.integers(0, 10**9),
    multiplier=st.floats(1, 100),
    jitter=st.booleans(),
)


@given(policies, st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_lies_between_nothing_and_the_greatest(
    chosen: RetryPolicy, attempt: int, share: float
) -> None:
    assert 0 <= delay_s(chosen, attempt, lambda: share) <= chosen.max_delay / 1000


@given(policies, st.integers(1, 1000))
def test_without_jitter_delays_never_shrink(chosen: RetryPolicy, attempt: int) -> None:
    steady = chosen.model_copy(update={"jitter": False})
    assert delay_s(steady, attempt, lambda: 0.0) <= delay_s(steady, attempt + 1, lambda: 0.0)


def failure(kind: FailureKind, code: str = "some_code") -> Failure:
    return Failure(kind, code, "It did not work.")


def test_three_attempts_are_made_by_default() -> None:
    tried = [wants_retry(RetryPolicy(), failure(FailureKind.TRANSIENT), attempt) for attempt in (1, 2, 3)]
    assert tried == [True, True, False]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (FailureKind.TRANSIENT, True),
        (FailureKind.AGENT, True),
        (FailureKind.CONFIGURATION, False),
        (FailureKind.CRITICAL, False),
    ],
)
def test_what_time_or_another_agent_may_mend_is_tried_again(kind: FailureKind, wanted: bool) -> None:
    assert wants_retry(RetryPolicy(), failure(kind), 1) is wanted


def test_a_condition_may_be_a_failures_code() -> None:
    chosen = RetryPolicy(retry_conditions=("http_503",))
    assert wants_retry(chosen, failure(FailureKind.TRANSIENT, "http_503"), 1)
    assert not wants_retry(chosen, failure(FailureKind.TRANSIENT, "http_500"), 1)


def test_what_nothing_mends_is_not_tried_again_even_if_asked_for() -> None:
    assert not wants_retry(RetryPolicy(retry_conditions=("critical",)), failure(FailureKind.CRITICAL), 1)


def test_no_retries_means_one_attempt() -> None:
    assert not wants_retry(RetryPolicy(max_retries=0), failure(FailureKind.TRANSIENT), 1)
