from __future__ import annotations

import pytest

from agentflow.workflow.health import Direction, Figure, Reason, Status, duration, health, share

BETTER, STEADY, WORSE = Direction.BETTER, Direction.STEADY, Direction.WORSE


def reason(status: Status) -> Reason:
    return Reason(str(status), "said", "remedy", status=status)


@pytest.mark.parametrize(
    ("statuses", "seen", "is_"),
    [
        ([], True, "healthy"),
        ([], False, "unknown"),
        (["degraded"], False, "degraded"),
        (["degraded", "unhealthy"], True, "unhealthy"),
        (["unknown", "degraded"], True, "degraded"),
        (["unknown"], True, "unknown"),
    ],
)
def test_health_is_as_bad_as_its_worst_reason_which_comes_first(
    statuses: list[str], seen: bool, is_: str
) -> None:
    found = health([reason(Status(each)) for each in statuses], seen=seen)
    assert found.status == is_
    assert [each.code for each in found.reasons][:1] == ([is_] if statuses else [])


@pytest.mark.parametrize(
    ("now", "before", "direction"),
    [
        ((70, 100), (98, 100), WORSE),
        ((98, 100), (70, 100), BETTER),
        ((97, 100), (98, 100), STEADY),  # nearer than is worth a word
        ((9800, 10_000), (9900, 10_000), STEADY),  # sure, but a point only
        ((3, 4), (0, 4), STEADY),  # too few
        ((7, 10), (9, 10), STEADY),  # an accident, perhaps
        ((0, 0), (98, 100), STEADY),
        ((10, 10), (10, 10), STEADY),
        ((0, 10), (0, 10), STEADY),
    ],
)
def test_shares_are_told_apart_where_that_is_no_accident(
    now: tuple[int, int], before: tuple[int, int], direction: Direction
) -> None:
    assert share("successRate", "24h", now, before).direction is direction


@pytest.mark.parametrize(
    ("now", "before", "direction"),
    [
        ((200.0, 10), (100.0, 10), WORSE),
        ((100.0, 10), (200.0, 10), BETTER),
        ((110.0, 10), (100.0, 10), STEADY),
        ((900.0, 4), (100.0, 10), STEADY),
        ((None, 0), (100.0, 10), STEADY),
        ((1.0, 9), (0.0, 9), WORSE),
    ],
)
def test_times_are_told_apart_where_anybody_would_notice(
    now: tuple[float | None, int], before: tuple[float | None, int], direction: Direction
) -> None:
    assert duration("p95Ms", "1h", now, before).direction is direction


@pytest.mark.parametrize(
    ("directions", "trend"),
    [([], STEADY), ([STEADY, BETTER], BETTER), ([BETTER, WORSE, STEADY], WORSE), ([STEADY], STEADY)],
)
def test_the_trend_is_worse_if_anything_is(directions: list[Direction], trend: Direction) -> None:
    found = health([], [Figure("p95Ms", "1h", 1.0, 2.0, each) for each in directions])
    assert found.as_json()["trend"]["direction"] == str(trend)
    assert len(found.moved) == sum(each is not STEADY for each in directions)


def test_a_figure_is_said_in_words() -> None:
    assert share("successRate", "24h", (91, 100), (98, 100)).sentence == (
        "Success 91 % within 24h, 98 % before."
    )
    assert duration("p95Ms", "7d", (12_345.0, 9), (None, 0)).sentence == "p95 12 s within 7d, none before."
