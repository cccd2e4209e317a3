"""Which branches of a choice are taken."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from agentflow.errors import InvalidInput
from agentflow.types import JSONValue

from .definition import Conditions
from .expressions import NAMES, Expression, ExpressionError, Scope, compile_expression

DEFAULT = "default"


class NoBranchMatched(InvalidInput):
    """No branch of the choice fits, and it has no default branch."""

    code = "no_branch_matched"

    def __init__(self, value: JSONValue) -> None:
        self.value = value
        super().__init__(
            f"No branch fits {_shown(value)}, and there is no default branch.",
            remedy=f'Add a branch for it, or one whose condition is "{DEFAULT}".',
            value=value,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The indexes of the branches that are taken, in order."""

    taken: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CompiledConditions:
    """Conditions ready to be decided; safe to share between threads.

    `tests` holds each branch's expression; None stands for the default branch and for all branches
    of a switch, which are known by their `literals`.
    """

    type: str
    value: Expression | None
    tests: tuple[Expression | None, ...]
    literals: tuple[str, ...]
    block_refs: frozenset[str]

    @property
    def default(self) -> int | None:
        return self.literals.index(DEFAULT) if DEFAULT in self.literals else None


def compile_conditions(conditions: Conditions, names: Iterable[str] = NAMES) -> CompiledConditions:
    """Make conditions ready to be decided.

    Raises:
        ExpressionError: an expression is missing, malformed or not allowed.
    """
    literals = tuple(branch.condition for branch in conditions.branches)
    value: Expression | None = None
    tests: tuple[Expression | None, ...] = (None,) * len(literals)
    if conditions.type == "switch":
        if conditions.expression is None:
            raise ExpressionError("missing_expression", "A switch needs an expression.")
        value = compile_expression(conditions.expression, names)
    else:
        tests = tuple(None if text == DEFAULT else compile_expression(text, names) for text in literals)
    used = [expression for expression in (value, *tests) if expression is not None]
    return CompiledConditions(
        type=conditions.type,
        value=value,
        tests=tests,
        literals=literals,
        block_refs=frozenset().union(*(expression.block_refs for expression in used)),
    )


def choose(conditions: CompiledConditions, scope: Scope) -> Choice:
    """The branches that are taken: exactly one of an `if` or a `switch`, one or more of an `inclusive`.

    Raises:
        NoBranchMatched: none fits and there is no default.
        ExpressionError: an expression could not be evaluated, or a condition is not true or false.
    """
    if conditions.value is not None:
        found: JSONValue = conditions.value.evaluate(scope)
        taken = [i for i, text in enumerate(conditions.literals) if matches(found, text)][:1]
    else:
        taken, found = [], False
        for index, test in enumerate(conditions.tests):
            if test is not None and holds(test, scope):
                taken.append(index)
                if conditions.type == "if":
                    break
    if not taken:
        if conditions.default is None:
            raise NoBranchMatched(found)
        taken = [conditions.default]
    return Choice(taken=tuple(taken))


def holds(test: Expression, scope: Scope) -> bool:
    """The truth of a condition or guard.

    Raises:
        ExpressionError: it gives something else than true or false, or cannot be evaluated.
    """
    value = test.evaluate(scope)
    if not isinstance(value, bool):
        raise ExpressionError(
            "not_boolean",
            f"The condition gives {_shown(value)}, not true or false.",
            remedy="Compare the value with something.",
        )
    return value


def matches(value: JSONValue, literal: str) -> bool:
    """Whether a switch's value is what the branch's text says.

    Text must be equal; true, false, null and numbers are compared as what they are, so that 3 and
    3.0 both fit `3`.  The text `default` names the default branch and is never compared.
    """
    if literal == DEFAULT:
        return False
    if isinstance(value, str):
        return value == literal
    if value is None or isinstance(value, bool):
        return literal.strip() == json.dumps(value)
    if isinstance(value, (int, float)):
        try:
            number = json.loads(literal)
        except (ValueError, RecursionError):
            return False
        return type(number) in (int, float) and bool(number == value)
    return False


def _shown(value: JSONValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
