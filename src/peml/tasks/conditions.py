"""Finds the fields that templates take as values, not only as texts to print.

In CSV every cell is a text, so ``0`` and ``False`` are true, and no cell equals the number 1.
"""

from collections.abc import Iterator
from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, nodes

from peml.tasks.task import Task

_OF_VALUES = frozenset({"boolean", "false", "float", "integer", "number", "true"})
_LOGIC = (nodes.And, nodes.Not, nodes.Or)


def conditions(task: Task) -> tuple[frozenset[str], frozenset[str]]:
    """The fields whose truth a task's templates ask for, and those compared with other values.

    A field that is compared with a text is in neither.
    """
    sources = (task.template, task.header, task.option, task.target, *(task.segments or ()))
    found = [_read(source) for source in sources if source is not None]
    asked, compared = zip(*found, strict=True)
    return frozenset().union(*asked), frozenset().union(*compared)


@lru_cache(maxsize=4096)
def _read(source: str) -> tuple[frozenset[str], frozenset[str]]:
    try:
        tree = Environment(autoescape=False).parse(source)
    except TemplateSyntaxError:
        return frozenset(), frozenset()  # refused where it is rendered
    asked, compared = (
        frozenset(node.name for node in found if isinstance(node, nodes.Name))
        for found in (_asked(tree), _compared(tree))
    )
    return asked, compared


def _asked(tree: nodes.Node) -> Iterator[nodes.Node]:
    yield from (node.test for node in tree.find_all(nodes.If))
    yield from (node.test for node in tree.find_all(nodes.CondExpr))
    for node in tree.find_all(_LOGIC):
        yield from node.iter_child_nodes()


def _compared(tree: nodes.Node) -> Iterator[nodes.Node]:
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        if any(map(_is_value, sides)):
            yield from sides
    for test in tree.find_all(nodes.Test):
        if test.name in _OF_VALUES:
            yield test.node


def _is_value(node: nodes.Node) -> bool:
    """Whether a side of a comparison is a number, true or false, or a list of these."""
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return bool(node.items) and all(map(_is_value, node.items))
    return isinstance(node, nodes.Const) and isinstance(node.value, (bool, int, float))
