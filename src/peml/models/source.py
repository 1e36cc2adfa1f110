"""Checks a model's files before they are used, and computes the checksum of its weights.

Transformers applies an adapter that it finds beside the weights, follows file names in JSON files
to any folder, and reports late that a model needs its own code. All of this is refused here before
any file but JSON is read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import cached_file

from peml.errors import ModelError
from peml.files import sha256

GRANT = "set model.trust_remote_code: true in your own config, or give --trust-remote-code"
"""How a user allows a model's own code to run."""

_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_INDEX = "model.safetensors.index.json"
_IS_CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # a name in the hub's cache
_SAVED = "the model of a run"
_WORK = {
    "peml.json": _SAVED,
    "environment.json": "the folder of a run",
    "study.yaml": "the folder of a study",
    "comparison.yaml": "the folder of a comparison",
}
"""What a folder is, by a file that PEML writes into it."""


def read_source(location: str, file: str, revision: str | None) -> dict[str, Any]:
    """A JSON file of a local folder or hub repository; empty if it is missing or unreadable."""
    try:
        content = json.loads(_read_text(location, file, revision))
    except (ValueError, RecursionError):  # loading the model will report it
        return {}
    return content if isinstance(content, dict) else {}


def read_vocabulary(location: str, revision: str | None) -> str:
    """The text of the files that define a tokenizer's tokens; empty without such a file."""
    tokens = _read_text(location, _TOKENIZER, revision)
    if not tokens:
        return ""
    added = read_source(location, _TOKENIZER_CONFIG, revision).get("added_tokens_decoder")
    legacy = _read_text(location, "added_tokens.json", revision)
    return f"{tokens}{json.dumps(added)}{legacy}"


def _read_text(location: str, file: str, revision: str | None) -> str:
    """A file of a folder or repository; empty if it is missing or unreadable."""
    path = find_file(location, file, revision)
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # loading the model will report it
        return ""


