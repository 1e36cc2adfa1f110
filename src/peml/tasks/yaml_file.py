"""Reading YAML definitions: plain data only, no duplicate keys."""

from collections.abc import Hashable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from peml.errors import TaskError

# The parser in C is ten times as fast. Every wheel of PyYAML has it, but not every build.
if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class StrictLoader(_Loader):
    """A safe loader that refuses duplicate keys, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Builds one mapping; called by the parser."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                problem = "given twice" if isinstance(key, Hashable) else "not usable as a key"
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is {problem}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path | Traversable) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        TaskError: The file can't be read, is not UTF-8, not YAML, or not a mapping.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise TaskError(
            f"Can't read {str(file)!r}: {error.strerror}.",
            allowed="a YAML file",
            action="Check the path.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TaskError(
            f"{file} is not valid YAML: {_one_line(error)}.",
            allowed="UTF-8 YAML with plain values",
            action="Correct the file there.",
        ) from error
    if not isinstance(content, dict):
        raise TaskError(
            f"{file} holds {type(content).__name__}, not a mapping.",
            allowed="a task or suite definition: 'key: value' lines",
            action="See `peml tasks schema` for the keys.",
        )
    return content


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())
