"""Reads CEL text into a small tree, to see what an expression refers to before it ever runs.

The evaluating library tells names and functions, but neither which block an index means nor what
an evaluation may cost.  The grammar is that of the CEL language definition (github.com/google/cel-spec,
doc/langdef.md) without bytes and message literals, which have no use in JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from agentflow.errors import InvalidInput

MAX_DEPTH = 200  # of the tree; a chain `a + b + c` is as deep as it is long
MAX_NESTING = 40  # of brackets; the library's parser refuses more than about 80
MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})


class ExpressionError(InvalidInput):
    """An expression is not valid, or could not be evaluated.

    `code` is stable: `syntax_error`, `unknown_name`, `missing_value`, `too_costly`, ...
    """

    code = "invalid_expression"

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code  # type: ignore[misc]  # one class for all: callers act on the code


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One node of the tree.

    kind: `literal` (value: its Python value), `name`, `select` (value: the field), `has`, `index`,
    `call` and `method` (value: the function), `macro` (value: its name; parts: range, then the
    bodies; variable), `list`, `map` (parts: keys and values in turn), `op` (value: the operator).
    """

    kind: str
    value: object = None
    parts: tuple[Node, ...] = ()
    variable: str = ""
    depth: int = 1


_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f]|//[^\n]*)+)
    |(?P<text>\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}
        |"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<mark>\|\||&&|[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
