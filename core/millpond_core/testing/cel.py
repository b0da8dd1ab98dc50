"""As much of CEL as the model's rules use, so that the API server in memory refuses what the real one refuses.

A rule is compiled to a closure over the variables. tests/api holds the two side by side. Source: the language
definition of CEL, and the Kubernetes libraries ``quantity`` and lists.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from millpond_core.units import parse_quantity

Scope = Mapping[str, Any]
Expression = Callable[[Scope], Any]

_TOKEN = re.compile(r"\s*(?:(\d+)|('[^']*')|([A-Za-z_]\w*)|(&&|\|\||[=!<>]=|[<>!+()\[\],.]))")
_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda item, container: item in container,
}
_LITERALS = {"true": True, "false": False}
_MACROS = {"all", "exists", "filter"}


@functools.cache
def compiled(rule: str) -> Expression:
    """The rule as a function of its variables. SyntaxError for what is beyond this subset."""
    parser = _Parser(rule)
    expression = parser.either()
    parser.expect("")
    return expression


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SyntaxError(f"cannot read {text[at:]!r}")
        tokens.append(match[match.lastindex or 0])
        at = match.end()
    return [*tokens, ""]


class _Parser:
    """Recursive descent: a method for each level of precedence, the loosest first."""

    def __init__(self, text: str) -> None:
        self._text, self._tokens, self._at = text, _tokens(text), 0

    def either(self) -> Expression:
        parts = [self._both()]
        while self._take("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda scope: any(part(scope) for part in parts)

    def expect(self, token: str) -> None:
        if self._tokens[self._at] != token:
            raise SyntaxError(f"{self._tokens[self._at]!r} where {token!r} was expected in {self._text!r}")
        self._at += 1

    def _take(self, token: str) -> bool:
        taken = self._tokens[self._at] == token
        self._at += taken
        return taken

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _both(self) -> Expression:
        parts = [self._relation()]
        while self._take("&&"):
            parts.append(self._relation())
        return parts[0] if len(parts) == 1 else lambda scope: all(part(scope) for part in parts)

    def _relation(self) -> Expression:
        left = self._sum()
        relate = _RELATIONS.get(self._tokens[self._at])
        if relate is None:
            return left
        self._at += 1
        right = self._sum()
        return lambda scope: relate(left(scope), right(scope))

    def _sum(self) -> Expression:
        terms = [self._unary()]
        while self._take("+"):
            terms.append(self._unary())
        return terms[0] if len(terms) == 1 else lambda scope: sum(term(scope) for term in terms)

    def _unary(self) -> Expression:
        if self._take("!"):
            inner = self._unary()
            return lambda scope: not inner(scope)
        return self._members(self._primary())

    def _primary(self) -> Expression:
        token = self._next()
        if token == "(":  # noqa: S105 (no password: a parenthesis)
            inner = self.either()
            self.expect(")")
            return inner
        if token == "[":  # noqa: S105
            parts = self._arguments("]")
            return lambda scope: [part(scope) for part in parts]
        if token.isdecimal() or token.startswith("'"):
            value = int(token) if token.isdecimal() else token[1:-1]
            return lambda scope: value
        if token in _LITERALS:
            return lambda scope: _LITERALS[token]
        if not token.isidentifier():
            raise SyntaxError(f"{token!r} where a value was expected in {self._text!r}")
        if self._take("("):
            return _function(token, self._arguments(")"))
        return lambda scope: scope[token]

    def _members(self, target: Expression) -> Expression:
        while self._take("."):
            name = self._next()
            if not self._take("("):
                target = functools.partial(_field, target, name)
            elif name in _MACROS:
                variable = self._next()
                self.expect(",")
                body = self.either()
                self.expect(")")
                target = functools.partial(_macro, name, target, variable, body)
            else:
                target = functools.partial(_method, name, target, self._arguments(")"))
        return target

    def _arguments(self, end: str) -> list[Expression]:
        arguments: list[Expression] = []
        while not self._take(end):
            if arguments:
                self.expect(",")
            arguments.append(self.either())
        return arguments


def _field(target: Expression, name: str, scope: Scope) -> Any:
    return target(scope)[name]


def _macro(name: str, target: Expression, variable: str, body: Expression, scope: Scope) -> Any:
    items = target(scope)
    verdicts = ((item, body({**scope, variable: item})) for item in items)
    if name == "filter":
        return [item for item, verdict in verdicts if verdict]
    return (all if name == "all" else any)(verdict for _, verdict in verdicts)


def _method(name: str, target: Expression, arguments: list[Expression], scope: Scope) -> Any:
    value, given = target(scope), [argument(scope) for argument in arguments]
    match name:
        case "size":
            return len(value)
        case "matches":
            return re.search(given[0], value) is not None
        case "compareTo":
            return (value > given[0]) - (value < given[0])
        case "add":
            return value + given[0]
        case "asApproximateFloat":
            return float(value)
    raise SyntaxError(f"no method {name}")


def _function(name: str, arguments: list[Expression]) -> Expression:
    (argument,) = arguments
    match name:
        case "has":
            # What the field is of must be there: else the rule fails.
            target, field = argument.args  # type: ignore[attr-defined]
            return lambda scope: field in target(scope)
        case "quantity":
            return lambda scope: parse_quantity(argument(scope))
        case "double":
            return lambda scope: float(argument(scope))
        case "isQuantity":
            return lambda scope: _is_quantity(argument(scope))
    raise SyntaxError(f"no function {name}")


def _is_quantity(text: str) -> bool:
    try:
        parse_quantity(text)
    except ValueError:
        return False
    return True
