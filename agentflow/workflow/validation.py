"""Everything about a definition that can be proven wrong without running it, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias
from urllib.parse import unquote

from agentflow.conf import LIMITS
from agentflow.types import JSONObject, JSONValue

from . import callbacks, json_schema, people, recoveries, secret_references
from .conditions import DEFAULT
from .definition import (
    AtLeast,
    Block,
    Budget,
    Compensation,
    Conditions,
    Definition,
    HumanInLoop,
    RetryPolicy,
    compensation_id,
)
from .expressions import NAMES, Expression, ExpressionError, compile_expression, compile_mapping, texts_of
from .graph import Graph, build, unreachable
from .issues import closest, pointer
from .moments import LONGEST_WAIT_S, is_moment

Severity: TypeAlias = Literal["error", "warning", "start"]
Path: TypeAlias = tuple[str | int, ...]

SHOWN_ON_A_CYCLE = 20


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong, where, and what mends it.

    severity: `error` refuses the definition, `start` refuses a start that is not simulated.
    """

    severity: Severity
    code: str
    pointer: str
    message: str
    remedy: str

    def as_json(self) -> JSONObject:
        """`{"severity": "error", "code": "cycle", "pointer": "/blocks/3/dependencies/0", ...}`"""
        return {
            "severity": self.severity,
            "code": self.code,
            "pointer": self.pointer,
            "message": self.message,
            "remedy": self.remedy,
        }


def check(definition: Definition) -> list[Issue]:
    """All issues that the definition alone proves, in the order of its blocks."""
    graph = build(definition)
    found: list[tuple[int, Issue]] = [(-1, issue) for issue in _global_issues(definition)]
    before, ids = graph.ancestors(), [block.block_id for block in definition.blocks]
    for position, block in enumerate(definition.blocks):
        checks = _BlockCheck(definition, graph, before, ids, position, block)
        found.extend((position, issue) for issue in checks.issues())
    found.extend(_cycle_issues(graph))
    found.extend(_reach_issues(graph))
    found.sort(key=lambda item: item[0])  # stable: a block's issues stay as they were found
    return [issue for _, issue in found]


def _error(code: str, path: Path, message: str, remedy: str) -> Issue:
    return Issue("error", code, pointer(*path), message, remedy)


def _found(found: recoveries.Found) -> Issue:
    severity, code, at, message, remedy = found
    return Issue(severity, code, pointer(*at), message, remedy)


def _global_issues(definition: Definition) -> Iterator[Issue]:
    if definition.input_schema is not None:
        yield from _schema_issues(definition.input_schema, ("inputSchema",))
    settings = definition.global_settings
    if settings.default_retry_policy is not None:
        yield from _retry_issues(settings.default_retry_policy, ("globalSettings", "defaultRetryPolicy"))
    if settings.recovery is not None:
        found = recoveries.of_template(settings.recovery, ("globalSettings", "recovery"))
        yield from map(_found, found)
    if settings.concurrency is not None:
        yield from _run_key_issues(settings.concurrency.key, ("globalSettings", "concurrency", "key"))
    if settings.budget is not None:
        yield from _budget_issues(settings.budget, ("globalSettings", "budget"))
    defaults = settings.human_in_loop_defaults
    if defaults is not None and defaults.input_schema is not None:
        path = ("globalSettings", "humanInLoopDefaults", "inputSchema")
        yield from _schema_issues(defaults.input_schema, path)
    if defaults is not None:
        for text, at in people.expressions(defaults, ("globalSettings", "humanInLoopDefaults")):
            yield from _default_expression_issues(text, at)


def _default_expression_issues(text: str, path: Path) -> Iterator[Issue]:
    """Of what holds for every block, so that it cannot name what only some wait for."""
    try:
        compile_expression(text, {"input", "context", "workspace"})
    except ExpressionError as error:
        remedy = error.remedy_text or "input, context and workspace are known here; name blocks in a block."
        yield _error(error.code, path, error.message, remedy)


def _run_key_issues(key: str, path: Path) -> Iterator[Issue]:
    try:
        compile_mapping(key, {"input", "workspace"})
    except ExpressionError as error:
        remedy = error.remedy_text or "Correct the expression; input and workspace are known here."
        yield _error(error.code, path, error.message, remedy)
    else:
        yield from _fixed_key_issues(key, path)


