"""CEL expressions and `${...}` mappings: what a template computes from input and outputs.

    when:   blocks["score"].output.risk > 0.8 && !input.test
    input:  {"items": "${blocks.fetch.output.items}", "title": "Order ${input.id}"}

An evaluation cannot be interrupted, so everything that could make it long is bounded before it
runs: the text, the names and functions, the size of what is referred to, and the work itself.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import cel

from agentflow.conf import LIMITS
from agentflow.types import JSONValue

from .issues import closest
from .large import Large
from .syntax import MACROS, ExpressionError, Node, read, split_text

__all__ = ["NAMES", "Expression", "ExpressionError", "Mapping", "compile_expression", "compile_mapping"]

NAMES = frozenset({"input", "context", "blocks", "item", "index", "workspace", "event"})
FUNCTIONS = frozenset({"size", "int", "uint", "double", "string", "timestamp", "duration"})
METHODS = frozenset(
    {
        "size",
        "contains",
        "startsWith",
        "endsWith",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)
MAX_MACRO_DEPTH = 2  # a comprehension, and one inside it
# Units of about 50 to 100 ns: what one evaluation may cost at most, by an upper bound.
COST_LIMIT = 1_000_000
MAX_FOLLOWED = 2_000  # values looked at one by one; more are bounded as a whole

T = TypeVar("T")
Scope: TypeAlias = abc.Mapping[str, Any]
_Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression; safe to share between threads.

    `block_refs`: the ids of the blocks whose results it reads; only these need be in the scope.
    """

    text: str
    names: frozenset[str]
    block_refs: frozenset[str]
    tree: Node = dataclass_field(repr=False, compare=False)
    _program: cel.Program = dataclass_field(repr=False, compare=False)
    _nodes: int = dataclass_field(repr=False, compare=False)
    _has_macro: bool = dataclass_field(repr=False, compare=False)
    _whole: _Path | None = dataclass_field(repr=False, compare=False)  # it is this value and no more
    _members: frozenset[str] | None = dataclass_field(repr=False, compare=False)  # of the input; None: all

    def evaluate(self, scope: Scope) -> JSONValue:
        """The value in this scope: `{"input": ..., "blocks": {id: {"output": ..., "status": ...}}}`.

        A large output, or member of the input, is handed on as it is where the expression is no more.

        Raises:
            ExpressionError: a value is missing or of the wrong type, the result is no JSON, or the
                evaluation would be too large.
        """
        if self._whole is not None:
            value: Any = scope
            for name in self._whole:
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, Large):
                return value
        found = self._referenced(scope)
        weight = _weigh(found)[0]
        if self._has_macro or self._nodes * weight > COST_LIMIT:
            cost = _Bound(found).of(self.tree)
            if cost > COST_LIMIT:
                raise ExpressionError(
                    "too_costly",
                    "Evaluating this would take too long: the lists it goes through are too large.",
                    remedy="Go through smaller lists (map, filter: about a thousand items), or use an agent.",
                )
        return _as_json(_run(self._program, found))

    def _referenced(self, scope: Scope) -> dict[str, Any]:
        found = {}
        for name in self.names:
            if name == "blocks":
                blocks = scope.get("blocks", {})
                found[name] = {ref: blocks[ref] for ref in self.block_refs if ref in blocks}
            elif name == "input" and self._members is not None and isinstance(scope.get(name), dict):
                given = scope[name]
                found[name] = {member: given[member] for member in self._members if member in given}
            elif name in scope:
                found[name] = scope[name]
            else:
                raise ExpressionError("missing_value", f"There is no {name!r} here.")
        return found


def compile_expression(text: str, names: Iterable[str] = NAMES) -> Expression:
    """Check an expression and make it ready to run; equal texts are compiled once.

    Raises:
        ExpressionError: it is malformed, too long, or uses what is not allowed.
    """
    return _compile(text, frozenset(names))