# A raw text takes a backslash as it is: r'\' is whole, so it cannot share the pattern above.
_RAW = re.compile(r"""[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\r\n]*"|'[^'\r\n]*')""", re.VERBOSE | re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:(?P<plain>[abfnrtv\\?\"'`])|[xX](?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"
    r"|U(?P<U>[0-9a-fA-F]{8})|(?P<octal>[0-3][0-7]{2})|(?P<bad>.|$))",
    re.DOTALL,
)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None}
_BINDING = {
    "||": 1,
    "&&": 2,
    **dict.fromkeys(("<", "<=", ">=", ">", "==", "!=", "in"), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%"), 5),
}


def read(text: str) -> Node:
    """The tree of an expression.

    Raises:
        ExpressionError: `syntax_error` or `too_deep`.
    """
    reader = _Reader(_tokens(text))
    tree = reader.expression()
    if reader.kind != "end":
        reader.refuse()
    return tree


def split_text(text: str) -> list[tuple[str, bool]]:
    """The parts of a text with `${...}` in it: plain text (False), and expressions (True).

    Raises:
        ExpressionError: `syntax_error`, for a `${` without its end.
    """
    parts: list[tuple[str, bool]] = []
    plain, at = "", 0
    while (start := text.find("${", at)) >= 0:
        if start > at and text[start - 1] == "$":
            plain, at = plain + text[at : start - 1] + "${", start + 2
            continue
        plain += text[at:start]
        if plain:
            parts.append((plain, False))
        end = _end_of_expression(text, start + 2)
        parts.append((text[start + 2 : end], True))
        plain, at = "", end + 1
    plain += text[at:]
    return [*parts, (plain, False)] if plain or not parts else parts


def _end_of_expression(text: str, at: int) -> int:
    """Where the closing bracket is; brackets in quotes and of maps do not close."""
    opened = 0
    while at < len(text):
        found = _RAW.match(text, at) or _TOKEN.match(text, at)
        token = found.group() if found else text[at]
        if token == "{":
            opened += 1
        elif token == "}":
            if not opened:
                return at
            opened -= 1
        at += len(token)
    raise ExpressionError(
        "syntax_error", "A ${ is not closed by }.", remedy="Close it, or write $${ for a plain ${."
    )


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens, at = [], 0
    while at < len(text):
        found = _RAW.match(text, at)
        kind = "raw"
        if found is None:
            found = _TOKEN.match(text, at)
            if found is None:
                raise ExpressionError(
                    "syntax_error", f"Character {at + 1}, {text[at]!r}, is not expected here."
                )
            kind = str(found.lastgroup)
        if kind != "space":
            tokens.append((kind, found.group(), at))
        at = found.end()
    tokens.append(("end", "", len(text)))
    return tokens


def _unquote(kind: str, token: str) -> str:
    body = token[1:] if token[0] in "rR" else token
    quotes = 3 if body[:3] in ('"""', "'''") and len(body) >= 6 else 1
    body = body[quotes:-quotes]
    return body if kind == "raw" else _ESCAPE.sub(_unescape, body)


def _unescape(found: re.Match[str]) -> str:
    kind, digits = str(found.lastgroup), found.group(str(found.lastgroup))
    if kind == "plain":
        return _PLAIN.get(digits, digits)
    if kind != "bad":
        number = int(digits, 8 if kind == "octal" else 16)
        if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF:
            return chr(number)
    raise ExpressionError("syntax_error", f"{found.group()!r} is no escape sequence.")


class _Reader:
    """A precedence-climbing parser over the tokens."""

    def __init__(self, tokens: list[tuple[str, str, int]]) -> None:
        self.tokens, self.at, self.nesting = tokens, 0, 0

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def mark(self) -> str:
        """The operator or bracket here; empty before a literal, so that "+" in quotes is none."""
        kind, token, _ = self.tokens[self.at]
        return token if kind == "mark" or (kind == "name" and token == "in") else ""

    def refuse(self) -> NoReturn:
        kind, token, at = self.tokens[self.at]
        what = f"{token[:40]!r} at character {at + 1} is not expected."
        if kind == "end":
            what = "The expression ends too early."
        raise ExpressionError("syntax_error", what)

    def take(self, mark: str) -> None:
        if self.mark != mark:
            self.refuse()
        self.at += 1

    def node(self, kind: str, value: object = None, parts: tuple[Node, ...] = (), variable: str = "") -> Node:
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > MAX_DEPTH:
            raise ExpressionError("too_deep", f"The expression is nested more than {MAX_DEPTH} deep.")
        return Node(kind, value, parts, variable, depth)

    def expression(self) -> Node:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise ExpressionError("too_deep", f"Brackets are nested more than {MAX_NESTING} deep.")
        tree = self.binary(1)
        if self.mark == "?":
            self.at += 1
            then = self.binary(1)
            self.take(":")
            tree = self.node("op", "?:", (tree, then, self.expression()))
        self.nesting -= 1
        return tree

    def binary(self, lowest: int) -> Node:
        left = self.unary()
        while (binding := _BINDING.get(self.mark, 0)) >= lowest:
            mark = self.mark
            self.at += 1
            left = self.node("op", mark, (left, self.binary(binding + 1)))
        return left

    def unary(self) -> Node:
        marks = []
        while self.mark in ("!", "-"):
            marks.append(self.mark)
            self.at += 1
        tree = self.member()
        for mark in reversed(marks):
            tree = self.node("op", mark, (tree,))
        return tree

    def member(self) -> Node:
        tree = self.primary()
        while self.mark in (".", "["):
            if self.mark == "[":
                self.at += 1
                tree = self.node("index", None, (tree, self.expression()))
                self.take("]")
                continue
            self.at += 1
            name = self.name()
            tree = self.method(tree, name) if self.mark == "(" else self.node("select", name, (tree,))
        return tree

    def name(self) -> str:
        kind, token, _ = self.tokens[self.at]
        if kind != "name" or token in _WORDS or token == "in":
            self.refuse()
        self.at += 1
        return token

    def method(self, target: Node, name: str) -> Node:
        arguments = self.sequence("(", ")")
        if name in MACROS:
            if len(arguments) not in ((2, 3) if name == "map" else (2,)) or arguments[0].kind != "name":
                raise ExpressionError(
                    "syntax_error", f"{name} takes a variable's name and what to do with it."
                )
            return self.node("macro", name, (target, *arguments[1:]), str(arguments[0].value))
        return self.node("method", name, (target, *arguments))

    def primary(self) -> Node:
        kind, token, _ = self.tokens[self.at]
        if kind in ("text", "raw"):
            self.at += 1
            return self.node("literal", _unquote(kind, token))
        if kind == "number":
            self.at += 1
            return self.node("literal", _number(token))
        if kind == "name":
            if token in _WORDS:
                self.at += 1
                return self.node("literal", _WORDS[token])
            return self.named()
        if token == "(":
            self.at += 1
            tree = self.expression()
            self.take(")")
            return tree
        if token == "[":
            return self.node("list", None, self.sequence("[", "]"))
        if token != "{":
            self.refuse()
        return self.node("map", None, self.sequence("{", "}", pairs=True))

    def named(self) -> Node:
        name = self.name()
        if self.mark != "(":
            return self.node("name", name)
        arguments = self.sequence("(", ")")
        if name != "has":
            return self.node("call", name, arguments)
        if len(arguments) != 1 or arguments[0].kind != "select":
            raise ExpressionError("syntax_error", "has takes a field, as in has(input.name).")
        return self.node("has", None, arguments)

    def sequence(self, opening: str, closing: str, *, pairs: bool = False) -> tuple[Node, ...]:
        self.take(opening)
        parts: list[Node] = []
        while self.mark != closing:
            parts.append(self.expression())
            if pairs:
                self.take(":")
                parts.append(self.expression())
            if self.mark == ",":
                self.at += 1
            elif self.mark != closing:
                self.refuse()
        self.at += 1
        return tuple(parts)


def _number(token: str) -> int | float:
    digits = token.rstrip("uU").lower()
    if digits.startswith("0x"):
        return int(digits, 16)
    return float(digits) if any(mark in digits for mark in ".e") else int(digits)
