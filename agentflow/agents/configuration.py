"""What an agent's configuration must say, and what of it nobody gets to read again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.conf import settings

from ..types import JSONObject, JSONValue
from ..workflow import callbacks, secret_references
from ..workflow.issues import closest
from ..workflow.issues import pointer as pointer_of
from . import api_configuration, llm_configuration
from .checks import address_problem
from .models import ToolType
from .secrets import PLACES

HIDDEN = "********"
_SECRET_KEYS = frozenset({"apiKey"})
_PLAIN_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent"})
_CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_RESERVED_VARIABLES = ("AGENTFLOW_", "LD_", "PYTHON", "PATH", "HOME", "TMP", "LANG", "LC_", "NODE_", "BASH")
_ADDRESS_KEYS = ("url", "baseUrl", "server")
# What a configuration may say, of the tool types where nothing else is looked at.
_KNOWN: dict[str, frozenset[str]] = {
    ToolType.API: api_configuration.KNOWN | {"simulate"},
    ToolType.SCRIPT: frozenset({"script", "version", "environment", "simulate"}),
    ToolType.USE_CASE: frozenset({"templateId", "version", "input", "simulate"}),
    ToolType.MCP: frozenset(
        {"server", "url", "headers", "tool", "arguments", "annotations", "hints", "simulate"}
    ),
    ToolType.AGENT_SERVICE: frozenset({"url", "agent", "headers", "simulate"}),
}


def issues(
    tool_type: str, configuration: JSONObject, *, stored: JSONObject | None = None
) -> list[JSONObject]:
    """Everything wrong with an agent's configuration, as issues with JSON pointers.

    Names that nobody knows may stay where they were `stored` like this before there was a rule.
    """
    return [
        {"pointer": f"/configuration{pointer}", "code": code, "message": message, "remedy": remedy}
        for pointer, code, message, remedy in (
            *_unknown(tool_type, configuration, stored or {}),
            *_issues(tool_type, configuration),
        )
    ]


def _unknown(
    tool_type: str, configuration: JSONObject, stored: JSONObject
) -> Iterator[tuple[str, str, str, str]]:
    known = _KNOWN.get(tool_type)
    for name, value in configuration.items() if known is not None else ():
        if name in (known or ()) or (name in stored and stored[name] == value):
            continue
        near = closest(name, sorted(known or ()))
        message = f"The configuration of a {tool_type} agent has no field {name[:100]!r}."
        yield pointer_of(name), "unknown_field", message, f"Write {near!r}." if near else "Remove it."


def _issues(tool_type: str, configuration: JSONObject) -> Iterator[tuple[str, str, str, str]]:
    given = configuration.get
    match tool_type:
        case ToolType.API:
            yield from _address(configuration, "url")
            yield from _callback(configuration)
            yield from api_configuration.issues(configuration)
        case ToolType.SCRIPT:
            if not _text(given("script")):
                yield "/script", "required", "A Script agent names a registered script.", "Give its name."
            yield from _environment(configuration)
        case ToolType.USE_CASE:
            try:
                UUID(str(given("templateId")))
            except ValueError:
                yield "/templateId", "required", "A UseCase agent names a template by its id.", ""
        case ToolType.MCP:
            yield from _mcp(configuration)
        case ToolType.A2A:
            yield from _address(configuration, "url")
            if given("protocolVersion", "1.0") not in {"1.0", "0.3"}:
                yield "/protocolVersion", "invalid", "The versions spoken are 1.0 and 0.3.", ""
        case ToolType.AGENT_SERVICE:
            yield from _address(configuration, "url")
            if not _text(given("agent")):
                yield "/agent", "required", "An AgentService agent names one agent of the service.", ""
        case ToolType.LLM:
            if given("baseUrl") is not None:
                yield from _address(configuration, "baseUrl")
            elif given("apiKey") is not None:
                yield (
                    "/apiKey",
                    "secret_without_address",
                    "A key of its own needs an address of its own.",
                    "Give baseUrl too.",
                )
            yield from llm_configuration.issues(configuration)
    headers = given("headers")
    if headers is not None and not _texts(headers):
        yield "/headers", "wrong_type", "headers is an object of texts.", ""
    yield from _references(tool_type, configuration)
    yield from _in_clear(configuration)


def credential_issues(configuration: JSONObject) -> list[JSONObject]:
    """What is wrong with the headers of a source: credentials are referred to, there and nowhere else."""
    found = [*_references(ToolType.A2A, configuration), *_in_clear(configuration)]
    return [
        {"pointer": f"/configuration{pointer}", "code": code, "message": message, "remedy": remedy}
        for pointer, code, message, remedy in found
    ]


def _references(tool_type: str, configuration: JSONObject) -> Iterator[tuple[str, str, str, str]]:
    allowed = PLACES.get(tool_type, ())
    for path, well_formed in secret_references.places(configuration):
        at = pointer_of(*path)
        if not well_formed:
            yield at, "bad_secret_reference", "This is no reference to a secret.", "Write ${secrets.NAME}."
        elif path[0] not in allowed or _is_key(configuration, path):
            known = ", ".join(allowed) or "nothing"
            message = f"A secret cannot stand here: in a {tool_type} agent's configuration it can in {known}."
            yield at, "secret_not_allowed", message, "Move it, or remove it."
        elif path == ("url",) and "${" in str(configuration["url"]).split("://")[-1].split("/")[0]:
            yield at, "secret_not_allowed", "A secret cannot name the host.", "Write the host itself."


def _is_key(value: JSONValue, path: secret_references.Path) -> bool:
    """Whether the last step itself, and not what it leads to, is the text with the reference."""
    for step in path:
        value = value[step]
    return not isinstance(value, str) or "${" in str(path[-1])


def _in_clear(configuration: JSONObject) -> Iterator[tuple[str, str, str, str]]:
    """Credentials belong in the workspace's secrets: a configuration is stored as it is written."""
    headers = configuration.get("headers")
    found = [("/headers", name, text) for name, text in headers.items()] if isinstance(headers, dict) else []
    found = [each for each in found if each[1].lower() in _CREDENTIAL_HEADERS]
    if configuration.get("apiKey"):
        found.append(("", "apiKey", configuration["apiKey"]))
    fallbacks = configuration.get("fallbacks")
    for index, fallback in enumerate(fallbacks if isinstance(fallbacks, list) else ()):
        if isinstance(fallback, dict) and fallback.get("apiKey"):
            found.append((f"/fallbacks/{index}", "apiKey", fallback["apiKey"]))
    for under, name, text in found:
        if isinstance(text, str) and text != HIDDEN and not secret_references.names(text):
            yield (
                f"{under}/{name}",
                "secret_in_clear",
                "This would be stored as it is written.",
                "PUT /api/v1/secrets/NAME, and write ${secrets.NAME} here.",
            )


