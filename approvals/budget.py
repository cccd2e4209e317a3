"""The question about a budget that is used up, as its pages show it: how it stands, what was spent on what,
and the ways on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentflow.types import JSONObject

from .models import Approval

PARTS = ("tokens", "cost", "time")
SCALES = {"time": 1000}  # people say seconds


@dataclass(frozen=True, slots=True)
class Way:
    """One of the buttons.  `more`: so much more of the budget may be named with it."""

    action: str
    icon: str
    title: str
    note: str
    agent_id: str = ""
    more: bool = False


def shown(approval: Approval) -> dict[str, Any] | None:
    """None: it is no such question."""
    about = approval.request.get("budget")
    facts = approval.request.get("facts")
    if approval.kind != "budget" or not isinstance(about, dict) or not isinstance(facts, dict):
        return None
    parts = [part for part in PARTS if part in facts["allowed"]]
    currency = str(about["currency"])
    columns = [part for part in PARTS if part in parts or any(row.get(_KEYS[part]) for row in about["rows"])]
    return {
        "stands": [
            (
                _UNITS[part],
                said(part, facts["spent"][part], currency),
                said(part, facts["allowed"][part], currency),
            )
            for part in parts
        ],
        "columns": [_UNITS[part] for part in columns],
        "by_agent": any(row.get("agentId") for row in about["rows"]),
        "rows": [
            {
                "name": row["name"],
                "agent": row.get("agentId") or "",
                "cells": [said(part, row.get(_KEYS[part]) or 0, currency) for part in columns],
            }
            for row in about["rows"]
        ],
        "ways": _ways(about, parts, currency),
        "amounts": [
            {
                "part": part,
                "label": f"{_MORE[part].format(currency)}",
                "usual": _number(about["usual"][part] / SCALES.get(part, 1)),
                "scale": SCALES.get(part, 1),
                "step": "any" if part == "cost" else "1",
            }
            for part in parts
        ],
    }


_KEYS = {"tokens": "tokens", "cost": "cost", "time": "timeMs"}
_UNITS = {"tokens": "Tokens", "cost": "Money", "time": "Time"}
_MORE = {"tokens": "More tokens", "cost": "More {}", "time": "More seconds"}


def said(part: str, amount: float, currency: str) -> str:
    """`1,200 tokens`, `3.50 EUR`, `12.5 s`."""
    if part == "time":
        return f"{amount / 1000:,.10g} s"
    if part == "tokens":
        return f"{amount:,.0f} tokens"
    return (
        f"{amount:,.2f} {currency}"
        if amount >= 1 or round(amount, 2) == amount
        else f"{amount:.4g} {currency}"
    )


def _ways(about: JSONObject, parts: list[str], currency: str) -> list[Way]:
    usual = " and ".join(said(part, about["usual"][part], currency) for part in parts)
    until = "until the day ends" if about["scope"] in ("agent", "workspace") else "for this execution"
    ways = [Way("extend", "coin", "Extend the budget", f"By {usual}, or what you say, {until}.", more=True)]
    for agent in about["agents"]:
        price, before = (said("cost", agent[each], agent["currency"]) for each in ("price", "insteadOf"))
        note = f"{price} instead of {before} for a call of 1,000 tokens in and out."
        shared = about["scope"] != "agent"
        note += " The budget is extended for it." if shared else ""
        title = f"Go on with {agent['name']}"
        ways.append(Way("cheaper", "arrows-split-2", title, note, agent["agentId"], more=shared))
    stop = "What would spend more of it in this execution fails, until somebody restarts it."
    return [*ways, Way("stop", "x", "Stop here", stop)]


def _number(amount: float) -> str:
    return f"{amount:.10g}"
