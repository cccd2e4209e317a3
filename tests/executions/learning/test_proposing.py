"""Which patterns lead to which proposals."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentflow.types import JSONObject
from agentflow.workflow.parsing import parse
from agentflow.workflow.validation import check
from executions.learning.facts import ATTEMPTS, RUNS, Facts, Kind, Proposed, Seen, failing
from executions.learning.proposing import patched, propose
from executions.recovery.ordering import Tried

RUN = uuid4()
HELPED, USELESS = Tried(40, 30, 40), Tried(40, 1, 40)


def seen(count: int, first: int = 0, **fields: Any) -> list[Seen]:
    """So many attempts of block a, one each of its rows; they succeed where no code is given."""
    given: dict[str, Any] = {"ok": "code" not in fields, "agent_id": "one", "seconds": 1.0, **fields}
    if not given["ok"]:
        given = {"kind": "agent", "strategy": "ask", "status": "waiting_human", **given}
    return [Seen("a", first + n, RUN, 1, **given) for n in range(count)]


def definition(**fields: Any) -> JSONObject:
    return {"name": "t", "blocks": [{"blockId": "a", "agentId": "one", **fields}]}


def only(found: list[Proposed]) -> Proposed:
    (one,) = found
    return one


def late(count: int) -> list[Seen]:
    return seen(count, 1000, code="timeout", kind="transient", strategy="retry", seconds=10.0)


def elsewhere(*seconds: float) -> list[Seen]:
    return [Seen("b", 5000 + n, RUN, 1, "one", ok=True, seconds=each) for n, each in enumerate(seconds)]


def test_a_timeout_is_raised_to_what_the_agent_needed_where_it_had_more_time() -> None:
    facts = Facts(
        definition(timeout=10_000),
        [*seen(180), *late(20), *elsewhere(*(11 + n / 10 for n in range(100)))],
    )
    found = only(propose(facts))
    assert (found.kind, found.patch) == (Kind.TIMEOUT, {"timeout": 21_000})
    assert found.evidence == {
        "measure": ATTEMPTS,
        "codes": ["timeout"],
        "failures": 20,
        "of": 200,
        "share": 0.1,
    }
    assert found.predicted["share"] == pytest.approx(0.01)  # the 99th percentile
    assert found.fits == frozenset(range(1000, 1020))


def test_where_nobody_had_more_time_the_tail_is_estimated_and_said_to_be() -> None:
    found = only(propose(Facts(definition(timeout=10_000), [*seen(190, seconds=4.0), *late(10)])))
    # Half in 4 s and 5 % later than 10 s: sigma 0.557, of which the 99th percentile is 14.6 s.
    assert found.patch == {"timeout": 16_000}
    assert "estimated" in found.predicted["because"]
    assert 0 < found.predicted["share"] < 0.01


def stuck(count: int = 12, code: str = "http_409", **fields: Any) -> list[Seen]:
    return seen(count, 2000, code=code, **fields)


@pytest.mark.parametrize(
    ("block", "attempts", "retried", "patch"),
    [
        (
            {},
            stuck(kind="configuration"),
            HELPED,
            {"retryPolicy": {"maxRetries": 2, "retryConditions": ["transient", "agent", "http_409"]}},
        ),
        (
            {"retryPolicy": {"maxRetries": 0, "initialDelay": 5}},
            stuck(),
            HELPED,
            {
                "retryPolicy": {
                    "maxRetries": 2,
                    "initialDelay": 5,
                    "retryConditions": ["transient", "agent"],
                }
            },
        ),
        ({"recovery": {"agent": ["ask"]}}, stuck(), HELPED, {"recovery": {"agent": ["retry", "ask"]}}),
        ({}, stuck(kind="configuration"), USELESS, None),
        ({}, stuck(kind="configuration"), None, None),
        ({}, stuck(9, kind="configuration"), HELPED, None),  # too few
        ({}, stuck(kind="critical"), HELPED, None),
        ({}, stuck(kind="configuration", unknown=True), HELPED, None),
    ],
)
def test_a_retry_is_proposed_for_codes_that_it_mended_elsewhere(
    block: JSONObject, attempts: list[Seen], retried: Tried | None, patch: JSONObject | None
) -> None:
    known = {"http_409": retried} if retried else {}
    found = propose(Facts(definition(**block), [*seen(100), *attempts], retried=known))
    if patch is None:
        assert found == []
        return
    one = only(found)
    assert (one.kind, one.evidence["measure"], one.evidence["codes"]) == (Kind.RETRY, RUNS, ["http_409"])
    assert {**one.patch.get("retryPolicy", {}), **one.patch.get("recovery", {})} == {
        **patch.get("retryPolicy", {}),
        **patch.get("recovery", {}),
    }
    assert one.predicted["share"] == pytest.approx(12 / 112 * (1 - 31 / 42), abs=1e-4)
    assert "30 of 40" in one.predicted["because"]


def test_an_alternative_that_is_clearly_better_comes_first() -> None:
    two = [Seen("a", 3000 + n, RUN, 2, "two", ok=True, seconds=1.0) for n in range(30)]
    failed = stuck(30, strategy="reassign")
    block = definition(toolType="API", recovery={"agent": ["reassign"], "alternatives": ["two", "three"]})
    found = only(propose(Facts(block, [*seen(70), *failed, *two], agents=frozenset({"two", "three"}))))
    assert found.kind is Kind.AGENT
    changed = patched(block, [("a", found.patch)])["blocks"][0]
    assert (changed["agentId"], changed["recovery"]["alternatives"]) == ("two", ["one", "three"])
    assert "toolType" not in changed
    assert propose(Facts(block, [*seen(70), *failed, *two])) == []  # it is switched off
    assert propose(Facts(block, [*seen(70), *failed, *two[:10]], agents=frozenset({"two"}))) == []


def test_a_step_that_fails_on_an_empty_member_of_its_input_is_guarded() -> None:
    block = definition(input={"email": "${input.email}", "n": "${input.n}"})
    failed = stuck(20, "http_422", kind="configuration")
    inputs: dict[int, JSONObject] = {
        **{each.row: {"email": None, "n": 1} for each in failed},
        **{row: {"email": "a@b.example", "n": 1} for row in range(50)},
    }
    found = only(propose(Facts(block, [*seen(50), *failed], inputs=inputs)))
    assert (found.kind, found.patch) == (Kind.GUARD, {"when": "(input.email) != null"})
    assert found.predicted["share"] == 0
    guarded = definition(input=block["blocks"][0]["input"], when="input.n > 0")
    found = only(propose(Facts(guarded, [*seen(50), *failed], inputs=inputs)))
    assert found.patch == {"when": "(input.n > 0) && (input.email) != null"}
    inputs.update({row: {"email": None} for row in range(5)})  # it succeeds all the same
    assert propose(Facts(block, [*seen(50), *failed], inputs=inputs)) == []


def test_a_step_that_people_skip_each_time_holds_up_nobody_any_more() -> None:
    skipped = stuck(18, status="skipped", reason="by_hand")
    mended = seen(2, 4000, code="http_409", status="completed")
    block = definition(recovery={"agent": ["ask"]}, retryPolicy={"maxRetries": 1})
    found = only(propose(Facts(block, [*seen(50), *skipped, *mended])))
    assert found.patch == {
        "onError": "continue",
        "retryPolicy": {"maxRetries": 1, "onExhausted": "fail"},
        "recovery": {"agent": ["fail"]},
    }
    assert propose(Facts(block, [*seen(50), *skipped[:12], *seen(9, 4000, code="x", status="failed")])) == []


def test_a_step_that_fails_on_long_lists_is_split() -> None:
    block = {
        "name": "t",
        "blocks": [
            {"blockId": "a", "agentId": "one", "input": {"orders": "${input.orders}", "mode": "x"}},
            {"blockId": "sum", "dependencies": ["a"]},
        ],
    }
    failed = stuck(15, "llm_context_too_long", kind="configuration")
    inputs: dict[int, JSONObject] = {
        **{each.row: {"orders": list(range(40)), "mode": "x"} for each in failed},
        **{row: {"orders": [1, 2], "mode": "x"} for row in range(30)},
    }
    found = only(propose(Facts(block, [*seen(30), *failed], inputs=inputs)))
    assert found.kind is Kind.SPLIT
    changed = patched(block, [("a", found.patch)])["blocks"][0]
    assert changed["forEach"] == {"items": "input.orders"}
    assert changed["input"] == {"orders": ["${item}"], "mode": "x"}
    assert "(sum) then gets a list" in found.predicted["because"]


def test_few_failures_make_no_noise() -> None:
    assert propose(Facts(definition(timeout=10_000), [*seen(50), *late(3), *stuck(3)])) == []
    assert propose(Facts(definition(timeout=10_000), [*seen(5000), *late(12)])) == []  # too small a share
    assert propose(Facts(definition())) == []


blocks = st.fixed_dictionaries(
    {"blockId": st.just("a"), "agentId": st.just("one")},
    optional={
        "timeout": st.integers(1, 600_000),
        "toolType": st.sampled_from(["API", "LLM"]),
        "when": st.sampled_from(["input.x", "true || false"]),
        "input": st.dictionaries(
            st.sampled_from(["m", "n"]), st.sampled_from(["${input.m}", "${input.m.n}", "x", 3]), max_size=2
        ),
        "forEach": st.just({"items": "input.l"}),
        "onError": st.sampled_from(["fail", "continue"]),
        "retryPolicy": st.fixed_dictionaries(
            {},
            optional={
                "maxRetries": st.integers(0, 3),
                "retryConditions": st.lists(st.sampled_from(["transient", "http_409"]), unique=True),
            },
        ),
        "recovery": st.fixed_dictionaries(
            {"alternatives": st.lists(st.sampled_from(["two", "three"]), unique=True)},
            optional={
                "agent": st.sampled_from([["ask"], ["retry", "fail"], ["queue", "ask"]]),
                "transient": st.sampled_from([["retry", "ask"], ["fail"]]),
            },
        ),
    },
)
attempts = st.fixed_dictionaries(
    {
        "agent_id": st.sampled_from(["one", "one", "two"]),
        "ok": st.booleans(),
        "seconds": st.floats(0, 1000),
        "code": st.sampled_from(["timeout", "http_409", "llm_context_too_long"]),
        "kind": st.sampled_from(["transient", "agent", "configuration", "critical"]),
        "strategy": st.sampled_from(["ask", "ask", "fail", "retry", "reassign"]),
        "unknown": st.booleans(),
        "status": st.sampled_from(["skipped", "completed", "failed"]),
        "reason": st.sampled_from(["by_hand", ""]),
    }
)
values = st.sampled_from([None, "", [], [1], [1, 2, 3, 4], "x"])
inputs_of = st.none() | st.fixed_dictionaries({"m": values, "n": values})
# Each so many times, with the same input.
groups = st.lists(st.tuples(attempts, st.integers(8, 60), inputs_of), min_size=1, max_size=5)
GOOD = {"ok": True, "agent_id": "one"}
BAD = {**GOOD, "ok": False, "seconds": 4.5, "kind": "configuration", "strategy": "ask"}
PLAIN = definition(timeout=4_500)["blocks"][0]
made: set[Kind] = set()


@example(PLAIN, [({**BAD, "code": "http_409"}, 20, None)], True, 4.0, None)
@example(PLAIN, [({**BAD, "code": "timeout"}, 12, None)], False, 4.0, None)
@given(blocks, groups, st.booleans(), st.sampled_from([0.5, 4.0]), inputs_of)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def _each_proposal_validates(
    block: JSONObject, some: list[Any], helped: bool, seconds: float, usual: JSONObject | None
) -> None:
    body = {"name": "t", "blocks": [block]}
    if any(issue.severity == "error" for issue in check(parse(body))):
        return
    found: list[Seen] = []
    inputs: dict[int, JSONObject] = {}
    for fields, count, given_input in [({**GOOD, "seconds": seconds}, 60, usual), *some]:
        rows = range(len(found), len(found) + count)
        found += [Seen("a", row, RUN, 1, **fields) for row in rows]
        inputs.update((row, given_input) for row in rows if given_input is not None)
    retried = {"http_409": HELPED, "timeout": HELPED} if helped else {}
    facts = Facts(body, found, retried, inputs, frozenset({"two", "three"}))
    proposed = propose(facts)
    assert len({each.kind for each in proposed}) == len(proposed)
    made.update(each.kind for each in proposed)
    for each in proposed:
        changed = patched(body, [(each.block_id, each.patch)])
        assert changed != body
        assert not [issue for issue in check(parse(changed)) if issue.severity == "error"]
        told = each.evidence
        share = failing(facts.seen, told["measure"], told["codes"])
        assert (share.count, share.of) == (told["failures"], told["of"])
        assert told["failures"] >= 10
        assert 0 <= each.predicted["share"] <= (1 if each.kind is Kind.AGENT else told["share"])


def test_each_proposals_definition_validates_and_rests_on_enough_evidence() -> None:
    made.clear()
    _each_proposal_validates()
    assert made >= {Kind.TIMEOUT, Kind.RETRY}  # the facts lead to proposals at all
