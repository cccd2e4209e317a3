"""Checks the budget of a day when it is written with a workspace."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError

from ..workflow import daily


def validate_budget(value: Any) -> None:
    """A Django validator that names everything wrong at once."""
    problems = [f"{issue['pointer']}: {issue['message']}" for issue in daily.issues(value)]
    if problems:
        raise ValidationError(problems, code="bad_budget")
