"""What every page is made of: icons, states and times.

A state is always an icon, a word and a colour; this is the one table of them, and pages that draw
states in the browser read it from here.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, NamedTuple

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from ...types import JSONValue

register = template.Library()


class State(NamedTuple):
    """How a state looks: its colour family (css `data-st`), icon and word."""

    look: str
    icon: str
    word: str


STATES: dict[str, State] = {
    "blocked": State("pending", "circle-dashed", "Not started"),
    "pending": State("pending", "circle-dashed", "Not started"),
    "ready": State("ready", "circle-dot", "Ready"),
    "running": State("running", "loader-2", "Running"),
    "waiting_human": State("human", "user-question", "Waiting for a person"),
    "waiting_external": State("other", "clock-pause", "Waiting"),
    "paused": State("other", "player-pause", "Paused"),
    "cancelling": State("cancelled", "ban", "Cancelling"),
    "completed": State("completed", "check", "Completed"),
    "failed": State("failed", "x", "Failed"),
    "skipped": State("skipped", "player-skip-forward", "Skipped"),
    "cancelled": State("cancelled", "ban", "Cancelled"),
    "healed": State("healed", "bandage", "Healed"),
}
UNKNOWN = State("pending", "point", "Unknown")

TOOL_ICONS = {"API": "api", "Script": "code", "MCP": "plug", "LLM": "sparkles", "UseCase": "stack-2"}

# Longer texts of an answer are folded, so that one value never pushes the decision off the screen.
FOLD_CHARS = 400


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    return format_html(
        '<svg class="ic {}" aria-hidden="true"><use href="{}#{}"/></svg>',
        extra,
        static("agentflow/icons.svg"),
        name,
    )


def look_of(status: str, attempt: int = 1) -> State:
    """How a block or an execution in `status` looks; what completed after a failed try is healed."""
    if status == "completed" and attempt > 1:
        return STATES["healed"]
    return STATES.get(status, UNKNOWN)


@register.simple_tag
def state(status: str, attempt: int = 1, word: str = "", sign: str = "") -> SafeString:
    """A state as a pill, or in its colour what has a word and an icon of its own."""
    shown = look_of(status, attempt)
    spin = "spin" if shown.look == "running" else ""
    drawn = icon(sign or shown.icon, spin)
    return format_html('<span class="st" data-st="{}">{}{}</span>', shown.look, drawn, word or shown.word)


@register.simple_tag
def state_icon(status: str) -> SafeString:
    shown = look_of(status)
    return icon(shown.icon, "spin" if shown.look == "running" else "")


@register.filter
def look(status: str) -> str:
    return look_of(status).look


@register.simple_tag
def states_json() -> str:
    return json.dumps({key: list(value) for key, value in STATES.items()})


@register.simple_tag
def when(moment: datetime | None, style: str = "clock") -> SafeString:
    """A moment as `<time>`; the browser rewrites it in the reader's zone.

    `style`: clock (14:06:28, with the date where it is not today), ago, left (till a deadline).
    """
    if moment is None:
        return mark_safe("")
    shown = moment.strftime("%H:%M:%S" if moment.date() == timezone.now().date() else "%Y-%m-%d %H:%M")
    if style == "left":
        shown = time_left(moment)
    return format_html(
        '<time datetime="{}" data-as="{}" title="{}">{}</time>',
        moment.isoformat(),
        style,
        moment.strftime("%Y-%m-%d %H:%M:%S %Z"),
        shown,
    )


def time_left(deadline: datetime) -> str:
    seconds = (deadline - timezone.now()).total_seconds()
    return span(seconds, parts=1) if seconds >= 0 else f"{span(-seconds, parts=1)} over"


@register.filter
def span(seconds: float | None, parts: int = 2) -> str:
    """A duration for people: `1.8 s`, `4 min 18 s`, `2 h 5 min`."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left, shown = int(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size:
            shown.append(f"{left // size} {unit}")
            left %= size
    return " ".join(shown[: int(parts)])


@register.filter
def initials(user: Any) -> str:
    words = (user.get_full_name() or user.get_username()).replace(".", " ").replace("-", " ").split()
    return "".join(word[0] for word in words[:2]).upper()


@register.filter
def person(user: Any) -> str:
    """A user's name for other people."""
    return "" if user is None else user.get_full_name() or user.get_username()


@register.filter
def words(key: str) -> str:
    """A field's name as a label: `orderTotal` and `order_total` become `Order total`."""
    spaced = re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f" {found[1].lower()}", key)
    text = spaced.replace("_", " ").replace("-", " ").strip()
    return text[:1].upper() + text[1:]


@register.filter
def pretty(value: JSONValue) -> str:
    """A JSON value as indented text."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


@register.filter
def readable(value: JSONValue) -> SafeString:
    """A JSON value as people read it: objects as nested lists of facts, long ones folded."""
    return _readable(value, depth=0)


def _readable(value: JSONValue, depth: int) -> SafeString:
    if value is None or value == "" or value == [] or value == {}:
        return mark_safe('<span class="faint">empty</span>')
    if isinstance(value, bool):
        return mark_safe("Yes" if value else "No")
    if isinstance(value, int | float):
        return format_html('<span class="num">{}</span>', f"{value:,}" if abs(value) >= 100_000 else value)
    if isinstance(value, str):
        return _text(value)
    if depth >= 4:
        return format_html("<pre>{}</pre>", json.dumps(value, ensure_ascii=False, indent=1)[:4000])
    if isinstance(value, dict):
        inner = format_html_join(
            "",
            "<dt>{}</dt><dd>{}</dd>",
            ((words(str(key)), _readable(item, depth + 1)) for key, item in list(value.items())[:200]),
        )
        body = format_html('<dl class="facts">{}</dl>', inner)
        return _folded(f"{len(value)} fields", body) if depth and len(value) > 6 else body
    return _sequence(value, depth)


def _sequence(value: list[Any], depth: int) -> SafeString:
    if all(not isinstance(item, dict | list) for item in value) and len(value) <= 8:
        return format_html_join("; ", "{}", ((_readable(item, depth + 1),) for item in value))
    inner = format_html_join("", "<li>{}</li>", ((_readable(item, depth + 1),) for item in value[:200]))
    return _folded(f"{len(value)} entr{'y' if len(value) == 1 else 'ies'}", format_html("<ul>{}</ul>", inner))


def _text(value: str) -> SafeString:
    if len(value) <= FOLD_CHARS:
        return format_html("{}", value)
    return _folded(f"{value[:80]}…", format_html("<p>{}</p>", value))


def _folded(label: str, body: SafeString) -> SafeString:
    return format_html("<details><summary>{}</summary>{}</details>", label, body)


@register.simple_tag(takes_context=True)
def chosen_theme(context: template.Context) -> str:
    """`light`, `dark`, or nothing for the reader's own setting."""
    request = context.get("request")
    theme = request.COOKIES.get("theme", "") if request is not None else ""
    return theme if theme in {"light", "dark"} else ""
