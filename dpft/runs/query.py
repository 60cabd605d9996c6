"""Which runs, and in which order: the small language of ``list --filter``.

It is a part of Python's expressions, read by Python's parser and walked over an allow-list; nothing is ever
evaluated as code::

    accuracy > 0.8 and epsilon <= 3
    mode in ("lora", "ia3") or not private
    epsilon is none
    "baseline" in tags
    0.5 < accuracy < 0.9

A comparison with something a run does not have is false, whichever way it is put; only ``is none`` asks for
that.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dpft.errors import UsageError
from dpft.runs.fields import METRICS, canonical, value_of

if TYPE_CHECKING:
    from dpft.runs.record import RunRecord

__all__ = ["GRAMMAR", "Filter", "sort_runs"]

GRAMMAR = "compare fields by < <= > >= == != in, 'is none', and combine with and, or, not"

_LONGEST, _DEEPEST = 2_000, 50
_CONSTANTS: Mapping[str, Any] = MappingProxyType({"none": None, "true": True, "false": False})
_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = MappingProxyType(
    {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
)
_SIGNS: Mapping[type[ast.cmpop], str] = MappingProxyType(
    {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
)
_UNITS = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800})

_Value = Callable[["RunRecord"], Any]
_Test = Callable[["RunRecord"], bool]


class Filter:
    """A question to runs.

    Args:
        text: see the module.
        metrics: names of metrics that some run has.

    Raises:
        UsageError: it is not such an expression, or names what no run has.

    >>> Filter("epsilon <= 3 and mode is not none").text
    'epsilon <= 3 and mode is not none'
    """

    def __init__(self, text: str, metrics: Iterable[str] = METRICS) -> None:
        self.text = text
        self._metrics = tuple(metrics)
        self._test = self._condition(_parse(text))

    def __call__(self, record: RunRecord) -> bool:
        """Whether the run is like that.

        Raises:
            UsageError: a number is compared with a text.
        """
        return self._test(record)

    def _condition(self, node: ast.expr) -> _Test:
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value) for value in node.values]
            every = isinstance(node.op, ast.And)
            return lambda run: all(part(run) for part in parts) if every else any(part(run) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._condition(node.operand)
            return lambda run: not inner(run)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Name) and node.id.casefold() not in _CONSTANTS:
            field = self._field(node.id)
            return lambda run: bool(value_of(run, field))
        raise self._refused(node, "is no condition")

    def _comparison(self, node: ast.Compare) -> _Test:
        sides = [node.left, *node.comparators]
        links = [
            self._link(operation, left, right)
            for operation, left, right in zip(node.ops, sides, sides[1:], strict=False)
        ]
        return lambda run: all(link(run) for link in links)

    def _link(self, operation: ast.cmpop, left: ast.expr, right: ast.expr) -> _Test:
        first, second = self._value(left, right), self._value(right, left)
        if isinstance(operation, ast.Is | ast.IsNot) or _is_none(right) or _is_none(left):
            if not _is_none(right) or not isinstance(operation, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
                raise self._refused(right, "cannot be asked for: write 'is none' or 'is not none'")
            missing = isinstance(operation, ast.Is | ast.Eq)
            return lambda run: (first(run) is None) == missing
        if isinstance(operation, ast.In | ast.NotIn):
            inside = isinstance(operation, ast.In)
            return lambda run: _known(first(run), second(run)) and _within(first(run), second(run)) == inside
        if isinstance(operation, ast.Eq | ast.NotEq):
            same = isinstance(operation, ast.Eq)
            return lambda run: _known(first(run), second(run)) and _same(first(run), second(run)) == same
        order, sign = _ORDER[type(operation)], _SIGNS[type(operation)]
        return lambda run: _known(first(run), second(run)) and _ordered(order, sign, first(run), second(run))

    def _value(self, node: ast.expr, other: ast.expr) -> _Value:
        """What one side stands for; a time span beside ``age`` is a moment."""
        if isinstance(node, ast.Name) and node.id.casefold() not in _CONSTANTS:
            field = self._field(node.id)
            if field == "age":
                return lambda run: datetime.now(UTC).timestamp() + value_of(run, "age")
            return lambda run: value_of(run, field)
        constant = self._constant(node)
        if isinstance(other, ast.Name) and other.id.casefold() == "age" and isinstance(constant, str):
            constant = self._span(node, constant)
        return lambda run: constant

    def _constant(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return _CONSTANTS[node.id.casefold()]
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            number = self._constant(node.operand)
            if isinstance(number, int | float):
                return -number if isinstance(node.op, ast.USub) else number
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return tuple(self._constant(item) for item in node.elts)
        raise self._refused(node, "cannot stand in a filter")

    def _field(self, name: str) -> str:
        try:
            return canonical(name, self._metrics)
        except UsageError as error:
            quoted = "" if error.hint.startswith("did you mean") else f"a text wants quotes: '{name}'; "
            raise UsageError(f"unknown field {name!r} in the filter", hint=quoted + error.hint) from None

    def _span(self, node: ast.expr, text: str) -> float:
        number, unit = text[:-1], text[-1:]
        if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
            raise self._refused(node, "is no time span: write '30m', '12h' or '7d'")
        return float(number) * _UNITS[unit]

    def _refused(self, node: ast.expr, why: str) -> UsageError:
        part = ast.get_source_segment(self.text.strip(), node) or ast.unparse(node)
        return UsageError(f"{part!r} {why}", hint=f"in a filter, {GRAMMAR}: 'accuracy>0.8 and epsilon<=3'")


def sort_runs(records: Sequence[RunRecord], by: str, metrics: Iterable[str] = METRICS) -> list[RunRecord]:
    """The runs in another order; those that have no such value come last.

    Args:
        records: in the order that is kept among equals.
        by: ``COLUMN`` or ``COLUMN:desc`` (or ``:asc``).
        metrics: names of metrics that some run has.

    Raises:
        UsageError: no such column, or neither ``asc`` nor ``desc``.
    """
    column, colon, direction = by.partition(":")
    if colon and direction.casefold() not in ("asc", "desc"):
        raise UsageError(f"{by!r} is no order", hint=f"write '{column}', '{column}:asc' or '{column}:desc'")
    field = canonical(column, metrics)
    have = [record for record in records if value_of(record, field) is not None]
    have.sort(key=lambda record: _sortable(value_of(record, field)), reverse=direction.casefold() == "desc")
    return [*have, *(record for record in records if value_of(record, field) is None)]


def _sortable(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def _parse(text: str) -> ast.expr:
    hint = f"{GRAMMAR}: 'accuracy>0.8 and epsilon<=3'"
    if len(text) > _LONGEST:
        raise UsageError(f"the filter has {len(text):,} characters, more than {_LONGEST:,}", hint=hint)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        offset = getattr(error, "offset", None)
        where = f" at character {offset}" if offset else ""
        if re.search(r"[^=!<>]=[^=]", text):
            hint = f"equal is '=='; {hint}"
        raise UsageError(f"the filter {text!r} cannot be read{where}", hint=hint) from None
    if _depth(tree) > _DEEPEST:
        raise UsageError("the filter is nested too deeply", hint=hint)
    return tree


def _depth(tree: ast.AST) -> int:
    deepest, level = 0, [tree]
    while level:
        deepest += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return deepest


def _is_none(node: ast.expr) -> bool:
    named = isinstance(node, ast.Name) and node.id.casefold() == "none"
    return named or (isinstance(node, ast.Constant) and node.value is None)


def _known(*values: Any) -> bool:
    return all(value is not None for value in values)


def _same(first: Any, second: Any) -> bool:
    """Texts without regard to case; a tag list is the same as a tag if it is the only one."""
    if isinstance(first, str) and isinstance(second, str):
        return first.casefold() == second.casefold()
    if isinstance(first, tuple) and isinstance(second, str):
        return _within(second, first) and len(first) == 1
    return bool(first == second)


def _within(item: Any, container: Any) -> bool:
    """In a list one of which is the same; in a text as a part of it."""
    if isinstance(container, tuple):
        return any(_same(item, member) for member in container)
    if isinstance(container, str) and isinstance(item, str):
        return item.casefold() in container.casefold()
    raise UsageError(
        f"nothing can be 'in' {container!r}", hint="write field in ('a', 'b'), or 'part' in field"
    )


def _ordered(order: Callable[[Any, Any], bool], sign: str, first: Any, second: Any) -> bool:
    try:
        return order(first, second)
    except TypeError:
        raise UsageError(
            f"{first!r} {sign} {second!r} compares a {_kind(first)} with a {_kind(second)}",
            hint="numbers without quotes, texts with them",
        ) from None


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "list" if isinstance(value, tuple) else "number"