def find_file(location: str, file: str, revision: str | None) -> Path | None:
    """A file of a local folder or hub repository; None if it is missing or can't be fetched."""
    if Path(location).is_dir():
        path = Path(location, file)
        return path if path.is_file() else None
    try:
        cached = cached_file(
            location,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # loading the model will report it
        return None
    return None if cached is None else Path(cached)


def check_source(name: str, location: str, revision: str | None, *, trusted: bool) -> None:
    """Raises a ModelError for a model with an adapter, code, or paths to files in other folders.

    ``location`` is its folder or the repository's id, ``name`` what the user wrote. ``trusted``:
    the caller allows its code to run.
    """
    _refuse_adapter(name, location, revision)
    _refuse_work(name, Path(location))
    if not Path(location).is_dir():
        return  # for hub repositories, Transformers itself asks before it runs code
    config = read_source(location, _CONFIG, None)
    tokenizer = read_source(location, _TOKENIZER_CONFIG, None)
    if not trusted:
        _refuse_code(name, {_CONFIG: config, _TOKENIZER_CONFIG: tokenizer})
    for file, field, value in _named_files(location, config, tokenizer):
        if not isinstance(value, str) or Path(value).name != value or value in ("", ".", ".."):
            raise ModelError(
                f"{file} of model {name!r} names the file {value!r} ({field})",
                allowed="names of files in the same folder",
                action=f"correct {file}, or get the model from its source again",
            )
    if tokenizer.get("init_inputs"):
        raise ModelError(
            f"{_TOKENIZER_CONFIG} of model {name!r} passes {tokenizer['init_inputs']!r} to the "
            "tokenizer (init_inputs), which may name files in other folders",
            allowed="no init_inputs",
            action=f"remove init_inputs from {_TOKENIZER_CONFIG}",
        )


def damaged_weights(folder: Path) -> list[str]:
    """Names of a folder's weight files that aren't there, or aren't whole."""
    listed = read_source(str(folder), _INDEX, None).get("weight_map")
    names = {path.name for path in folder.glob("*.safetensors")}
    names |= set(map(str, listed.values())) if isinstance(listed, dict) else set()
    return [name for name in sorted(names) if not _is_whole(folder / name)]


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _refuse_adapter(name: str, location: str, revision: str | None) -> None:
    if find_file(location, _ADAPTER, revision) is None:
        return
    adapter = read_source(location, _ADAPTER, revision)
    kind, base = adapter.get("peft_type"), adapter.get("base_model_name_or_path")
    kind = f"a {kind} adapter" if isinstance(kind, str) else "an adapter"
    if read_source(location, _CONFIG, revision):
        raise ModelError(
            f"model {name!r} has {kind} beside its weights (adapter_config.json), which "
            "Transformers would apply automatically",
            allowed="a model without an adapter beside it",
            action="remove the adapter_* files if the weights have it merged already; if not, "
            "merge it with PEFT's merge_and_unload and save the result in a separate folder",
        )
    of = f" of {base!r}" if isinstance(base, str) else ""
    raise ModelError(
        f"model {name!r} is {kind}{of}, not a model",
        allowed="a whole model, with its adapters merged",
        action=f"to train the adapter further, give {base if of else 'its base model'!r} as "
        "model.name and the adapter as init_from; else load both with PEFT, call merge_and_unload, "
        "save model and tokenizer with save_pretrained, and give that folder",
    )


def _refuse_work(name: str, folder: Path) -> None:
    """Refuses a folder of PEML's own: none of them is a base model."""
    kind = next((kind for file, kind in _WORK.items() if (folder / file).is_file()), None)
    if kind is None or (folder / _CONFIG).is_file():
        return
    merged = folder / ("backbone" if kind == _SAVED else "model/backbone")
    also = f"; its merged weights, without prefix and heads, are in {merged}"
    raise ModelError(
        f"{name!r} is {kind}, not a base model",
        allowed="a model that save_pretrained wrote, or a name on the hub",
        action="give the base model that model.name in its config.yaml or base_model in its "
        "peml.json names, and the run as init_from to train its weights further"
        + (also if merged.is_dir() else ""),
    )


def _refuse_code(name: str, files: dict[str, dict[str, Any]]) -> None:
    asking = [file for file, content in files.items() if content.get("auto_map")]
    if not asking:
        return
    kind = files[_CONFIG].get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES
    alternative = (
        f"; Transformers has code for models of type {kind!r}: remove auto_map to use that"
        if known
        else ""
    )
    raise ModelError(
        f"{' and '.join(asking)} of model {name!r} ask for Python code that comes with the model "
        "(auto_map)",
        allowed="models that Transformers knows, or your permission to run the code",
        action=f"read that code, then {GRANT}{alternative}",
    )


def _named_files(
    location: str, config: dict[str, Any], tokenizer: dict[str, Any]
) -> Iterator[tuple[str, str, Any]]:
    """File names in JSON files that Transformers opens: (JSON file, field, file name)."""
    index = read_source(location, _INDEX, None).get("weight_map")
    for value in index.values() if isinstance(index, dict) else ():
        yield _INDEX, "weight_map", value
    for file, content, field in (
        (_CONFIG, config, "configuration_files"),
        (_TOKENIZER_CONFIG, tokenizer, "fast_tokenizer_files"),
    ):
        value = content.get(field)
        for each in value if isinstance(value, list) else [value] if value else ():
            yield file, field, each


def weights_checksum(location: str, revision: str | None) -> str:
    """A checksum of all weights of a local folder or a hub repository's snapshot.

    A folder's files are read once per process. Files in the hub's cache have their checksum as
    their name, which is used without reading them.
    """
    total = hashlib.sha256()
    for path in _weight_files(location, revision):
        blob = path.resolve()
        is_named = not Path(location).is_dir() and _IS_CHECKSUM.fullmatch(blob.name)
        content = blob.name if is_named else checksum(blob)
        total.update(f"{path.name} {content}\n".encode())
    return total.hexdigest()


def checksum(path: Path) -> str:
    """A file's SHA-256; an unchanged file is read once per process."""
    state = path.stat()
    return _checksum(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: Path, *_: int) -> str:
    return sha256(path)


def _weight_files(location: str, revision: str | None) -> Iterable[Path]:
    """The files that Transformers reads: a single one, or those listed in an index."""
    single = find_file(location, "model.safetensors", revision)
    if single is not None:
        return [single]
    listed = read_source(location, _INDEX, revision).get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, dict) else []
    paths = (find_file(location, str(name), revision) for name in names)
    return [path for path in paths if path is not None]