def _budget_issues(budget: Budget, path: Path) -> Iterator[Issue]:
    if (budget.tokens, budget.cost, budget.time) == (None, None, None):
        yield _error("empty_budget", path, "The budget limits nothing.", "Give tokens, cost or time.")
    if not (budget.currency.isascii() and budget.currency.isalpha() and budget.currency.isupper()):
        message = f"{budget.currency!r} is no currency."
        yield _error("wrong_format", (*path, "currency"), message, "Use a code such as EUR.")


def _fixed_key_issues(key: str, path: Path) -> Iterator[Issue]:
    if "${" not in key and len(key) > LIMITS.concurrency_key_chars:
        most = LIMITS.concurrency_key_chars
        yield _error("too_long", path, f"A key has at most {most} characters.", "Use a shorter name.")


# -- the graph ---------------------------------------------------------------


def _cycle_issues(graph: Graph) -> Iterator[tuple[int, Issue]]:
    for cycle in graph.cycles():
        # The cycle's first block waits for its last: that edge is the one to point at.
        block, last = graph.blocks[cycle[0]], graph.blocks[cycle[-1]]
        if last.block_id in block.dependencies:
            path: Path = ("blocks", cycle[0], "dependencies", block.dependencies.index(last.block_id))
            remedy = f"Remove the dependency on {last.block_id!r}, or another one on the way."
        else:
            path = ("blocks", cycle[-1], *_naming(last, block.block_id))
            remedy = f"Let the branch lead to a later block than {block.block_id!r}."
        names = [graph.blocks[node].block_id for node in cycle]
        if len(names) > SHOWN_ON_A_CYCLE:
            names[SHOWN_ON_A_CYCLE - 1 : -1] = ["..."]
        shown = " -> ".join([*names, names[0]])
        yield (
            int(path[1]),
            _error(
                "cycle",
                path,
                f"These blocks wait for each other (pattern 10, arbitrary cycles): {shown}.",
                remedy,
            ),
        )


def _naming(block: Block, name: str) -> Path:
    for b, branch in enumerate(block.conditions.branches if block.conditions else ()):
        if name in branch.next_blocks:
            return ("conditions", "branches", b, "nextBlocks", branch.next_blocks.index(name))
    return ("conditions",)


def _reach_issues(graph: Graph) -> Iterator[tuple[int, Issue]]:
    for position, never in unreachable(graph).items():
        name = graph.blocks[position].block_id
        yield (
            position,
            _error(
                "unreachable_block",
                ("blocks", position),
                f"{name!r} can never run: {never.reason}.",
                never.remedy,
            ),
        )


# -- one block ---------------------------------------------------------------

# What a bare tool, one without an agent, must be told: one of each group of fields.
_TOOL_NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "API": (("url",),),
    "Script": (("script",),),
    "UseCase": (("templateId",),),
    "MCP": (("tool",), ("server", "url")),
    "LLM": (("prompt", "system"),),
}


