"""A plain interpreter of workflow definitions: what must run and what must be skipped.

Written from the rules in docs/concepts.md, without the engine's plan, counters or statements, so that
both can be held against each other.  It looks at the definition's JSON again and again until nothing
changes; time, workers and attempts do not exist here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentflow.workflow.expressions import ExpressionError, compile_expression

SETTLED = {"completed", "failed", "skipped"}


class Undecided(Exception):
    """A person has to be asked: the rules alone do not say how it goes on."""


def interpret(
    definition: Mapping[str, Any],
    *,
    run_input: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    failing: frozenset[str] = frozenset(),
    answers: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Status by blockId when nothing moves any more; a block that waits is `waiting_human`.

    `failing` blocks fail for good when they are called; `outputs` is what called blocks answer.
    """
    blocks = {block["blockId"]: block for block in definition["blocks"]}
    chooses: dict[str, list[str]] = {
        name: list(block.get("dependencies") or ()) for name, block in blocks.items()
    }
    for name, block in blocks.items():
        for branch in (block.get("conditions") or {}).get("branches", ()):
            for target in branch.get("nextBlocks", ()):
                if name not in chooses[target]:
                    chooses[target].append(name)
    status: dict[str, str] = {}
    cause: dict[str, str] = {}  # of a skip: "failure" or "choice"
    result: dict[str, Any] = {}
    taken: dict[str, set[str]] = {}  # by choosing block: the successors it takes of those it names

    def scope() -> dict[str, Any]:
        known = {n: {"output": result.get(n), "status": s} for n, s in status.items() if s in SETTLED}
        return {"input": dict(run_input or {}), "context": {}, "workspace": {}, "blocks": known}

    def edge(source: str, target: str) -> str:
        if status[source] == "failed" and blocks[source].get("onError", "fail") == "fail":
            return "failed"
        if status[source] == "skipped":
            return "failed" if cause[source] == "failure" else "dead"
        named = {t for branch in branches(blocks[source]) for t in branch.get("nextBlocks", ())}
        chosen = taken[source] if status[source] == "completed" else _default(blocks[source])
        return "dead" if target in named and target not in chosen else "taken"

    def complete(name: str, output: Any) -> str:
        result[name] = output
        status[name] = "completed"
        try:
            taken[name] = _choose(blocks[name], scope())
        except (Undecided, ExpressionError):
            del status[name], result[name]
            return "waiting_human"
        return "completed"

    def decide(name: str) -> str:
        block = blocks[name]
        edges = [edge(source, name) for source in chooses[name]]
        rule = block.get("runOn", "success")
        if "failed" in edges and rule == "success":
            cause[name] = "failure"
            return "skipped"
        if rule == "failure" and "failed" not in edges:
            cause[name] = "choice"
            return "skipped"
        if edges and (set(edges) == {"dead"} or ("dead" in edges and block.get("join") == "all")):
            cause[name] = "choice"
            return "skipped"
        if block.get("when") is not None and not compile_expression(block["when"]).evaluate(scope()):
            cause[name] = "choice"
            return "skipped"
        human = block.get("humanInLoop")
        if human and human.get("required", True):
            answer = (answers or {}).get(name)
            if answer is None:
                return "waiting_human"
            if not answer["approved"]:
                rule = human.get("onReject", "fail")
                if rule == "skip":
                    cause[name] = "choice"
                    return "skipped"
                if rule == "fail":
                    return "failed"
                return complete(name, answer)
            if human.get("type") == "input":
                return complete(name, answer.get("response"))
        if not block.get("agentId"):
            return complete(name, {})
        if name in failing:
            return "failed"
        return complete(name, (outputs or {}).get(name, {}))

    moved = True
    while moved:
        moved = False
        for name in blocks:
            if name not in status and all(status.get(s) in SETTLED for s in chooses[name]):
                status[name] = decide(name)
                moved = True
    return {name: status.get(name, "blocked") for name in blocks}


def fails(definition: Mapping[str, Any], status: Mapping[str, str]) -> bool:
    """Whether a run whose blocks ended so has failed: some failure was not caught."""
    blocks = {block["blockId"]: block for block in definition["blocks"]}
    after: dict[str, set[str]] = {name: set() for name in blocks}
    for name, block in blocks.items():
        for source in block.get("dependencies") or ():
            after[source].add(name)
        for branch in branches(block):
            after[name] |= set(branch.get("nextBlocks", ()))

    def caught(name: str, causes: frozenset[str]) -> bool:
        return any(
            (status[succ] == "completed" and blocks[succ].get("runOn") == "failure")
            or (succ in causes and caught(succ, causes))
            for succ in after[name]
        )

    skipped_by_failure = frozenset(
        name for name in blocks if status[name] == "skipped" and _behind_failure(name, blocks, after, status)
    )
    return any(
        status[name] == "failed"
        and blocks[name].get("onError", "fail") == "fail"
        and not caught(name, skipped_by_failure)
        for name in blocks
    )


def _behind_failure(
    name: str, blocks: Mapping[str, Any], after: Mapping[str, set[str]], status: Mapping[str, str]
) -> bool:
    """A block with the plain rule is skipped for a failure when a source failed, or was so skipped."""
    if blocks[name].get("runOn", "success") != "success":
        return False
    return any(
        (status[source] == "failed" and blocks[source].get("onError", "fail") == "fail")
        or (status[source] == "skipped" and _behind_failure(source, blocks, after, status))
        for source in blocks
        if name in after[source]
    )


def _default(block: Mapping[str, Any]) -> set[str]:
    return {t for b in branches(block) if b["condition"] == "default" for t in b.get("nextBlocks", ())}


def branches(block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((block.get("conditions") or {}).get("branches", ()))


def _choose(block: Mapping[str, Any], scope: dict[str, Any]) -> set[str]:
    conditions = block.get("conditions")
    if not conditions:
        return set()
    kind = conditions["type"]
    chosen: list[Mapping[str, Any]] = []
    default = [b for b in branches(block) if b["condition"] == "default"]
    others = [b for b in branches(block) if b["condition"] != "default"]
    if kind == "switch":
        value = compile_expression(conditions["expression"]).evaluate(scope)
        chosen = [b for b in others if b["condition"] == _literal(value)][:1]
    else:
        for branch in others:
            if compile_expression(branch["condition"]).evaluate(scope):
                chosen.append(branch)
                if kind == "if":
                    break
    chosen = chosen or default
    if not chosen:
        raise Undecided(block["blockId"])
    return {target for branch in chosen for target in branch.get("nextBlocks", ())}


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
