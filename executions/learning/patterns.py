"""The patterns that a proposal answers, one function each: what a step's attempts must look like, the change
that would mend them, and what history says that it would come to.

Pure.  `None`: the step does not look so, or too seldom to tell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from agentflow.types import JSONObject, JSONValue
from agentflow.workflow.definition import Block, Definition
from executions.recovery.ordering import DEVIATIONS, Tried

from .facts import ATTEMPTS, RUNS, Facts, Kind, Proposed, Seen, failing

LEAST_FAILURES = 10  # that fit a pattern
LEAST_CALLS = 20  # of each side of a comparison
LEAST_SHARE = 0.02  # of a step's attempts or runs
MOST_TIMES = 4  # as long as before a timeout may become
TOO_LARGE = frozenset({"llm_context_too_long", "http_413", "script_limit", "timeout"})
MENDABLE = ("transient", "agent", "configuration")
EMPTY: tuple[tuple[JSONValue, str], ...] = ((None, "{} != null"), ("", '{} != ""'), ([], "size({}) > 0"))

Rule = Callable[[Facts, Definition, Block, Sequence[Seen]], "Proposed | None"]


def _proposed(
    kind: Kind,
    block: Block,
    patch: JSONObject,
    *,
    measure: str,
    codes: Sequence[str],
    about: Sequence[Seen],
    seen: Sequence[Seen],
    share: float,
    because: str,
) -> Proposed | None:
    now = failing(seen, measure, codes)
    if now.count < LEAST_FAILURES or now.value < LEAST_SHARE:
        return None
    return Proposed(
        kind,
        block.block_id,
        patch,
        {
            "measure": measure,
            "codes": list(codes),
            "failures": now.count,
            "of": now.of,
            "share": round(now.value, 4),
        },
        {"share": round(share, 4), "because": because},
        frozenset(each.row for each in about),
    )


# -- more time -----------------------------------------------------------------


def _timeout(facts: Facts, definition: Definition, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    """To the 99th percentile of what the agent needed: as other blocks saw it that give it more time, else
    as a log-normal through the median and the share that came in time says."""
    late = [each for each in seen if each.code == "timeout" and not each.ok]
    in_time = [each.seconds for each in seen if each.ok]
    limit_s = definition.timeout_of(block) / 1000
    if len(late) < LEAST_FAILURES or len(in_time) < LEAST_CALLS:
        return None
    share_late = len(late) / (len(late) + len(in_time))
    agents = {each.agent_id for each in seen}
    beyond = sorted(
        each.seconds
        for each in facts.seen
        if each.ok and each.agent_id in agents and each.seconds > limit_s and each.block_id != block.block_id
    )
    if len(beyond) >= LEAST_CALLS:
        needed_s = _percentile(beyond, 1 - 0.01 / max(share_late, 0.01))
        ended = sum(each <= needed_s for each in beyond) / len(beyond)
        because = f"{len(beyond)} calls of this agent in other steps took longer than {limit_s:g} s; of these"
        because += f" {ended:.0%} ended within the new time"
    else:
        tail = _lognormal(median(in_time), limit_s, share_late)
        if tail is None:
            return None
        needed_s = tail.p99_s
        new_s = min(_rounded(needed_s), limit_s * MOST_TIMES)
        ended = 1 - tail.beyond(new_s) / share_late
        because = (
            f"Half of the calls took {median(in_time):.3g} s and {share_late:.0%} more than {limit_s:g} s:"
        )
        because += f" estimated, {ended:.0%} of these would have ended within the new time"
    new_s = min(_rounded(needed_s), limit_s * MOST_TIMES)
    if new_s <= limit_s or ended <= 0:
        return None
    now = failing(seen, ATTEMPTS, ["timeout"]).value
    return _proposed(
        Kind.TIMEOUT,
        block,
        {"timeout": round(new_s * 1000)},
        measure=ATTEMPTS,
        codes=["timeout"],
        about=late,
        seen=seen,
        share=now * (1 - ended),
        because=f"{because}.",
    )


@dataclass(frozen=True, slots=True)
class _Tail:
    mu: float
    sigma: float

    @property
    def p99_s(self) -> float:
        return math.exp(min(self.mu + self.sigma * NormalDist().inv_cdf(0.99), 700.0))

    def beyond(self, seconds: float) -> float:
        return 1 - NormalDist(self.mu, self.sigma).cdf(math.log(seconds))


def _lognormal(middle_s: float, limit_s: float, share_late: float) -> _Tail | None:
    """Through the median of those in time, taken for that of all, and the share beyond the limit."""
    if not 0 < middle_s < limit_s or not 0 < share_late < 0.3:
        return None  # where so many are late, nothing is known of how late
    sigma = (math.log(limit_s) - math.log(middle_s)) / NormalDist().inv_cdf(1 - share_late)
    return _Tail(math.log(middle_s), max(sigma, 1e-6))


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(max(math.ceil(share * len(ordered)) - 1, 0), len(ordered) - 1)]


def _rounded(seconds: float) -> float:
    """A little more, at two digits."""
    step = 10.0 ** (math.floor(math.log10(max(seconds, 0.001))) - 1)
    return math.ceil(seconds * 1.05 / step) * step


# -- try again -----------------------------------------------------------------


def _retry(facts: Facts, definition: Definition, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    """Codes that nobody tries again here, and of which trying again mended a fair share elsewhere."""
    tried_again = {(each.row, each.code) for each in seen if each.strategy == "retry"}
    stuck = [
        each
        for each in seen
        if each.stuck
        and not each.unknown
        and each.kind in MENDABLE
        and (each.row, each.code) not in tried_again
    ]
    codes = [
        code
        for code, count in Counter(each.code for each in stuck).most_common()
        if count >= LEAST_FAILURES and _worth(facts.retried.get(code))
    ]
    about = [each for each in stuck if each.code in codes]
    if not about:
        return None
    mended = sum(facts.retried[each.code].chance for each in about) / len(about)
    told = "; ".join(
        f"after {code} it helped in {facts.retried[code].recovered} of {facts.retried[code].tries} tries"
        for code in codes
    )
    return _proposed(
        Kind.RETRY,
        block,
        _with_retries(definition, block, about, codes),
        measure=RUNS,
        codes=codes,
        about=about,
        seen=seen,
        share=failing(seen, RUNS, codes).value * (1 - mended),
        because=f"Trying again, anywhere in the workspace: {told}.",
    )


def _worth(tried: Tried | None) -> bool:
    return tried is not None and tried.tries >= LEAST_CALLS and _bounds(tried)[0] >= 0.25


def _with_retries(
    definition: Definition, block: Block, about: Sequence[Seen], codes: Sequence[str]
) -> JSONObject:
    policy = definition.retry_policy_of(block)
    written = definition.recovery_of(block)
    ladders = {"transient": written.transient, "agent": written.agent, "configuration": written.configuration}
    kinds = {each.kind for each in about}
    patch: JSONObject = {}
    stated = {kind: ladder for kind in sorted(kinds) if (ladder := ladders[kind]) is not None}
    if begin := {kind: ["retry", *ladder] for kind, ladder in stated.items() if "retry" not in ladder}:
        patch["recovery"] = begin
    conditions = list(policy.retry_conditions)
    conditions += [
        code
        for code in codes
        if code not in conditions
        and any(each.code == code and each.kind not in (*conditions, *stated) for each in about)
    ]
    changed = policy.model_copy(
        update={"max_retries": policy.max_retries or 2, "retry_conditions": tuple(conditions)}
    )
    if changed != policy:
        kept = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
        patch["retryPolicy"] = {**kept, "maxRetries": changed.max_retries, "retryConditions": conditions}
    return patch


# -- another agent -------------------------------------------------------------


def _agent(facts: Facts, definition: Definition, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    """One that took over, and fails clearly less often than the one that is asked first."""
    own, others = block.agent_id, definition.recovery_of(block).alternatives
    if own is None or not others:
        return None
    results = {name: _results(seen, name) for name in (own, *others)}
    worse = results[own]
    better = [
        name
        for name in others
        if name in facts.agents
        and _enough(worse, results[name])
        and _bounds(results[name])[0] > _bounds(worse)[1]
    ]
    if not better:
        return None
    best = max(better, key=lambda name: results[name].chance)
    about = [each for each in seen if each.agent_id == own and not each.ok]
    patch: JSONObject = {
        "agentId": best,
        "toolType": None,
        "agentType": None,
        "recovery": {"alternatives": [own, *(name for name in others if name != best)]},
    }
    good = results[best]
    return _proposed(
        Kind.AGENT,
        block,
        patch,
        measure=ATTEMPTS,
        codes=[],
        about=about,
        seen=seen,
        share=1 - good.chance,
        because=f"{best} did it in {good.recovered} of {good.tries} calls, {own} in"
        f" {worse.recovered} of {worse.tries}.",
    )


def _results(seen: Sequence[Seen], agent_id: str) -> Tried:
    calls = [each for each in seen if each.agent_id == agent_id]
    return Tried(len(calls), sum(each.ok for each in calls), 0.0)


def _enough(*sides: Tried) -> bool:
    return all(each.tries >= LEAST_CALLS for each in sides)


def _bounds(tried: Tried) -> tuple[float, float]:
    chance = tried.chance
    spread = DEVIATIONS * math.sqrt(chance * (1 - chance) / (tried.tries + 3))
    return chance - spread, chance + spread


# -- one call for each entry ---------------------------------------------------


def _split(facts: Facts, definition: Definition, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    """Long lists fail where short ones do not, with what says that something was too large."""
    if block.for_each or block.repeat or block.conditions or block.human_in_loop or block.compensation:
        return None
    lists = [(name, text) for name, text in _members(block) if _lengths(facts, seen, name)]
    if len(lists) != 1:
        return None
    name, text = lists[0]
    lengths = _lengths(facts, seen, name)
    about = [each for each in seen if not each.ok and each.code in TOO_LARGE and lengths.get(each.row, 0) > 1]
    short = sorted(lengths[each.row] for each in seen if each.ok and each.row in lengths)
    if len(about) < LEAST_FAILURES or len(short) < LEAST_FAILURES:
        return None
    usual = _percentile(short, 0.9)
    if sum(lengths[each.row] > usual for each in about) < 0.9 * len(about):
        return None
    codes = sorted({each.code for each in about})
    followers = [each.block_id for each in definition.blocks if block.block_id in each.dependencies]
    after = (
        f" What follows ({', '.join(followers[:5])}) then gets a list of outputs: look at it."
        if followers
        else ""
    )
    return _proposed(
        Kind.SPLIT,
        block,
        {"forEach": {"items": text}, "input": {name: ["${item}"]}},
        measure=RUNS,
        codes=codes,
        about=about,
        seen=seen,
        share=0.0,
        because=f"It fails with more than {usual} entries in {name}, and not with fewer.{after}",
    )


def _members(block: Block) -> Iterator[tuple[str, str]]:
    """The members of a block's input that are one expression each."""
    for name, value in (block.input or {}).items():
        if (
            isinstance(value, str)
            and value.startswith("${")
            and value.endswith("}")
            and value.count("${") == 1
        ):
            yield name, value[2:-1].strip()


