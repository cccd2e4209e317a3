"""Fields of the admin's forms that take JSON."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import UnfoldAdminTextareaWidget

from ..api import parsers
from ..errors import InvalidInput
from ..types import JSONValue


class StrictJSONField(forms.JSONField):
    """JSON as the REST API takes it: no NaN, no NUL, no repeated keys, not too deep."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 6, "class": "af-code"})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, str):  # typed before, and refused
            return value
        return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)

    def to_python(self, value: Any) -> JSONValue:
        if value in self.empty_values or isinstance(value, dict | list):
            return None if value in self.empty_values else value
        try:
            return parsers.loads(str(value).encode())
        except InvalidInput as error:
            said = [issue["message"] for issue in error.issues] or [error.message]
            raise ValidationError(said, code="invalid") from error


class JSONObjectField(StrictJSONField):
    """A JSON object.  A field left empty is None or, with `or_empty`, an empty object."""

    def __init__(self, *, or_empty: bool = False, **options: Any) -> None:
        super().__init__(required=False, **options)
        self.or_empty = or_empty

    def has_changed(self, initial: Any, data: Any) -> bool:
        if self.or_empty and not initial and data in self.empty_values:
            return False
        return super().has_changed(initial, data)

    def clean(self, value: Any) -> JSONValue:
        found: JSONValue = super().clean(value)
        if found is None:
            return {} if self.or_empty else None
        if not isinstance(found, dict):
            raise ValidationError("This must be a JSON object.")
        return found
