"""Addresses and schemas, as the parts of an agent's description are checked for them."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..types import JSONObject, JSONValue
from ..workflow import json_schema
from ..workflow.issues import pointer as pointer_of


def address_problem(url: JSONValue) -> str | None:
    """What is wrong with an address that is to be called; None: nothing."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        return "This must be a whole http or https address."
    if "@" in parts.netloc:
        return "User and password do not belong in an address, but in headers."
    return None


def schema_issues(pointer: str, schema: JSONValue) -> list[JSONObject]:
    """What is wrong with a schema that calls are to be held against."""
    if schema is None:
        return []
    return [
        {"pointer": pointer + pointer_of(*at), "code": "bad_schema", "message": message, "remedy": remedy}
        for at, message, remedy in json_schema.problems(schema)
    ][:20]