def _lengths(facts: Facts, seen: Sequence[Seen], name: str) -> dict[int, int]:
    rows = {each.row for each in seen}
    values = {row: facts.inputs[row].get(name) for row in rows if row in facts.inputs}
    return {row: len(value) for row, value in values.items() if isinstance(value, list)}


# -- a guard -------------------------------------------------------------------


def _guard(facts: Facts, definition: Definition, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    return _guard_input(facts, block, seen) or _guard_skipped(definition, block, seen)


def _guard_input(facts: Facts, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    """A member of the input is empty where the block fails, and not where it does not."""
    if block.for_each or block.repeat:
        return None
    failed = [each for each in seen if each.stuck and each.row in facts.inputs]
    good = {each.row for each in seen if each.ok and each.row in facts.inputs}
    for code, count in Counter(each.code for each in failed).most_common(3):
        if count < LEAST_FAILURES or len(good) < LEAST_FAILURES:
            continue
        rows = {each.row for each in failed if each.code == code}
        for name, text in _members(block):
            for empty, condition in EMPTY:
                caught = {row for row in rows if _is(facts.inputs[row].get(name), empty)}
                spared = {row for row in good if _is(facts.inputs[row].get(name), empty)}
                if len(caught) < 0.9 * len(rows) or len(spared) > LEAST_SHARE * len(good):
                    continue
                when = condition.format(f"({text})")
                return _proposed(
                    Kind.GUARD,
                    block,
                    {"when": f"({block.when}) && {when}" if block.when else when},
                    measure=RUNS,
                    codes=[code],
                    about=[each for each in failed if each.row in caught],
                    seen=seen,
                    share=failing(seen, RUNS, [code]).value * (1 - len(caught) / len(rows)),
                    because=f"{name} was empty in {len(caught)} of {len(rows)} runs that failed so, and in"
                    f" {len(spared)} of {len(good)} that did not: the step is skipped then.",
                )
    return None


def _is(value: JSONValue, empty: JSONValue) -> bool:
    return type(value) is type(empty) and value == empty


def _guard_skipped(definition: Definition, block: Block, seen: Sequence[Seen]) -> Proposed | None:
    """People who are asked about it let the run go on without it."""
    asked = {
        each.row: each
        for each in seen
        if each.strategy == "ask" and each.status in ("skipped", "completed", "failed")
    }
    skipped = [each for each in asked.values() if each.status == "skipped" and each.reason == "by_hand"]
    if len(skipped) < LEAST_FAILURES or len(skipped) < 0.8 * len(asked) or block.on_error == "continue":
        return None
    codes = sorted({each.code for each in skipped})
    kinds = sorted({each.kind for each in skipped} & set(MENDABLE))
    policy = definition.retry_policy_of(block)
    kept = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
    recovery = definition.recovery_of(block)
    ladders = {
        "transient": recovery.transient,
        "agent": recovery.agent,
        "configuration": recovery.configuration,
    }
    patch: JSONObject = {"onError": "continue", "retryPolicy": {**kept, "onExhausted": "fail"}}
    ends = {
        kind: [*(rung for rung in ladder if rung != "ask"), "fail"]
        for kind in kinds
        if (ladder := ladders[kind]) is not None and "ask" in ladder
    }
    if ends:
        patch["recovery"] = ends
    return _proposed(
        Kind.GUARD,
        block,
        patch,
        measure=RUNS,
        codes=codes,
        about=skipped,
        seen=seen,
        share=failing(seen, RUNS, codes).value,
        because=f"Of {len(asked)} times that people were asked they skipped the step {len(skipped)} times:"
        " the run goes on without it, and nobody is asked.",
    )


RULES: tuple[Rule, ...] = (_timeout, _retry, _agent, _split, _guard)