@dataclass(frozen=True, slots=True)
class _BlockCheck:
    definition: Definition
    graph: Graph
    before: dict[int, int]  # of each block outside cycles: all blocks before it, as bits
    ids: list[str]
    position: int
    block: Block

    @property
    def path(self) -> Path:
        return ("blocks", self.position)

    def issues(self) -> Iterator[Issue]:
        block = self.block
        if self.graph.index[block.block_id] != self.position:
            first = self.graph.index[block.block_id]
            yield _error(
                "duplicate_block_id",
                (*self.path, "blockId"),
                f"{block.block_id!r} is already the name of block {first}.",
                "Give each block a name of its own.",
            )
        yield from self._dependencies()
        if block.conditions is not None:
            yield from self._conditions(block.conditions)
        yield from self._expressions()
        if block.agent_id is None and not block.capabilities and not self._asks_for_input():
            yield from self._work(block, self.path)
        if block.compensation is not None:
            yield from self._compensation(block.compensation, (*self.path, "compensation"))
        if block.human_in_loop is not None and block.human_in_loop.input_schema is not None:
            path = (*self.path, "humanInLoop", "inputSchema")
            yield from _schema_issues(block.human_in_loop.input_schema, path)
        if block.human_in_loop is not None:
            yield from self._people(block.human_in_loop)
        if block.retry_policy is not None:
            yield from _retry_issues(block.retry_policy, (*self.path, "retryPolicy"))
        if block.recovery is not None:
            undoes = any(each.compensation is not None for each in self.definition.blocks)
            path = (*self.path, "recovery")
            yield from map(
                _found,
                recoveries.of_block(block, block.recovery, path, called=self._calls(), undoes=undoes),
            )
        if block.budget is not None:
            yield from self._budget(block.budget, (*self.path, "budget"))
        yield from self._secrets(block)
        yield from self._rules()

    def _calls(self) -> bool:
        """Whether it names somebody to call."""
        block = self.block
        return block.agent_id is not None or block.tool_type is not None or bool(block.capabilities)

    def _budget(self, budget: Budget, path: Path) -> Iterator[Issue]:
        yield from _budget_issues(budget, path)
        if not self._calls():
            message = "Nobody is called here, so nothing is used up."
            remedy = "Remove it, or give it to the block that calls an agent."
            yield Issue("warning", "unused_budget", pointer(*path), message, remedy)

    def _people(self, own: HumanInLoop) -> Iterator[Issue]:
        path = (*self.path, "humanInLoop")
        human = self.definition.human_of(self.block)
        if human is not None:
            yield from map(_found, people.issues(human, own, path))
            if human.sample is not None:
                yield from map(_found, people.sample_issues(human.sample, self.block.for_each, path))
        for text, at in people.expressions(own, path):
            names = NAMES - {"index", "event"} - (set() if self.block.for_each else {"item"})
            yield from self._expression(text, at, names, own=False)

    def _secrets(self, block: Block) -> Iterator[Issue]:
        undo = block.compensation
        found: list[tuple[Path, JSONValue]] = [
            (("configuration",), block.configuration),
            (("input",), block.input),
        ]
        if undo is not None:
            found += [
                (("compensation", "configuration"), undo.configuration),
                (("compensation", "input"), undo.input),
            ]
        for under, value in found:
            for path, _ in secret_references.places(value):
                yield _error(
                    "secret_in_template",
                    (*self.path, *under, *path),
                    "A template cannot refer to secrets: whoever writes it could send them anywhere.",
                    "Refer to the secret in the configuration of an agent, and name the agent here.",
                )

    def _dependencies(self) -> Iterator[Issue]:
        seen: set[str] = set()
        for d, name in enumerate(self.block.dependencies):
            path = (*self.path, "dependencies", d)
            if name == self.block.block_id:
                yield _error("self_dependency", path, f"{name!r} depends on itself.", "Remove it.")
            elif name not in self.graph.index:
                yield self._unknown("unknown_dependency", path, name)
            elif name in seen:
                yield Issue(
                    "warning",
                    "duplicate_dependency",
                    pointer(*path),
                    f"{name!r} is listed twice.",
                    "Remove one.",
                )
            seen.add(name)

    def _unknown(self, code: str, path: Path, name: str) -> Issue:
        meant = closest(name, self.ids)
        remedy = f"Did you mean {meant!r}?" if meant else "Name a block of this template."
        return _error(code, path, f"There is no block {name!r}.", remedy)

    # conditions

    def _conditions(self, conditions: Conditions) -> Iterator[Issue]:
        path = (*self.path, "conditions")
        if not conditions.branches:
            yield _error(
                "missing_branches", (*path, "branches"), "The choice has no branches.", "Add branches."
            )
        if conditions.type == "switch":
            if conditions.expression is None:
                yield _error(
                    "missing_expression",
                    (*path, "expression"),
                    "A switch needs an expression that gives the value to compare.",
                    "Add 'expression'.",
                )
        elif conditions.expression is not None and conditions.expression.strip():
            yield self._unused_expression(conditions)
        yield from self._duplicate_branches(conditions)
        for b, branch in enumerate(conditions.branches):
            for n, name in enumerate(branch.next_blocks):
                yield from self._target((*path, "branches", b, "nextBlocks", n), name)

    def _unused_expression(self, conditions: Conditions) -> Issue:
        at = pointer(*self.path, "conditions", "expression")
        constant = any(branch.condition.strip() in ("true", "false") for branch in conditions.branches)
        return Issue(
            "error" if constant else "warning",
            "unused_expression",
            at,
            f"'{conditions.type}' decides by its branches' conditions; this expression is never evaluated.",
            "Put it into a branch's condition, or make this a switch.",
        )

    def _duplicate_branches(self, conditions: Conditions) -> Iterator[Issue]:
        first: dict[str, int] = {}
        for b, branch in enumerate(conditions.branches):
            text = branch.condition
            if text in first and (conditions.type != "inclusive" or text == DEFAULT):
                yield _error(
                    "duplicate_condition",
                    (*self.path, "conditions", "branches", b, "condition"),
                    f"Branch {first[text]} has the same condition, so this branch is never taken.",
                    "Merge the two branches, or change one condition.",
                )
            first.setdefault(text, b)

    def _target(self, path: Path, name: str) -> Iterator[Issue]:
        if name == self.block.block_id:
            message = f"The branch leads from {name!r} back to itself."
            yield _error("contradicting_branch", path, message, "Name a later block.")
        elif name not in self.graph.index:
            yield self._unknown("unknown_block", path, name)
        elif self._is_before(self.graph.index[name]):
            yield _error(
                "contradicting_branch",
                path,
                f"The branch leads to {name!r}, but {self.block.block_id!r} itself waits for that block.",
                "Name a block that comes later, or remove the dependency.",
            )

    def _is_before(self, other: int) -> bool:
        """Whether this block depends on the other; searched only where a cycle makes it possible."""
        if self.position in self.before:
            return False
        seen, todo = {self.position}, [self.position]
        while todo:
            for before in self.graph.predecessors[todo.pop()]:
                if before == other:
                    return True
                if before not in seen:
                    seen.add(before)
                    todo.append(before)
        return False

    # expressions

    def _expressions(self) -> Iterator[Issue]:
        block, names = self.block, NAMES - {"item", "index"}  # these are for one item, or one round
        if block.when is not None:
            yield from self._expression(block.when, (*self.path, "when"), names, own=False)
        wait = block.wait
        if wait is not None and wait.until is not None and not is_moment(wait.until):
            yield from self._expression(wait.until, (*self.path, "wait", "until"), names, own=False)
        if wait is not None and wait.correlation is not None:
            path = (*self.path, "wait", "correlation")
            yield from self._expression(wait.correlation, path, names - {"event"}, own=False)
        if block.for_each is not None:
            path = (*self.path, "forEach", "items")
            yield from self._expression(block.for_each.items, path, names, own=False)
        if block.repeat is not None:
            path = (*self.path, "repeat", "until")
            yield from self._expression(block.repeat.until, path, names | {"index"}, own=True)
        each = {"item", "index"} if block.for_each else {"index"} if block.repeat else set()
        if block.concurrency is not None:
            path = (*self.path, "concurrency", "key")
            known = names - {"event"} | ({"item", "index"} if block.for_each else set())
            yield from self._mapped(block.concurrency.key, path, known, own=False)
            yield from _fixed_key_issues(block.concurrency.key, path)
        for path, text in texts_of(block.input):
            at = (*self.path, "input", *path)
            yield from self._mapped(text, at, names | each, own=block.repeat is not None)
        conditions = block.conditions
        if conditions is None:
            return
        path = (*self.path, "conditions")
        if conditions.type == "switch":
            if conditions.expression is not None:
                yield from self._expression(conditions.expression, (*path, "expression"), names, own=True)
            return
        for b, branch in enumerate(conditions.branches):
            if branch.condition != DEFAULT:
                at = (*path, "branches", b, "condition")
                yield from self._expression(branch.condition, at, names, own=True)

    def _expression(self, text: str, path: Path, names: Iterable[str], *, own: bool) -> Iterator[Issue]:
        try:
            expression: Expression = compile_expression(text, names)
        except ExpressionError as error:
            yield _error(error.code, path, error.message, error.remedy_text or "Correct the expression.")
        else:
            yield from self._references(expression.block_refs, path, own=own)

    def _mapped(self, text: str, path: Path, names: Iterable[str], *, own: bool) -> Iterator[Issue]:
        try:
            refs = compile_mapping(text, names).block_refs
        except ExpressionError as error:
            yield _error(error.code, path, error.message, error.remedy_text or "Correct the expression.")
        else:
            yield from self._references(refs, path, own=own)

    def _references(self, refs: frozenset[str], path: Path, *, own: bool) -> Iterator[Issue]:
        for name in sorted(refs):
            if name not in self.graph.index:
                yield self._unknown("unknown_block_reference", path, name)
            elif name == self.block.block_id:
                if not own:
                    message = f"{name!r} has no output yet when this is evaluated."
                    yield _error("not_upstream", path, message, "Refer to an earlier block.")
            elif not self._waits_for(self.graph.index[name]):
                yield _error(
                    "not_upstream",
                    path,
                    f"{self.block.block_id!r} does not wait for {name!r}, so its result may not be there.",
                    f"Add {name!r} to the dependencies.",
                )

    def _waits_for(self, other: int) -> bool:
        # On a cycle the question has no answer; the cycle is an issue of its own.
        return self.position not in self.before or bool(self.before[self.position] >> other & 1)

    # who does the work

    def _asks_for_input(self) -> bool:
        human = self.definition.human_of(self.block)
        return human is not None and human.type == "input"

    def _work(self, block: Block | Compensation, path: Path) -> Iterator[Issue]:
        """What a block that names no agent must say instead."""
        if block.tool_type is not None:
            groups = _TOOL_NEEDS[block.tool_type]
            missing = [" or ".join(g) for g in groups if not any(_given(block, name) for name in g)]
            if block.tool_type == "LLM" and block.input is not None:
                missing = []
            if missing:
                yield Issue(
                    "start",
                    "missing_tool",
                    pointer(*path, "toolType"),
                    f"Nothing says which {block.tool_type} to use: there is no agentId, and the"
                    f" configuration has no {' and no '.join(missing)}.",
                    f"Add 'agentId', or {' and '.join(missing)} to the configuration.",
                )
        elif block.agent_type is not None:
            yield Issue(
                "start",
                "missing_agent",
                pointer(*path, "agentType"),
                f"The block asks for an agent of type {block.agent_type!r}, but names none.",
                "Add 'agentId'.",
            )

    def _compensation(self, undo: Compensation, path: Path) -> Iterator[Issue]:
        named = compensation_id(self.block.block_id)
        if named in self.graph.index:
            yield _error(
                "duplicate_block_id",
                path,
                f"The compensation runs as {named!r}, but block {self.graph.index[named]} is called so.",
                "Rename that block.",
            )
        if undo.agent_id is None and undo.tool_type is None and undo.agent_type is None:
            yield _error(
                "missing_field",
                path,
                "The compensation names nobody who does it.",
                "Add 'agentId', or a toolType.",
            )
        elif undo.agent_id is None:
            yield from self._work(undo, path)
        for at, text in texts_of(undo.input):
            # It undoes the block as a whole, whenever that is: no item, round or event is at hand.
            names = NAMES - {"item", "index", "event"}
            yield from self._mapped(text, (*path, "input", *at), names, own=True)
        if undo.retry_policy is not None:
            yield from _retry_issues(undo.retry_policy, (*path, "retryPolicy"))
            if (
                undo.retry_policy.on_exhausted == "fail"
                and "on_exhausted" in undo.retry_policy.model_fields_set
            ):
                yield _error(
                    "contradicting_fields",
                    (*path, "retryPolicy", "onExhausted"),
                    "A compensation that fails always asks a person.",
                    "Remove onExhausted.",
                )

    def _rules(self) -> Iterator[Issue]:
        """Joins, waits and `runOn` that can never come true."""
        block, predecessors = self.block, len(self.graph.predecessors[self.position])
        if isinstance(block.join, AtLeast) and block.join.at_least > max(predecessors, 1):
            yield _error(
                "out_of_range",
                (*self.path, "join", "atLeast"),
                f"The block waits for {block.join.at_least} of {predecessors} blocks.",
                f"Use {predecessors} at most, or add dependencies.",
            )
        if block.run_on == "failure" and not predecessors:
            yield _error(
                "unreachable_block",
                (*self.path, "runOn"),
                "The block runs after a failure, but follows no block that could fail.",
                "Add dependencies, or remove runOn.",
            )
        called = self._calls()
        yield from self._callback()
        if block.repeat is not None and (block.for_each is not None or not called):
            yield _error(
                "contradicting_fields",
                (*self.path, "repeat"),
                "Only a block that calls an agent, and once a time, can be repeated.",
                "Remove forEach, or name an agent.",
            )
        if block.for_each is not None and not called and self.definition.human_of(block) is None:
            yield _error(
                "contradicting_fields",
                (*self.path, "forEach"),
                "There is nothing to do for each item: no agent is called and nobody is asked.",
                "Name an agent or a humanInLoop.",
            )
        human = self.definition.human_of(block)
        if block.concurrency is not None and (not called or (human is not None and human.type == "input")):
            yield _error(
                "contradicting_fields",
                (*self.path, "concurrency"),
                "Only a block that calls an agent takes a place of a concurrency key.",
                "Name an agent, or move the key to the block that does the work.",
            )
        if block.agent_patience is not None and (not called or (human is not None and human.type == "input")):
            yield _error(
                "contradicting_fields",
                (*self.path, "agentPatience"),
                "Only a block that calls an agent can wait for one.",
                "Remove agentPatience, or name an agent or capabilities.",
            )
        if block.wait is not None and (block.wait.seconds or 0) > LONGEST_WAIT_S:
            yield _error(
                "out_of_range",
                (*self.path, "wait", "seconds"),
                "A block waits for a year at most.",
                "Wait for less, or start a workflow then.",
            )

    def _callback(self) -> Iterator[Issue]:
        given = self.block.configuration.get("callback")
        if self.block.tool_type != "API" or given is None:
            return
        try:
            callbacks.timeout_s(given)
        except callbacks.BadCallback as error:
            at = (*self.path, "configuration", "callback", *error.pointer.split("/")[1:])
            yield _error("bad_callback", at, str(error), 'Write {"timeout": 3600000} for an hour.')


