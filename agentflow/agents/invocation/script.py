"""Script: a registered script in the sandbox; JSON goes in by stdin and comes out by stdout."""

from __future__ import annotations

import json
from dataclasses import replace

from ...conf import KB, MB
from ...integrations import sandbox
from ...integrations.sandbox import Held, Language
from ...integrations.sandbox_process import Ended, ScriptRun
from ...types import JSONObject
from ...workflow.classification import of_exit
from ...workflow.failures import Failure, FailureKind
from .. import registry
from ..builtin import BuiltinFailure
from ..calls import Call, Completed, Failed, Outcome
from ..configuration import environment_name
from ..output import BadOutput, check_schema
from ..registry import AgentSpec, ScriptSpec


def run(call: Call, spec: AgentSpec | None) -> Outcome:
    """`configuration {"script": name, "version": 3?, "environment": {"API_KEY": "${secrets.KEY}"}?}`.

    What the script writes to stderr goes to the block's log.  Its environment is the agent's to say: a
    template's could change what the interpreter does.
    """
    configuration = registry.merged_configuration(spec, call.configuration)
    script = _script(call, spec, configuration)
    if script.input_schema:
        check_schema(
            call.input, script.input_schema, code="script_input_mismatch", kind=FailureKind.CONFIGURATION
        )
    timeout_s = min(call.timeout_s, script.timeout_s)
    try:
        done = sandbox.run(
            script.source,
            language=Language(script.language),
            held=_held(script),
            stdin=json.dumps(call.input, ensure_ascii=False).encode("utf-8", "replace"),
            timeout_s=timeout_s,
            environment={**_environment(spec), "AGENTFLOW_IDEMPOTENCY_KEY": call.idempotency_key},
            on_line=lambda line: call.log("info", line),
            on_cancel=call.cancel.on_cancel,
        )
    except sandbox.SandboxMissing as error:
        return _failed(FailureKind.CONFIGURATION, "sandbox_missing", str(error))
    except sandbox.InterpreterMissing as error:
        return _failed(FailureKind.CONFIGURATION, "interpreter_missing", str(error))
    except OSError as error:
        return _failed(
            FailureKind.TRANSIENT, "sandbox_failed", f"No process could be started: {error.strerror}."
        )
    outcome = _outcome(done, timeout_s)
    if isinstance(outcome, Completed) and script.output_schema:
        try:
            check_schema(
                outcome.output, script.output_schema, code="script_output_mismatch", kind=FailureKind.AGENT
            )
        except BadOutput as error:
            return Failed(replace(error.failure, outcome_unknown=True))  # it ran
    return outcome


def _script(call: Call, spec: AgentSpec | None, configuration: JSONObject) -> ScriptSpec:
    """Which version is the agent's to say: a template must not bring an old one back."""
    name = configuration.get("script")
    version = (spec.configuration if spec else configuration).get("version")
    wanted = isinstance(name, str) and (version is None or type(version) is int)
    found = registry.script(call.workspace_id, str(name), version) if wanted else None
    if found is None:
        which = f"{str(name)[:100]!r}" + (f" version {version}" if version is not None else "")
        message = f"There is no registered script {which}."
        raise BuiltinFailure(Failure(FailureKind.CONFIGURATION, "unknown_script", message))
    return found


def _held(script: ScriptSpec) -> Held:
    limits = script.limits
    return Held(
        cpu_s=limits.cpu_seconds,
        memory_bytes=limits.memory_mb * MB,
        file_bytes=limits.file_mb * MB,
        open_files=limits.open_files,
        processes=limits.processes,
        output_bytes=limits.output_kb * KB,
        network=script.network,
    )


def _environment(spec: AgentSpec | None) -> dict[str, str]:
    given = (spec.configuration.get("environment") if spec else None) or {}
    if not isinstance(given, dict) or not all(
        isinstance(text, str) and "\0" not in text and environment_name(name) for name, text in given.items()
    ):
        message = "configuration.environment must be an object of texts with names of its own."
        raise BuiltinFailure(Failure(FailureKind.CONFIGURATION, "bad_configuration", message))
    return given


def _outcome(done: ScriptRun, timeout_s: float) -> Outcome:
    if done.ended is Ended.CANCELLED:
        return _failed(FailureKind.TRANSIENT, "cancelled", "The call was cancelled.", unknown=True)
    if done.ended is Ended.TIMEOUT:
        return _failed(
            FailureKind.TRANSIENT, "timeout", f"The script took longer than {timeout_s:g} s.", unknown=True
        )
    evidence = {"exitCode": done.exit_code, "stderr": done.stderr_tail[-2000:]}
    if done.hit_limit:
        what = "more output than it may write" if done.ended is Ended.OUTPUT else "more than its limits allow"
        return _failed(FailureKind.AGENT, "script_limit", f"The script used {what}.", evidence, unknown=True)
    if done.exit_code != 0:
        message = f"The script ended with exit code {done.exit_code}: {done.last_words or 'it said nothing'}"
        return _failed(of_exit(done.exit_code), "script_failed", message, evidence, unknown=True)
    if not done.stdout.strip():
        return Completed(None)
    try:
        return Completed(json.loads(done.stdout))
    except (ValueError, RecursionError) as error:
        evidence["stdout"] = done.stdout[:500].decode("utf-8", "replace")
        message = f"The script's output is not JSON: {error}"[:300]
        return _failed(FailureKind.AGENT, "script_not_json", message, evidence, unknown=True)


def _failed(
    kind: FailureKind,
    code: str,
    message: str,
    evidence: dict[str, object] | None = None,
    *,
    unknown: bool = False,
) -> Failed:
    return Failed(Failure(kind, code, message, outcome_unknown=unknown, evidence=evidence or {}))
