"""What a call used up, as attempts and steps of agents store it.

    {"inputTokens": 812, "outputTokens": 96, "cost": {"USD": 0.0021}, "model": "small-1"}

What nobody knows is left out: a provider that tells no tokens, an agent without prices.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..types import JSONObject, JSONValue
from .profile import Cost

MOST_TOKENS = 2**40  # of one call: a provider that says more is not believed
TOKENS = ("inputTokens", "outputTokens")


def tokens(value: JSONValue) -> int:
    """A provider's number of tokens; 0 where it is none."""
    return value if type(value) is int and 0 <= value < MOST_TOKENS else 0


def of_model(told: JSONObject, cost: Cost, *, model: str) -> JSONObject:
    """What one answer of a model used; `told` are the provider's words as `integrations.llm` reads them."""
    used: JSONObject = {name: tokens(told[name]) for name in TOKENS if name in told}
    amount = told.get("cost")  # some providers say what they charge
    if amount is None and cost.priced:
        amount = price(
            cost,
            calls=1,
            input_tokens=used.get("inputTokens", 0),
            output_tokens=used.get("outputTokens", 0),
        )
    if amount is not None:
        used["cost"] = {cost.currency: amount}
    return {**used, "model": model[:200]}


def of_call(cost: Cost) -> JSONObject | None:
    """What one call of another agent costs; None: nothing is known."""
    return {"cost": {cost.currency: cost.per_call}} if cost.per_call else None


def price(cost: Cost, *, calls: int, input_tokens: int, output_tokens: int) -> float:
    return (
        calls * (cost.per_call or 0.0)
        + input_tokens * (cost.per_input_token or 0.0)
        + output_tokens * (cost.per_output_token or 0.0)
    )


def total(used: Iterable[JSONObject | None]) -> JSONObject:
    """The sum; of models the last that is named.  Empty: nothing was used."""
    found: JSONObject = {}
    for each in used:
        for name in TOKENS:
            if each and name in each:
                found[name] = found.get(name, 0) + tokens(each[name])
        for currency, amount in ((each or {}).get("cost") or {}).items():
            costs = found.setdefault("cost", {})
            costs[currency] = costs.get(currency, 0) + amount
        if each and each.get("model"):
            found["model"] = each["model"]
    return found


def amount_in(used: JSONObject, currency: str) -> float:
    return float((used.get("cost") or {}).get(currency) or 0)
