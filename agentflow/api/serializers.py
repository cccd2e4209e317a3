"""Bodies checked field by field: nothing unknown, nothing converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.fields import empty

from ..conf import LIMITS
from .text import camelize, printable

_TEXT_FIELDS = (
    serializers.CharField,
    serializers.ChoiceField,
    serializers.UUIDField,
    serializers.DateTimeField,
    serializers.DateField,
    serializers.TimeField,
    serializers.DurationField,
    serializers.DecimalField,
)
UNKNOWN_FIELDS_MAX = 20


def misfit(field: serializers.Field[Any, Any, Any, Any], value: Any) -> str | None:
    """What is wrong with the JSON type of `value`, which DRF itself would convert."""
    if value is None:
        return None  # allow_null is DRF's to judge
    if isinstance(field, serializers.BooleanField):
        return None if isinstance(value, bool) else "Must be true or false."
    if isinstance(field, serializers.IntegerField):
        return None if isinstance(value, int) and not isinstance(value, bool) else "Must be a whole number."
    if isinstance(field, serializers.FloatField):
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return None if numeric else "Must be a number."
    if isinstance(field, _TEXT_FIELDS):
        if not isinstance(value, str):
            return "Must be text."
        if len(value) > LIMITS.text_bytes or len(value.encode(errors="replace")) > LIMITS.text_bytes:
            return f"Must be at most {LIMITS.text_bytes} bytes of text."
    return None


def _misfits(field: serializers.Field[Any, Any, Any, Any], value: Any) -> Any:
    """Errors in the shape DRF gives them, for a field and what lists and maps hold; None if all fits."""
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        found: dict[Any, Any] = {
            index: errors for index, item in enumerate(value) if (errors := _misfits(field.child, item))
        }
        return found or None
    if isinstance(field, serializers.DictField) and isinstance(value, dict):
        found = {key: errors for key, item in value.items() if (errors := _misfits(field.child, item))}
        return found or None
    message = misfit(field, value)
    return [ErrorDetail(message, code="wrong_type")] if message else None


class StrictSerializer(serializers.Serializer[Any]):
    """A body or a part of one.

    Fields are declared in snake_case and spelt in camelCase on the wire.  An unknown field is an
    error that names it; a value of another JSON type is an error and never converted; all errors
    are told at once.
    """

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = {}
        for name, field in super().get_fields().items():
            wire = camelize(name)
            if wire != name:
                if field.source is None:
                    field.source = name
                if isinstance(field, serializers.SerializerMethodField):
                    field.source = None
                    field.method_name = field.method_name or f"get_{name}"
                if check := getattr(self, f"validate_{name}", None):
                    setattr(self, f"validate_{wire}", check)
            fields[wire] = field
        return fields

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)  # says that an object was expected
        errors: dict[str, Any] = self._unknown(data)
        sound = dict(data)
        for name, field in self.fields.items():
            value = data.get(name, empty)
            if value is not empty and not field.read_only and (found := _misfits(field, value)):
                errors[name] = found
                del sound[name]
        try:
            value = super().to_internal_value(sound)
        except ValidationError as error:
            detail: Any = error.detail
            raise ValidationError({**detail, **errors}) from error
        if errors:
            raise ValidationError(errors)
        return value

    def _unknown(self, data: Mapping[str, Any]) -> dict[str, Any]:
        writable = [name for name, field in self.fields.items() if not field.read_only]
        unknown = [name for name in data if name not in writable][:UNKNOWN_FIELDS_MAX]
        known = ", ".join(sorted(writable)) or "none"
        return {
            name: [
                ErrorDetail(
                    f"There is no field {printable(name, 100)!r} here; the fields are: {known}.",
                    code="unknown_field",
                )
            ]
            for name in unknown
        }


class DayBudgetShown(StrictSerializer):
    """What may be used up in a day, from 00:00 to 24:00 UTC; an empty object: as much as comes."""

    tokens = serializers.IntegerField(required=False, min_value=1)
    cost = serializers.FloatField(required=False)
    currency = serializers.CharField(required=False, default="USD")
    soft_share = serializers.FloatField(
        required=False, default=0.8, help_text="From this share of it on there is one warning."
    )
    when_spent = serializers.ChoiceField(
        choices=["ask", "wait"], required=False, default="ask", help_text="wait: until the next day."
    )


@extend_schema_field(DayBudgetShown)
class DayBudgetField(serializers.DictField):
    pass