def _address(configuration: JSONObject, key: str) -> Iterator[tuple[str, str, str, str]]:
    problem = address_problem(configuration.get(key))
    if problem:
        yield f"/{key}", "bad_address", f"{key}: {problem}", ""


def _callback(configuration: JSONObject) -> Iterator[tuple[str, str, str, str]]:
    if configuration.get("callback") is not None:
        try:
            callbacks.timeout_s(configuration["callback"])
        except callbacks.BadCallback as error:
            yield f"/callback{error.pointer}", "bad_callback", str(error), ""


def environment_name(name: str) -> bool:
    """Whether a script may be given a variable of this name: none that steers the interpreter or is ours."""
    return bool(_VARIABLE.fullmatch(name)) and not name.startswith(_RESERVED_VARIABLES)


def _environment(configuration: JSONObject) -> Iterator[tuple[str, str, str, str]]:
    given = configuration.get("environment")
    if given is not None and not _texts(given):
        yield "/environment", "wrong_type", "environment is an object of texts.", ""
        return
    for name in given or ():
        if not environment_name(name):
            yield pointer_of("environment", name), "bad_name", "A script cannot be given this variable.", ""


def _mcp(configuration: JSONObject) -> Iterator[tuple[str, str, str, str]]:
    server, url = configuration.get("server"), configuration.get("url")
    if not _text(configuration.get("tool")):
        yield "/tool", "required", "An MCP agent names one tool.", ""
    if (server is None) == (url is None):
        yield "", "required", "An MCP agent names either a server or a url.", ""
    elif url is not None:
        yield from _address(configuration, "url")
    elif server not in settings.AGENTFLOW_MCP_STDIO:
        known = ", ".join(sorted(settings.AGENTFLOW_MCP_STDIO)) or "none"
        message = f"There is no MCP server {str(server)[:100]!r}; configured are: {known}."
        yield "/server", "unknown_mcp_server", message, "Name one of them, or give a url."


def hidden(configuration: JSONObject) -> JSONObject:
    """The configuration as anybody may read it: secrets can be written, not read."""
    shown = {
        key: HIDDEN if key in _SECRET_KEYS and value and not secret_references.names(value) else value
        for key, value in configuration.items()
    }
    auth = configuration.get("auth")
    if isinstance(auth, dict):
        shown["auth"] = {
            name: HIDDEN
            if name in api_configuration.SECRET_FIELDS and not secret_references.names(value)
            else value
            for name, value in auth.items()
        }
    fallbacks = configuration.get("fallbacks")
    if isinstance(fallbacks, list):
        shown["fallbacks"] = [hidden(each) if isinstance(each, dict) else each for each in fallbacks]
    headers = configuration.get("headers")
    if isinstance(headers, dict):
        shown["headers"] = {
            name: value if name.lower() in _PLAIN_HEADERS or secret_references.names(value) else HIDDEN
            for name, value in headers.items()
        }
    return shown


def restored(given: JSONObject, stored: JSONObject) -> JSONObject:
    """What was read with its secrets hidden and is written back, with the secrets it had.

    Only while the address stays: else a secret could be had by sending it elsewhere.
    """
    if any(given.get(key) != stored.get(key) for key in _ADDRESS_KEYS):
        return given
    merged = {
        key: stored.get(key, value) if key in _SECRET_KEYS and value == HIDDEN else value
        for key, value in given.items()
    }
    headers, before = given.get("headers"), stored.get("headers")
    if isinstance(headers, dict) and isinstance(before, dict):
        merged["headers"] = {
            name: before.get(name, value) if value == HIDDEN else value for name, value in headers.items()
        }
    return merged


def still_hidden(configuration: JSONObject) -> list[JSONObject]:
    """Placeholders that stand for no stored secret."""
    found = [f"/{key}" for key in _SECRET_KEYS if configuration.get(key) == HIDDEN]
    headers: Any = configuration.get("headers")
    if isinstance(headers, dict):
        found += [f"/headers/{name}" for name, value in headers.items() if value == HIDDEN]
    return [
        {
            "pointer": f"/configuration{pointer}",
            "code": "secret_needed",
            "message": "The secret itself is needed: a new agent, or one with a new address, has none.",
            "remedy": "Write the value itself.",
        }
        for pointer in found
    ]


def _text(value: JSONValue) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(value: JSONValue) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
