"""OpenAPI 3.0 and 3.1: each chosen operation is an API agent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from ...types import JSONObject, JSONValue
from ..checks import address_problem
from ..models import ToolType
from . import documents
from .found import (
    AGENTS_MAX,
    SCHEMA_BYTES,
    BadDocument,
    Found,
    Listing,
    Place,
    SchemaTooLarge,
    Skipped,
    schema,
    text,
)

METHODS = ("get", "head", "post", "put", "patch", "delete")
_HOPS = 16  # of a $ref that leads to a $ref
_DEFINITIONS = 300  # that one schema may reach
_PLAIN_NAME = re.compile(r"^[^{}.\s]{1,100}$")


def look(place: Place) -> Listing:
    """`configuration {"operations": ["getOrder", "POST /refunds"]?, "baseUrl": address?}`; without
    `operations` all are taken.

    Raises:
        EgressError: as `documents.fetch`.
    """
    document = documents.fetch(place, place.url, yaml_too=True)
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise BadDocument("This is no OpenAPI document of version 3.")
    return _Reader(document, place).listing()


class _Reader:
    def __init__(self, document: JSONObject, place: Place) -> None:
        self.document = document
        self.place = place
        self.base = _base(document, place)

    def listing(self) -> Listing:
        wanted = self.place.configuration.get("operations")
        found: list[Found] = []
        skipped: list[Skipped] = []
        keys: set[str] = set()
        for key, path, method, item, operation in self._operations():
            self.place.seconds()
            if (wanted is not None and not {key, f"{method.upper()} {path}"} & set(wanted)) or key in keys:
                continue
            keys.add(key)
            if len(keys) > AGENTS_MAX:
                raise BadDocument(f"More than {AGENTS_MAX} operations: choose some.", "too_many_agents")
            try:
                found.append(self._found(key, path, method, item, operation))
            except BadDocument as error:
                skipped.append(Skipped(key, error.failure.code, error.failure.message))
        return Listing(tuple(found), tuple(skipped))

    def _operations(self) -> Iterator[tuple[str, str, str, JSONObject, JSONObject]]:
        paths = self.document.get("paths")
        if not isinstance(paths, dict):
            raise BadDocument("The document has no paths.")
        for path, item in paths.items():
            item = self._followed(item)
            if not isinstance(item, dict) or not path.startswith("/"):
                continue
            for method in METHODS:
                operation = item.get(method)
                if isinstance(operation, dict):
                    named = text(operation.get("operationId"), 300)
                    yield named or f"{method.upper()} {path}"[:300], path, method, item, operation

    def _found(self, key: str, path: str, method: str, item: JSONObject, operation: JSONObject) -> Found:
        url = self.base + path
        if problem := address_problem(url):
            raise BadDocument(f"{url[:200]}: {problem}", "bad_address")
        parameters = self._parameters(item, operation)
        body, body_required = self._body(operation)
        query = [each["name"] for each in parameters if each["in"] == "query"]
        properties = {each["name"]: each.get("schema") or {} for each in parameters}
        required = [each["name"] for each in parameters if each.get("required") is True]
        if body is not None:
            properties["body"] = body
            required += ["body"] if body_required else []
        taken: JSONObject = {"type": "object", "properties": properties, "required": required}
        name = text(operation.get("summary"), 200) or key[:200]
        return Found(
            key=key,
            name=name,
            description=text(operation.get("description"), 4000),
            tool_type=ToolType.API.value,
            configuration={
                "method": method.upper(),
                "url": url,
                "parameters": {"query": query, "body": body is not None},
                "headers": self.place.headers_for(url),
            },
            capabilities=({"name": key[:200], "tags": _tags(operation)},),
            input_schema=self._whole(taken),
            output_schema=self._answer(operation),
        )

    def _parameters(self, item: JSONObject, operation: JSONObject) -> list[JSONObject]:
        """The parameters of path and query; the operation's own win over the path's."""
        found: dict[tuple[str, str], JSONObject] = {}
        for given in (item.get("parameters"), operation.get("parameters")):
            for each in given if isinstance(given, list) else []:
                each = self._followed(each)
                name, where = (each.get("name"), each.get("in")) if isinstance(each, dict) else (None, None)
                if not isinstance(name, str) or not isinstance(where, str):
                    raise BadDocument("A parameter has no name or no place.", "bad_operation")
                found[name, where] = each
        usable = []
        for (name, where), each in found.items():
            if where in {"path", "query"}:
                if not _PLAIN_NAME.match(name) or name == "body":
                    raise BadDocument(f"The parameter {name[:100]!r} cannot be filled in.", "bad_operation")
                usable.append(each)
            elif each.get("required") is True and not self._in_headers(name, where):
                message = f"It needs the {where[:20]} {name[:100]!r}, which an input cannot give."
                raise BadDocument(message, "bad_operation")
        return usable

    def _in_headers(self, name: str, where: str) -> bool:
        return where == "header" and name.lower() in {each.lower() for each in self.place.headers}

    def _body(self, operation: JSONObject) -> tuple[JSONObject | None, bool]:
        asked = self._followed(operation.get("requestBody"))
        if not isinstance(asked, dict):
            return None, False
        media = _json_media(asked)
        if media is None:
            raise BadDocument("Its request body is no JSON.", "bad_operation")
        return _object(media.get("schema")), asked.get("required") is True

    def _answer(self, operation: JSONObject) -> JSONObject | None:
        """The schema of the first good answer; none where several differ in status: any may come."""
        responses = operation.get("responses")
        good = [
            self._followed(answer)
            for status, answer in (responses.items() if isinstance(responses, dict) else ())
            if str(status).startswith("2")
        ]
        media = _json_media(good[0]) if len(good) == 1 and isinstance(good[0], dict) else None
        return None if media is None or "schema" not in media else self._whole(_object(media["schema"]))

    def _whole(self, value: JSONObject) -> JSONObject | None:
        """The schema with everything it refers to inside it; what refers to itself goes on doing so.

        Raises:
            BadDocument: it refers to what is not there, or it is too large.
        """
        definitions: dict[str, JSONValue] = {}
        waiting: list[str] = []
        room = _Room()

        def moved(reference: str) -> str:
            if not reference.startswith("#/"):
                raise BadDocument(f"{reference[:200]} is in another document.", "bad_reference")
            name = reference.removeprefix("#/components/schemas/").replace("/", ".")
            if name not in definitions:
                if len(definitions) >= _DEFINITIONS:
                    raise BadDocument("A schema refers to too much.", "schema_too_large")
                definitions[name] = {}
                waiting.append(reference)
            return f"#/$defs/{name}"

        result = _rewritten(value, moved, room)
        while waiting:
            reference = waiting.pop()
            name = moved(reference).removeprefix("#/$defs/")
            definitions[name] = _rewritten(self._at(reference), moved, room)
        if definitions:
            result = {**result, "$defs": definitions}
        return schema(result)

    def _followed(self, value: JSONValue) -> JSONValue:
        for _ in range(_HOPS):
            if not isinstance(value, dict) or not isinstance(value.get("$ref"), str):
                return value
            value = self._at(value["$ref"])
        raise BadDocument("References lead in a circle.", "bad_reference")

    def _at(self, reference: str) -> JSONValue:
        found: Any = self.document
        for step in reference.removeprefix("#/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not reference.startswith("#/") or not isinstance(found, dict) or name not in found:
                raise BadDocument(f"{reference[:200]} is not there.", "bad_reference")
            found = found[name]
        return found


class _Room:
    """What is left of a schema's bytes, so that no more is rewritten than could be kept."""

    def __init__(self) -> None:
        self._left = SCHEMA_BYTES

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise SchemaTooLarge


