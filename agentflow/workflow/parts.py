"""Small JSON objects that people write beside templates: read strictly, with all that is wrong and where."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from ..types import JSONObject, JSONValue
from .issues import pointer


class Part(BaseModel):
    """One of them: camelCase as on the wire, stored without what is at its default."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        allow_inf_nan=False,
    )

    def stored(self) -> JSONObject:
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


P = TypeVar("P", bound=Part)


def read(kind: type[P], value: JSONValue, at: str) -> tuple[P | None, list[JSONObject]]:
    """The part, or everything wrong with it, as issues below the pointer `at`."""
    try:
        return kind.model_validate(value), []
    except ValidationError as error:
        return None, [_issue(detail, at) for detail in error.errors(include_url=False)[:50]]


def said(at: str, code: str, message: str) -> JSONObject:
    return {"pointer": at, "code": code, "message": message, "remedy": ""}


def _issue(detail: ErrorDetails, at: str) -> JSONObject:
    where = at + pointer(*detail["loc"]) if detail["loc"] else at
    match detail["type"]:
        case "missing":
            return said(where, "required", "This is needed.")
        case "extra_forbidden":
            return said(where, "unknown_field", "There is no such field here.")
        case "model_type" | "dict_type":
            return said(where, "wrong_type", "Must be an object.")
        case "empty_budget":
            return said(where, "empty_budget", f"{detail['msg']}.")
    code = "wrong_type" if detail["type"].endswith("_type") else "invalid"
    return said(where, code, f"{detail['msg']}."[:300])
