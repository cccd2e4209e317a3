"""Fetching what a source answers, and reading JSON or YAML without being taken in."""

from __future__ import annotations

import json
from typing import Any

import yaml

from ...conf import LIMITS, MB
from ...integrations import http, http_failures
from ...types import JSONValue
from ..output import BadOutput, clean_json
from .found import SECONDS, BadDocument, Place

DOCUMENT_BYTES = 4 * MB


def fetch(place: Place, url: str, *, yaml_too: bool = False, timeout_s: float = SECONDS) -> JSONValue:
    """GET a document through the egress client.

    Raises:
        EgressError: it is not to be had, or is none (`BadDocument`).
    """
    accept = "application/json, application/yaml;q=0.9" if yaml_too else "application/json"
    response = http.client(place.policy).request(
        "GET",
        url,
        headers={"accept": accept, **place.sent_to(url)},
        timeout_s=place.seconds(timeout_s),
        max_bytes=DOCUMENT_BYTES,
    )
    http_failures.check_status(response.status, response.headers, method="GET", body=response.body)
    return read(response.body, yaml_too=yaml_too)


def read(body: bytes, *, yaml_too: bool = False) -> JSONValue:
    """
    Raises:
        BadDocument: neither JSON nor, where that is asked for, plain YAML; or too deep or too large.
    """
    try:
        given = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDocument(f"The document is not UTF-8: {error}") from None
    try:
        if yaml_too and not given.lstrip().startswith("{"):
            value = _yaml(given)
        else:
            value = json.loads(given, parse_constant=_no_number)
        return clean_json(value, max_bytes=4 * DOCUMENT_BYTES)
    except BadOutput as error:
        raise BadDocument(error.failure.message.replace("output", "document")) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)[:300]
        raise BadDocument(f"The document cannot be read: {said}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


class _Loader(yaml.CSafeLoader):
    """YAML as far as it is JSON: dates stay texts."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(given: str) -> JSONValue:
    depth = 0
    for event in yaml.parse(given, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):  # a few lines of them make gigabytes
            raise ValueError("aliases are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > LIMITS.json_depth:
            raise ValueError("nested too deep")
    return yaml.load(given, Loader=_Loader)
