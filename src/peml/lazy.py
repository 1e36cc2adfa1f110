"""Packages that export names lazily: a name's module is imported when the name is first used.

In an ``__init__.py``::

    if TYPE_CHECKING:
        from peml.training.loop import TrainingLoop
    else:
        __getattr__ = hand_on(__name__)

so that the settings of a package, say, can be read without its torch.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def hand_on(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package, which imports a name when it is used.

    The names are those that the package imports for type checking.
    """
    module = import_module(package)  # it is being imported right now
    known = origins(package)

    def __getattr__(name: str) -> Any:  # noqa: N807 - what a module calls it
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(known[name]), name)
        setattr(module, name, value)
        return value

    return __getattr__


def origins(package: str) -> dict[str, str]:
    """The modules of a lazy package's names.

    Raises:
        ImportError: The package's source can't be read.
    """
    spec = find_spec(package)
    source = getattr(spec and spec.loader, "get_source", lambda name: None)(package)
    if source is None:
        raise ImportError(f"the source of {package} can't be read")
    return {
        alias.name: node.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
