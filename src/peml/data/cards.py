"""Names of labels in the card of a data set of the hub that was downloaded.

The card is a ``README.md`` that begins with YAML. Its ``dataset_info`` lists the features of the
only configuration, or of several, each in a folder of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from peml.tasks.columns import Columns

_CARD, _FENCE = "README.md", "---\n"


def card_names(folder: Path, columns: Columns) -> tuple[str, ...] | None:
    """The names of a label column's integers, in their order; None if no card has them.

    Configurations of one folder that have different names are ignored.
    """
    wanted = (columns.label, columns.aliases.get(columns.label))
    found = {
        names
        for feature in _features(folder)
        if isinstance(feature, dict) and feature.get("name") in wanted
        for names in _names(feature.get("dtype"))
    }
    return found.pop() if len(found) == 1 else None


def _features(folder: Path) -> Iterator[Any]:
    """The features of a folder's card, or of the folder's configuration in the card above it."""
    for info in _infos(folder):
        yield from info.get("features") or ()
    for info in _infos(folder.parent):
        if info.get("config_name") == folder.name:
            yield from info.get("features") or ()


def _infos(folder: Path) -> list[dict[str, Any]]:
    try:
        text = (folder / _CARD).read_text(encoding="utf-8")
        head = yaml.safe_load(text.split(_FENCE, 2)[1]) if text.startswith(_FENCE) else None
    except (OSError, IndexError, UnicodeDecodeError, yaml.YAMLError):
        return []  # a text for people
    infos = head.get("dataset_info") if isinstance(head, dict) else None
    listed = infos if isinstance(infos, list) else [infos]
    return [info for info in listed if isinstance(info, dict)]


def _names(kind: Any) -> Iterator[tuple[str, ...]]:
    named = kind.get("class_label") if isinstance(kind, dict) else None
    names = named.get("names") if isinstance(named, dict) else None
    if isinstance(names, dict):  # by their numbers, as texts
        by_number = {str(key): name for key, name in names.items()}
        names = [by_number.get(str(number)) for number in range(len(names))]
    if isinstance(names, list) and None not in names:
        yield tuple(map(str, names))