def _given(block: Block | Compensation, name: str) -> bool:
    value = block.configuration.get(name)
    return isinstance(value, str) and bool(value.strip())


def _retry_issues(policy: RetryPolicy, path: Path) -> Iterator[Issue]:
    for c, condition in enumerate(policy.retry_conditions):
        if not condition.replace("_", "a").isalnum() or condition != condition.lower():
            yield Issue(
                "warning",
                "unknown_retry_condition",
                pointer(*path, "retryConditions", c),
                f"{condition!r} is neither a kind of failure nor a code, so it never applies.",
                "Use transient, agent, configuration, or a code such as http_503.",
            )


# -- schemas -----------------------------------------------------------------


def _schema_issues(schema: JSONObject, path: Path) -> Iterator[Issue]:
    problems = list(json_schema.problems(schema))
    for at, message, remedy in problems:
        yield _error("invalid_schema", (*path, *at), message, remedy or "Correct the schema.")
    if problems:
        return
    yield from _reference_issues(schema, path)


def _reference_issues(schema: JSONObject, path: Path) -> Iterator[Issue]:
    """References lead into the schema itself and come to an end: nothing is ever fetched for one."""
    todo: list[tuple[Path, JSONValue]] = [((), schema)]
    while todo:
        at, here = todo.pop()
        if isinstance(here, list):
            todo.extend(((*at, index), item) for index, item in enumerate(here))
        if not isinstance(here, dict):
            continue
        todo.extend(((*at, key), item) for key, item in here.items())
        for key in ("$ref", "$dynamicRef"):
            reference = here.get(key)
            if not isinstance(reference, str):
                continue
            where = (*path, *at, key)
            if not reference.startswith("#"):
                message = f"The reference {reference[:200]!r} leads out of the schema."
                yield _error("external_reference", where, message, "Put what it means under $defs.")
            elif reference[1:2] in ("", "/") and not _ends(schema, reference):
                message = f"The reference {reference[:200]!r} leads to nothing, or round in a circle."
                yield _error("broken_reference", where, message, "Point it at a schema under $defs.")


def _ends(schema: JSONObject, reference: str) -> bool:
    """Whether a chain of local references comes to a schema that is no reference itself."""
    seen: set[str] = set()
    while reference not in seen:
        seen.add(reference)
        found: JSONValue = schema
        for step in unquote(reference[1:]).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return False
        if not isinstance(found, (dict, bool)):
            return False
        following = found.get("$ref") if isinstance(found, dict) else None
        if not isinstance(following, str) or not (following == "#" or following.startswith("#/")):
            return True
        reference = following
    return False
