"""The card of a data set of the hub that was downloaded: names of labels, files of splits.

The card is a ``README.md`` that begins with YAML. Its ``dataset_info`` lists the features of the
only configuration, or of several, each in a folder of its own; its ``configs`` list the files, and
how the library `datasets` reads them.
"""

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from peml.tasks.columns import Columns

_CARD, _FENCE = "README.md", "---\n"
_PLAIN: dict[str, dict[str, tuple[Any, ...]]] = {
    ".csv": {
        **dict.fromkeys(("names", "column_names", "nrows", "comment", "escapechar"), ()),
        **dict.fromkeys(("thousands", "lineterminator"), ()),
        **dict.fromkeys(("skiprows", "skipfooter", "quoting"), (0,)),
        **dict.fromkeys(("sep", "delimiter"), (",",)),
        "header": ("infer", 0),
        "quotechar": ('"',),
        "doublequote": (True,),
        "skipinitialspace": (False,),
        "decimal": (".",),
        "encoding": ("utf-8", "utf-8-sig", "ascii"),
    },
    ".parquet": {"filters": ()},
}
"""Options of a configuration that change what is read of a kind of files, and their values that
change nothing; none does in all of them."""


def card_configs(folder: Path) -> list[str]:
    """The names of a folder's configurations: in its card, and its own in the card above."""
    found: dict[str, None] = {}
    for key in ("configs", "dataset_info"):
        above = (info for info in _listed(folder.parent, key) if _is_named(info, folder.name))
        names = (info.get("config_name") for info in (*_listed(folder, key), *above))
        found |= dict.fromkeys(name for name in names if isinstance(name, str))
    return list(found)


def card_names(folder: Path, columns: Columns, subset: str | None = None) -> tuple[str, ...] | None:
    """The names of a label column's integers, in their order; None if no card has them.

    Of several configurations, `subset` is the name of one; otherwise the default counts, or all if
    they have the same names.
    """
    wanted = (columns.label, columns.aliases.get(columns.label))
    found = {
        names
        for feature in _features(folder, subset)
        if isinstance(feature, dict) and feature.get("name") in wanted
        for names in _names(feature.get("dtype"))
    }
    return found.pop() if len(found) == 1 else None


def card_files(
    folder: Path, split: str, subset: str | None, suffixes: Sequence[str]
) -> dict[Path, bool]:
    """The files that a card gives a split, as the library `datasets` reads it; empty without any.

    `subset` as for `card_names`; without a default, none of several configurations counts.
    `suffixes` are those of a split's file in a `data_dir`. The values say which files were found by
    a pattern.
    """
    found: dict[Path, bool] = {}
    for base, config in _configs(folder, subset):
        patterns = list(_patterns(config.get("data_files"), split))
        inner = config.get("data_dir")
        if isinstance(inner, str) and _stays(inner):
            base /= inner
            if not config.get("data_files"):
                patterns = [f"{split}{suffix}" for suffix in suffixes]
                patterns += [f"{split}-*-of-*.parquet"]
        for pattern in filter(_stays, patterns):
            # `a/**` are files of any depth there, and folders for Python before 3.13.
            paths = sorted(base.glob(f"{pattern}/*" if pattern.endswith("**") else pattern))
            for path in paths:
                if path.is_file() and not _is_hidden(path.relative_to(base), pattern):
                    found.setdefault(path, path.name != Path(pattern).name)
    return found


def card_options(folder: Path, path: Path, subset: str | None, *, named: bool) -> list[str]:
    """How a card says that a file is read otherwise than by default, as in YAML.

    `named` says that the card names the file; options are also those of files that it doesn't
    name, where it names none.
    """
    kind = next((plain for suffix, plain in _PLAIN.items() if suffix in path.suffixes), {})
    return [
        f"{option}: {value!r}"
        for _, config in _configs(folder, subset)
        if named or not config.get("data_files")
        for option, plain in kind.items()
        if (value := config.get(option)) is not None and _spelled(option, value) not in plain
    ]


def _spelled(option: str, value: Any) -> Any:
    """A value as `_PLAIN` has it: encodings have many names."""
    try:
        return codecs.lookup(value).name if option == "encoding" else value
    except (LookupError, TypeError):
        return value


def _stays(path: str) -> bool:
    """Whether a path of a card stays in the data set's folder."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _is_hidden(path: Path, pattern: str) -> bool:
    """Whether `datasets` leaves a file out: it or a folder above is hidden, and no pattern says so.

    Such as ``.cache``, ``.ipynb_checkpoints`` and ``__MACOSX``.
    """
    hidden = [part for part in path.parts if part.startswith((".", "__"))]
    return any(part not in Path(pattern).parts for part in hidden)


def _configs(folder: Path, subset: str | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The configuration of a folder that counts, in its card or the one above, and its folder."""
    own = _chosen(folder, "configs", subset)
    if len(own) == 1:
        yield folder, own[0]
    for config in _listed(folder.parent, "configs"):
        if _is_named(config, folder.name):
            yield folder.parent, config


def _patterns(files: Any, split: str) -> Iterator[str]:
    """The patterns of a split's files; those without a split are of train."""
    for each in files if isinstance(files, list) else [files]:
        named = each if isinstance(each, dict) else {"split": "train", "path": each}
        if named.get("split") == split:
            paths = named.get("path")
            listed = paths if isinstance(paths, list) else [paths]
            yield from (path for path in listed if isinstance(path, str) and path)


def _features(folder: Path, subset: str | None) -> Iterator[Any]:
    """The features of a folder's card, or of the folder's configuration in the card above it."""
    for info in _chosen(folder, "dataset_info", subset):
        yield from info.get("features") or ()
    for info in _listed(folder.parent, "dataset_info"):
        if _is_named(info, folder.name):
            yield from info.get("features") or ()


def _chosen(folder: Path, key: str, subset: str | None) -> list[dict[str, Any]]:
    """What a folder's card says of the configuration that counts; of all if that is unclear."""
    own = _listed(folder, key)
    default = (c.get("config_name") for c in _listed(folder, "configs") if c.get("default") is True)
    for name in (subset, next(default, "default")):
        if named := [each for each in own if _is_named(each, name)]:
            return named
    return own


def _is_named(config: dict[str, Any], name: str | None) -> bool:
    return bool(config.get("config_name") == name)


def _listed(folder: Path, key: str) -> list[dict[str, Any]]:
    """What a folder's card says of each configuration under a key."""
    try:
        text = (folder / _CARD).read_text(encoding="utf-8-sig")
        head = yaml.safe_load(text.split(_FENCE, 2)[1]) if text.startswith(_FENCE) else None
    except (OSError, IndexError, UnicodeDecodeError, yaml.YAMLError):
        return []  # a text for people
    given = head.get(key) if isinstance(head, dict) else None
    listed = given if isinstance(given, list) else [given]
    return [each for each in listed if isinstance(each, dict)]


def _names(kind: Any) -> Iterator[tuple[str, ...]]:
    named = kind.get("class_label") if isinstance(kind, dict) else None
    names = named.get("names") if isinstance(named, dict) else None
    if isinstance(names, dict):  # by their numbers, as texts
        by_number = {str(key): name for key, name in names.items()}
        names = [by_number.get(str(number)) for number in range(len(names))]
    if isinstance(names, list) and None not in names:
        yield tuple(map(str, names))
