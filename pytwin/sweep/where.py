"""Boolean expressions over row keys: parsed, checked, never handed to Python's `eval`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from pytwin.errors import ConfigError
from pytwin.sweep.keys import KEYS, unknown

Row = Mapping[str, Any]
_Evaluate = Callable[[Row], Any]

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
# No power and no shift: a spec must not be able to ask for a number of a billion digits.
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "len": len,
    "max": max,
    "min": min,
    "sum": sum,
}


class Where:
    """A condition such as ``max_loras <= served_adapters and max(ranks) < 64``.

    Allowed are row keys, numbers, text, lists, comparisons, ``in``, ``and``, ``or``, ``not``,
    ``+ - * / // %`` on numbers, ``x if c else y`` and abs, len, max, min, sum.

    Attributes
    ----------
    names: the row keys it reads.

    Raises
    ------
    ConfigError: the text is no such expression.
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.names: set[str] = set()
        try:
            tree = ast.parse(self.text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(f"where ({self.text}) is no expression: check its syntax") from None
        try:
            self._evaluate = self._build(tree.body)
        except RecursionError:
            raise ConfigError("where is nested too deeply: split it up") from None

    def __call__(self, row: Row) -> bool:
        """Whether `row` is kept.

        Raises
        ------
        ConfigError: the values do not fit the expression (a list compared with a number).
        """
        try:
            return bool(self._evaluate(row))
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            values = ", ".join(f"{name}={row.get(name)}" for name in sorted(self.names))
            raise ConfigError(f"where ({self.text}) fails at {values}: {error}") from None

    def _refuse(self, node: ast.AST) -> ConfigError:
        part = ast.unparse(node)
        return ConfigError(
            f"where ({self.text}) may not hold {part if len(part) <= 60 else part[:57] + '...'}: "
            "use row keys, numbers, text, lists, comparisons, and/or/not, + - * / // %, "
            f"{', '.join(_FUNCTIONS)}"
        )

    def _build(self, node: ast.expr) -> _Evaluate:
        match node:
            case ast.Constant(value=value) if value is None or isinstance(
                value, (bool, int, float, str)
            ):
                return lambda _row: value
            case ast.Name(id=name):
                return self._name(name)
            case ast.BoolOp(op=op, values=values):
                return _bool_op(isinstance(op, ast.And), [self._build(item) for item in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._build(operand)
                return lambda row: not inner(row)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._build(operand)
                return lambda row: -_number(inner(row))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _binary(_ARITHMETIC[type(op)], self._build(left), self._build(right))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(
                type(op) in _COMPARE for op in ops
            ):
                return _compare(
                    [_COMPARE[type(op)] for op in ops],
                    [self._build(item) for item in (left, *others)],
                )
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition, yes, no = (self._build(item) for item in (test, body, orelse))
                return lambda row: yes(row) if condition(row) else no(row)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                parts = [self._build(item) for item in items]
                return lambda row: [part(row) for part in parts]
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                function, arguments = _FUNCTIONS[name], [self._build(item) for item in args]
                return lambda row: function(*(argument(row) for argument in arguments))
        raise self._refuse(node)

    def _name(self, name: str) -> _Evaluate:
        if name not in KEYS:
            raise ConfigError(unknown(f"where: {name}", name, KEYS, "names no row key"))
        self.names.add(name)
        return operator.itemgetter(name)


def _number(value: Any) -> Any:
    # Text times a number, or lists added up, could grow without bound: numbers only.
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _binary(apply: Callable[[Any, Any], Any], left: _Evaluate, right: _Evaluate) -> _Evaluate:
    return lambda row: apply(_number(left(row)), _number(right(row)))


def _bool_op(is_and: bool, parts: list[_Evaluate]) -> _Evaluate:
    if is_and:
        return lambda row: all(part(row) for part in parts)
    return lambda row: any(part(row) for part in parts)


def _compare(compares: list[Callable[[Any, Any], Any]], parts: list[_Evaluate]) -> _Evaluate:
    def evaluate(row: Row) -> bool:
        left = parts[0](row)
        for apply, part in zip(compares, parts[1:], strict=True):
            right = part(row)
            if not apply(left, right):
                return False
            left = right
        return True

    return evaluate