def _rewritten(value: JSONValue, moved: Any, room: _Room) -> JSONValue:
    """A schema of OpenAPI as JSON Schema 2020-12: references moved, 3.0's own words spelt anew."""
    room.take(len(value) if isinstance(value, str) else 1)
    if isinstance(value, list):
        return [_rewritten(each, moved, room) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        return {"$ref": moved(value["$ref"])}
    dropped = {"nullable", "discriminator", "xml", "externalDocs", "example"}
    made = {
        key: _rewritten(each, moved, room) for key, each in value.items() if not _extra(key, each, dropped)
    }
    for name, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(name), bool) and made.pop(name) and bound in made:
            made[name] = made.pop(bound)
    if value.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
    return made


def _extra(key: str, value: JSONValue, dropped: set[str]) -> bool:
    """OpenAPI's own words; a property that bears such a name is a schema, and stays."""
    if key == "nullable":
        return isinstance(value, bool)
    return key in dropped and not (isinstance(value, dict) and ("type" in value or "$ref" in value))


def _base(document: JSONObject, place: Place) -> str:
    given = place.configuration.get("baseUrl")
    if isinstance(given, str) and given:
        return given.rstrip("/")
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers and isinstance(servers[0], dict) else {}
    url = text(first.get("url"), 2000) or "/"
    variables = first.get("variables")
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        if isinstance(variable, dict):
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    try:
        return urljoin(place.url, url).rstrip("/")
    except ValueError as error:
        raise BadDocument(f"The server's address cannot be read: {error}") from None


def _json_media(holder: JSONObject) -> JSONObject | None:
    content = holder.get("content")
    for kind, media in content.items() if isinstance(content, dict) else ():
        plain = str(kind).split(";")[0].strip().lower()
        if isinstance(media, dict) and (plain in {"application/json", "*/*"} or plain.endswith("+json")):
            return media
    return None


def _object(value: JSONValue) -> JSONObject:
    return value if isinstance(value, dict) else {}


def _tags(operation: JSONObject) -> list[str]:
    given = operation.get("tags")
    tags = [text(tag, 100) for tag in given] if isinstance(given, list) else []
    return list(dict.fromkeys(tag for tag in tags if tag))[:50]
