"""UseCase: another template, run as a child execution that the engine starts."""

from __future__ import annotations

from uuid import UUID

from ...workflow.failures import Failure, FailureKind
from .. import registry
from ..calls import Call, Failed, Outcome, StartChild
from ..registry import AgentSpec


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """`configuration {"templateId": id, "version": 3?, "input": {...}?}`; else the block's own."""
    configuration = registry.merged_configuration(spec, call.configuration)
    try:
        template_id = UUID(str(configuration.get("templateId")))
    except ValueError:
        return _bad("configuration.templateId must be the id of a template.")
    version = configuration.get("version")
    if version is not None and (type(version) is not int or version < 1):
        return _bad("configuration.version must be a version number from 1.")
    given = configuration["input"] if configuration.get("input") is not None else call.input
    if given is None:
        given = {}
    if not isinstance(given, dict):
        return _bad("The input of a sub-workflow must be an object.")
    return StartChild(template_id=template_id, version=version, input=given)


def _bad(message: str) -> Failed:
    return Failed(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))
