"""Checks a workspace's egress allow list when it is written, by the parser that reads it at every call."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError

from ..integrations.egress import parse_rule

ENTRIES_MAX = 200


def problem_with(entry: Any) -> str | None:
    """Why `entry` allows nothing, or None."""
    if not isinstance(entry, str):
        return "must be text such as api.example.com or *.example.com:8443"
    try:
        parse_rule(entry)
    except ValueError as error:
        return str(error)
    return None


def validate_allow_list(value: Any) -> None:
    """A Django validator that names every bad entry at once."""
    if not isinstance(value, list):
        raise ValidationError("The allow list must be a list of hosts.", code="not_a_list")
    if len(value) > ENTRIES_MAX:
        raise ValidationError(f"At most {ENTRIES_MAX} hosts can be listed.", code="too_many")
    problems = [f"{entry!r} {why}" for entry in value if (why := problem_with(entry))]
    if problems:
        raise ValidationError(problems, code="bad_host")
