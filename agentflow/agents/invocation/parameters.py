"""The input of an operation of an OpenAPI document, as the API tool wants it."""

from __future__ import annotations

from ...types import JSONObject, JSONValue


def applied(configuration: JSONObject, given: JSONValue) -> JSONObject:
    """`parameters {"query": ["limit", "tags"], "body": true}` spelt out for this input.

    What the input has of the named is put in the query, a list as one pair for each; the input's `body` is
    the body.
    """
    wanted = configuration.get("parameters")
    if not isinstance(wanted, dict):
        return configuration
    values = given if isinstance(given, dict) else {}
    names = wanted.get("query")
    query: JSONObject = {}
    for name in names if isinstance(names, list) else []:
        value = values.get(name)
        if isinstance(value, list):
            query[name] = [f"{{{name}.{number}}}" for number in range(len(value))]
        elif value is not None:
            query[name] = f"{{{name}}}"
    fixed = configuration.get("query")
    return {
        **configuration,
        "query": {**query, **(fixed if isinstance(fixed, dict) else {})},
        "body": values.get("body") if wanted.get("body") is True else None,
    }
