"""Finds the fields that templates take as values or lists, not only as texts to print.

In CSV every cell is a text, so ``0`` and ``False`` are true, no cell equals the number 1, ``10`` is
below ``9``, and a list's items are its letters.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from jinja2 import Environment, TemplateSyntaxError, nodes

from peml.tasks.task import Task

_OF_VALUES = frozenset({"boolean", "false", "float", "integer", "number", "true"})
_LOGIC = (nodes.And, nodes.Not, nodes.Or)
_OF_ITEMS = frozenset({"batch", "first", "join", "last", "map", "max", "min", "reject", "select"})
_OF_ITEMS |= {"slice", "sort", "sum", "unique"}
_ORDER = frozenset({"gt", "gteq", "lt", "lteq"})


class Uses(NamedTuple):
    """Fields by their use in a task's templates.

    `asked` are those whose truth is asked for, `compared` those that are compared or added up as
    other values than texts, and `looped` those whose items are gone through.
    """

    asked: frozenset[str]
    compared: frozenset[str]
    looped: frozenset[str]


def conditions(task: Task) -> Uses:
    """The uses of fields in a task's templates. A comparison with a text is none of them."""
    sources = (task.template, task.header, task.option, task.target, *(task.segments or ()))
    found = [_read(source) for source in sources if source is not None]
    return Uses(*(frozenset().union(*each) for each in zip(*found, strict=True)))


@lru_cache(maxsize=4096)
def _read(source: str) -> Uses:
    try:
        tree = Environment(autoescape=False).parse(source)
    except TemplateSyntaxError:
        return Uses(*[frozenset()] * 3)  # refused where it is rendered
    return Uses(*map(_names, (_asked(tree), _compared(tree), _looped(tree))))


def _names(found: Iterable[nodes.Node | None]) -> frozenset[str]:
    return frozenset(node.name for node in found if isinstance(node, nodes.Name))


def _asked(tree: nodes.Node) -> Iterator[nodes.Node | None]:
    yield from (node.test for node in tree.find_all(nodes.If))
    yield from (node.test for node in tree.find_all(nodes.CondExpr))
    yield from (loop.test for loop in tree.find_all(nodes.For))
    for node in tree.find_all(_LOGIC):
        yield from node.iter_child_nodes()
    for name in ("default", "d"):  # which can replace what is false
        yield from (each.node for each in _filters(tree, name) if len(each.args) > 1 or each.kwargs)


def _compared(tree: nodes.Node) -> Iterator[nodes.Node | None]:
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        ordered = any(operand.op in _ORDER for operand in compare.ops)
        if any(map(_is_value, sides)) or (ordered and not any(map(_is_text, sides))):
            yield from sides
    for sum_ in tree.find_all((nodes.Add, nodes.Mul)):
        if not (_is_text(sum_.left) or _is_text(sum_.right)):
            yield from (sum_.left, sum_.right)
    for test in tree.find_all(nodes.Test):
        if test.name in _OF_VALUES:
            yield test.node
    for name in ("max", "min", "sort", "sum"):
        for each in _filters(tree, name):
            if isinstance(each.node, (nodes.List, nodes.Tuple)):
                yield from each.node.items


def _looped(tree: nodes.Node) -> Iterator[nodes.Node | None]:
    yield from (loop.iter for loop in tree.find_all(nodes.For))
    yield from (each.node for name in sorted(_OF_ITEMS) for each in _filters(tree, name))


def _filters(tree: nodes.Node, name: str) -> Iterator[nodes.Filter]:
    return (each for each in tree.find_all(nodes.Filter) if each.name == name)


def _is_value(node: nodes.Node) -> bool:
    """Whether a side of a comparison is a number, true or false, or a list of these."""
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return bool(node.items) and all(map(_is_value, node.items))
    return isinstance(node, nodes.Const) and isinstance(node.value, (bool, int, float))


def _is_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str)
