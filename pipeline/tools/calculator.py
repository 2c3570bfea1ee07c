"""A calculator for arithmetic, integers exact, safe to hand to a model."""

import ast
import math
import operator
from collections.abc import Callable

MAX_LENGTH = 200
"""Characters of an expression; this bounds the depth of its tree as well."""
MAX_BITS = 4096
"""Of a result, about 1,200 digits: 9**9**9 would otherwise fill the memory."""

_BINARY: dict[type[ast.operator], Callable[..., int | float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[..., int | float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculator(expression: str) -> str:
    """Work out an arithmetic expression.

    Args:
        expression: Numbers with + - * / ** and parentheses, such as (12.5 + 3) * 4.

    Returns:
        The value as text.
    """
    expression = str(expression)  # a model may send a bare number
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"the expression has {len(expression)} characters, at most {MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as error:
        raise ValueError(f"{expression[:40]!r} is no arithmetic expression") from error
    try:
        value = _value(tree)
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error
    except OverflowError as error:
        raise ValueError("a number is too large") from error
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            if left < 0 and not float(right).is_integer():
                raise ValueError("a root of a negative number")
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_BITS:
                raise OverflowError
        if (
            isinstance(node.op, ast.Div)
            and isinstance(left, int)
            and isinstance(right, int)
            and right
            and not left % right
        ):
            return left // right  # exact where a float would round
        return _bounded(_BINARY[type(node.op)](left, right))
    raise ValueError(f"{ast.unparse(node)[:40]!r} is not allowed: only numbers, + - * / ** and parentheses are")


def _bounded(value: int | float) -> int | float:
    if (
        isinstance(value, int)
        and value.bit_length() > MAX_BITS
        or isinstance(value, float)
        and not math.isfinite(value)
    ):
        raise OverflowError
    return value