@lru_cache(maxsize=4096)
def _compile(text: str, allowed: frozenset[str]) -> Expression:
    if not text.strip():
        raise ExpressionError("syntax_error", "The expression is empty.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ExpressionError("syntax_error", "The expression holds half of a surrogate pair.") from None
    if size > LIMITS.expression_bytes:
        raise ExpressionError(
            "expression_too_long", f"The expression has {size} bytes; {LIMITS.expression_bytes} are allowed."
        )
    tree = read(text)
    survey = _Survey(allowed)
    survey.visit(tree)
    program = _library(lambda: cel.compile(text), "syntax_error")
    # Should the library ever read a text differently than we do, it would see what we did not check.
    seen = program.references()
    unchecked = set(seen["variables"]) - survey.names - survey.variables
    unchecked |= {name for name in seen["functions"] if name[:1].isalpha()} - survey.functions
    if unchecked:
        raise ExpressionError(
            "syntax_error", f"The expression cannot be read for certain: {sorted(unchecked)}."
        )
    return Expression(
        text=text,
        names=frozenset(survey.names),
        block_refs=frozenset(survey.block_refs),
        tree=tree,
        _program=program,
        _nodes=survey.nodes,
        _has_macro=bool(survey.variables),
        _whole=_whole_value(tree),
        _members=None if survey.all_input else frozenset(survey.members),
    )


def _whole_value(tree: Node) -> _Path | None:
    """Where the value of an expression is that is `blocks.x.output`, `blocks["x"].output` or `input.x`."""
    if tree.kind not in ("select", "index"):
        return None
    member = _member(tree, "input", ())
    if member is not None:
        return ("input", member)
    block = _member(tree.parts[0], "blocks", ()) if tree.kind == "select" and tree.value == "output" else None
    return None if block is None else ("blocks", block, "output")


class _Survey:
    """Finds what an expression refers to, and refuses what is not allowed."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self.allowed = allowed
        self.names: set[str] = set()
        self.variables: set[str] = set()
        self.functions: set[str] = set()
        self.block_refs: set[str] = set()
        self.members: set[str] = set()  # of the input
        self.all_input = False
        self.nodes = 0

    def visit(self, node: Node, bound: tuple[str, ...] = ()) -> None:
        self.nodes += 1
        if node.kind == "name":
            self._name(str(node.value), bound)
        elif node.kind in ("select", "index") and _is_blocks(node.parts[0], bound):
            self._block(node)
            return
        elif (member := _member(node, "input", bound)) is not None and "input" in self.allowed:
            self.nodes += len(node.parts)
            self.names.add("input")
            self.members.add(member)
            return
        elif node.kind == "macro":
            self._macro(node, bound)
            return
        elif node.kind == "call":
            self._function(str(node.value), FUNCTIONS, len(node.parts) == 1)
        elif node.kind == "method":
            self._function(str(node.value), METHODS, len(node.parts) <= 2)
        for part in node.parts:
            self.visit(part, bound)

    def _name(self, name: str, bound: tuple[str, ...]) -> None:
        if name in bound:
            return
        if name not in self.allowed:
            known = sorted(self.allowed | set(bound))
            meant = closest(name, known)
            remedy = f"Did you mean {meant!r}?" if meant else f"Known here: {', '.join(known)}."
            raise ExpressionError("unknown_name", f"There is no name {name!r} here.", remedy=remedy)
        if name == "blocks":
            raise _computed()
        self.all_input = self.all_input or name == "input"
        self.names.add(name)

    def _block(self, node: Node) -> None:
        if "blocks" not in self.allowed:
            raise ExpressionError("unknown_name", "Blocks cannot be referred to here.")
        self.nodes += len(node.parts)
        ref = node.value
        if node.kind == "index":
            index = node.parts[1]
            if index.kind != "literal" or not isinstance(index.value, str):
                raise _computed()
            ref = index.value
        self.names.add("blocks")
        self.block_refs.add(str(ref))

    def _macro(self, node: Node, bound: tuple[str, ...]) -> None:
        name = node.variable
        if name in NAMES or name in bound:
            raise ExpressionError(
                "shadowed_name", f"{name!r} already means something.", remedy="Use another variable."
            )
        if len(bound) >= MAX_MACRO_DEPTH:
            raise ExpressionError(
                "nested_comprehension", "At most one comprehension may stand inside another."
            )
        self.variables.add(name)
        self.functions.add(str(node.value))
        self.visit(node.parts[0], bound)
        for body in node.parts[1:]:
            self.visit(body, (*bound, name))

    def _function(self, name: str, known: frozenset[str], fits: bool) -> None:
        if name not in known:
            meant = closest(name, sorted(known | MACROS))
            remedy = f"Did you mean {meant!r}?" if meant else f"Known: {', '.join(sorted(known | MACROS))}."
            raise ExpressionError("unknown_function", f"There is no function {name!r}.", remedy=remedy)
        if not fits:
            raise ExpressionError("syntax_error", f"{name!r} does not take that many arguments.")
        self.functions.add(name)


def _member(node: Node, of: str, bound: tuple[str, ...]) -> str | None:
    """The name of an expression `of.name`, `of["name"]` or `has(of.name)`."""
    if node.kind not in ("select", "index", "has") or of in bound:
        return None
    whole, *index = node.parts
    if whole.kind != "name" or whole.value != of:
        return None
    name = index[0].value if index and index[0].kind == "literal" else node.value
    return name if isinstance(name, str) else None


def _is_blocks(node: Node, bound: tuple[str, ...]) -> bool:
    return node.kind == "name" and node.value == "blocks" and "blocks" not in bound


def _computed() -> ExpressionError:
    return ExpressionError(
        "computed_block_reference",
        "A block must be named by its id, so that what it waits for is known beforehand.",
        remedy='Write blocks["id"].output, or blocks.id.output.',
    )


# -- running -----------------------------------------------------------------


def _run(program: cel.Program, found: dict[str, Any]) -> Any:
    return _library(lambda: program.execute(found), "evaluation_failed")


_RAISED: list[tuple[type[BaseException], str]] = [
    (KeyError, "missing_value"),
    (IndexError, "missing_value"),
    (TypeError, "wrong_type"),
    (OverflowError, "out_of_range"),
    (ZeroDivisionError, "division_by_zero"),
]


def _library(call: Callable[[], T], otherwise: str) -> T:
    """What the library raises, in our words."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  # a panic in Rust is a BaseException
        code = next((code for kind, code in _RAISED if isinstance(error, kind)), otherwise)
        said = str(error).strip().split("\n")[0][:300]
        if code == "missing_value":
            said = f"There is no value at {said}."
        raise ExpressionError(code, said or type(error).__name__) from None


def _weigh(found: Any) -> tuple[int, int, int]:
    """Units of work to copy values once, their longest list, and about their bytes as JSON.

    Raises:
        ExpressionError: `input_too_large`; the walk ends as soon as that is known.
    """
    units = size = longest = 0
    todo: list[Iterator[Any]] = [iter((found,))]
    while todo:
        for value in todo[-1]:
            units += 1
            kind = type(value)
            if kind is str:
                size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
            elif kind is dict:
                size += 2 + 4 * len(value) + sum(map(len, value))
                units += 2 * len(value)  # an entry costs twice what an item of a list does
                longest = max(longest, len(value))
                todo.append(iter(value.values()))
                break
            elif kind is list:
                size += 2 + len(value)
                longest = max(longest, len(value))
                todo.append(iter(value))
                break
            elif kind is Large:
                size += LIMITS.blob_bytes
            else:
                size += 4
            if size > LIMITS.expression_input_bytes:
                break
        else:
            todo.pop()
        if size > LIMITS.expression_input_bytes or len(todo) > 2 * LIMITS.json_depth:
            raise ExpressionError(
                "input_too_large",
                f"The values it refers to have more than {LIMITS.expression_input_bytes} bytes.",
                remedy="Refer to smaller values, or let an agent read them.",
            )
    return units + size // 64, max(longest, 1), size


def _as_json(value: Any) -> JSONValue:
    """The library's result as JSON.

    Raises:
        ExpressionError: not_json, or out_of_range for numbers that JSON readers do not agree on.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise ExpressionError("out_of_range", "The result is an integer of more than 64 bits.")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ExpressionError("out_of_range", "The result is infinite or not a number.")
        return value
    if kind is list:
        return [_as_json(item) for item in value]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise ExpressionError("not_json", "The result has a key that is not text.")
        return {key: _as_json(item) for key, item in value.items()}
    what = "a time" if isinstance(value, (datetime.datetime, datetime.timedelta)) else f"a {kind.__name__}"
    raise ExpressionError("not_json", f"The result is {what}, which is no JSON value.")


# -- cost --------------------------------------------------------------------


class _Size:
    """An upper bound of a computed value: items to go through, and units to copy it."""

    def __init__(self, length: float, units: float, item: _AnySize | None = None) -> None:
        self.length, self.units, self.item = length, units, item

    def items(self) -> _AnySize:
        return self.item or _Size(self.length, max(1.0, self.units / max(self.length, 1.0)))

    def field(self, name: object) -> _AnySize:
        return self.item or self  # a field may be all of the value, for all that is known


class _Values:
    """The size of data: all values of the scope that a part of the expression may stand for.

    Seen as items of a list they count with their mean, for each is visited once; else the largest.
    """

    def __init__(self, values: list[Any], *, each: bool = False) -> None:
        self.values, self.each = values, each

    @property
    def length(self) -> float:
        return max((len(v) for v in self.values if isinstance(v, (list, dict))), default=0)

    @property
    def units(self) -> float:
        sizes = [_weigh(value)[0] for value in self.values] or [1]
        return sum(sizes) / len(sizes) if self.each else max(sizes)

    def items(self) -> _AnySize:
        held = (v for v in self.values if isinstance(v, (list, dict)))
        # The items of an object are its keys.
        return self._narrowed([item for value in held for item in value], each=True)

    def field(self, name: object) -> _AnySize:
        if isinstance(name, str):
            found = [v[name] for v in self.values if isinstance(v, dict) and name in v]
        elif isinstance(name, int):
            found = [v[name] for v in self.values if isinstance(v, list) and 0 <= name < len(v)]
        else:
            held = (
                v.values() if isinstance(v, dict) else v for v in self.values if isinstance(v, (list, dict))
            )
            found = [item for value in held for item in value]
        return self._narrowed(found, each=self.each and name is not None)

    def _narrowed(self, found: list[Any], *, each: bool) -> _AnySize:
        if len(found) <= MAX_FOLLOWED:
            return _Values(found, each=each)
        units, longest, _ = _weigh(self.values)
        return _Size(longest, units / len(found) if each else units)


_AnySize: TypeAlias = "_Size | _Values"
_SCALAR = _Size(1, 1)


class _Bound:
    """An upper bound of what an evaluation costs, from the tree and the size of the scope.

    In this library `map` and `filter` copy all they gathered for each item they add, deeply: they
    cost half the square of the list's length times what an item weighs (measured with 0.10.0).
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.total = 0.0

    def of(self, tree: Node) -> float:
        result = self._visit(tree, {}, 1.0)
        return self.total + result.units

    def _visit(self, node: Node, bound: dict[str, _AnySize], times: float) -> _AnySize:
        self.total += times
        if node.kind == "macro":
            return self._macro(node, bound, times)
        if node.kind == "name":
            name = str(node.value)
            return bound[name] if name in bound else _Values([self.found[name]])
        parts = [self._visit(part, bound, times) for part in node.parts]
        if node.kind == "literal":
            return _Size(1, 1 + len(node.value) / 64) if isinstance(node.value, str) else _SCALAR
        if node.kind == "select":
            return parts[0].field(node.value)
        if node.kind == "index":
            return parts[0].field(node.parts[1].value if node.parts[1].kind == "literal" else None)
        if node.kind in ("list", "map"):
            values = parts if node.kind == "list" else parts[1::2]
            self.total += times * sum(part.units for part in parts)
            return _Size(len(values), 1 + sum(part.units for part in parts), _largest(values))
        if node.kind == "op" and node.value == "?:":
            return _largest(parts[1:])
        if node.kind == "op" and node.value == "+":
            self.total += times * sum(part.units for part in parts)
            return _Size(sum(p.length for p in parts), sum(p.units for p in parts), _largest(parts).items())
        if node.kind == "op":
            self.total += times * min((part.units for part in parts), default=1)
            if node.value == "in":
                self.total += times * parts[1].units
            return _SCALAR
        self.total += times * sum(part.units for part in parts) / 16  # a function reads its texts
        return _Size(1, parts[0].units) if node.value == "string" and parts else _SCALAR

    def _macro(self, node: Node, bound: dict[str, _AnySize], times: float) -> _AnySize:
        source = self._visit(node.parts[0], bound, times)
        inner = {**bound, node.variable: source.items()}
        bodies = [self._visit(body, inner, times * source.length) for body in node.parts[1:]]
        if node.value not in ("map", "filter"):
            return _SCALAR
        item = bodies[-1] if node.value == "map" else source.items()
        self.total += times * source.length**2 / 2 * item.units
        return _Size(source.length, 1 + source.length * item.units, item)


def _largest(sizes: list[_AnySize], levels: int = 4) -> _AnySize:
    """A bound of any one of these."""
    if all(isinstance(size, _Values) for size in sizes):
        return _Values([value for size in sizes if isinstance(size, _Values) for value in size.values])
    length, units = max(size.length for size in sizes), max(size.units for size in sizes)
    item = _largest([size.items() for size in sizes], levels - 1) if levels and length > 1 else None
    return _Size(length, units, item)


# -- mappings ----------------------------------------------------------------


class _Budget:
    """How much a mapping may still copy, so that one large value named often stays bounded."""

    def __init__(self) -> None:
        self.left = LIMITS.body_bytes

    def spend(self, value: JSONValue) -> JSONValue:
        self.left -= _weigh(value)[2]
        if self.left < 0:
            raise ExpressionError(
                "result_too_large",
                f"The mapped values have more than {LIMITS.body_bytes} bytes in all.",
                remedy="Map what is needed of them only.",
            )
        return value


_Resolver: TypeAlias = Callable[[Scope, _Budget], JSONValue]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A JSON value with expressions in its texts.

    A text that is one `${...}` takes the value with its type; elsewhere the value is put into the
    text, as it is when it is text itself, else as JSON.  `$${` stands for a plain `${`.
    """

    names: frozenset[str]
    block_refs: frozenset[str]
    _resolver: _Resolver = dataclass_field(repr=False, compare=False)

    def resolve(self, scope: Scope) -> JSONValue:
        """The value with its expressions evaluated.

        Raises:
            ExpressionError: one of them could not be evaluated, or the result is too large.
        """
        return self._resolver(scope, _Budget())


def compile_mapping(value: JSONValue, names: Iterable[str] = NAMES) -> Mapping:
    """Make a value with `${...}` texts ready to be resolved.

    Raises:
        ExpressionError: one of its expressions is not allowed; `texts_of` finds out which.
    """
    used: list[Expression] = []
    resolver = _resolver(value, frozenset(names), used, 0)
    return Mapping(
        names=frozenset().union(*(expression.names for expression in used)),
        block_refs=frozenset().union(*(expression.block_refs for expression in used)),
        _resolver=resolver,
    )


def texts_of(value: JSONValue) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each text of a JSON value that holds `${`, with the path to it."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while todo:
        path, here = todo.pop()
        if isinstance(here, dict):
            todo.extend(((*path, key), item) for key, item in reversed(here.items()))
        elif isinstance(here, list):
            todo.extend(((*path, i), here[i]) for i in reversed(range(len(here))))
        elif isinstance(here, str) and "${" in here:
            yield path, here


def _resolver(value: JSONValue, names: frozenset[str], used: list[Expression], depth: int) -> _Resolver:
    if depth > LIMITS.json_depth:
        raise ExpressionError("too_deep", f"The mapping is nested more than {LIMITS.json_depth} deep.")
    if isinstance(value, dict):
        fields = [(key, _resolver(item, names, used, depth + 1)) for key, item in value.items()]
        return lambda scope, budget: {key: item(scope, budget) for key, item in fields}
    if isinstance(value, (list, tuple)):
        items = [_resolver(item, names, used, depth + 1) for item in value]
        return lambda scope, budget: [item(scope, budget) for item in items]
    if isinstance(value, str) and "${" in value:
        parts = [compile_expression(part, names) if is_code else part for part, is_code in split_text(value)]
        used.extend(part for part in parts if isinstance(part, Expression))
        return _text_resolver(parts)
    return lambda scope, budget: value


def _text_resolver(parts: list[Expression | str]) -> _Resolver:
    if len(parts) == 1 and isinstance(parts[0], Expression):
        only = parts[0]

        def whole(scope: Scope, budget: _Budget) -> JSONValue:
            value = only.evaluate(scope)
            return value if isinstance(value, Large) else budget.spend(value)

        return whole

    def written(scope: Scope, budget: _Budget) -> str:
        return "".join(
            part if isinstance(part, str) else _as_text(budget.spend(part.evaluate(scope))) for part in parts
        )

    return written


def _as_text(value: JSONValue) -> str:
    # The library gives objects back in random order.
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    )
