"""Checks a model's files before they are used, and computes the checksum of its weights.

Transformers applies an adapter that it finds beside the weights, follows file names in JSON files
to any folder, and reports late that a model needs its own code. All of this is refused here before
any file but JSON is read.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import cached_file

from peml.errors import ModelError
from peml.files import sha256

GRANT = "set model.trust_remote_code: true in your own config, or give --trust-remote-code"
"""How a user allows a model's own code to run."""

HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""The base of what the HTTP client of the hub's library raises, such as when a download breaks off.
Which client that is depends on the library's version."""

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


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model; `location` is a local folder, or the id of a hub repository."""

    location: str
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether they are in a local folder."""
        return Path(self.location).is_dir()

    def find(self, file: str) -> Path | None:
        """The path of a file; None if it is missing or can't be fetched."""
        if self.is_local:
            path = Path(self.location, file)
            return path if path.is_file() else None
        try:
            cached = cached_file(
                self.location,
                file,
                revision=self.revision,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except (HTTP_ERROR, OSError, ValueError):  # loading the model will report it
            return None
        return None if cached is None else Path(cached)

    def read(self, file: str) -> dict[str, Any]:
        """The content of a JSON file; empty if it is missing or unreadable."""
        try:
            content = json.loads(self._read_text(file))
        except (ValueError, RecursionError):  # loading the model will report it
            return {}
        return content if isinstance(content, dict) else {}

    def _read_text(self, file: str) -> str:
        path = self.find(file)
        try:
            return "" if path is None else path.read_text(encoding="utf-8")
        except (OSError, ValueError):  # loading the model will report it
            return ""

    def vocabulary(self) -> str:
        """The text of the files that define a tokenizer's tokens; empty without such a file."""
        tokens = self._read_text(_TOKENIZER)
        if not tokens:
            return ""
        added = self.read(_TOKENIZER_CONFIG).get("added_tokens_decoder")
        return f"{tokens}{json.dumps(added)}{self._read_text('added_tokens.json')}"

    def listed_weights(self) -> Collection[Any]:
        """The names of weight files in the index; empty without one."""
        listed = self.read(_INDEX).get("weight_map")
        return listed.values() if isinstance(listed, dict) else ()

    def weights_checksum(self) -> str:
        """A checksum of all weights of a local folder or a hub repository's snapshot.

        A folder's files are read once per process. Files in the hub's cache have their checksum as
        their name, which is used without reading them.
        """
        total = hashlib.sha256()
        for path in self.weights():
            blob = path.resolve()
            is_named = not self.is_local and _IS_CHECKSUM.fullmatch(blob.name)
            content = blob.name if is_named else checksum(blob)
            total.update(f"{path.name} {content}\n".encode())
        return total.hexdigest()

    def weights(self) -> list[Path]:
        """The files that Transformers reads: a single one, or those listed in the index."""
        single = self.find("model.safetensors")
        if single is not None:
            return [single]
        paths = (self.find(str(name)) for name in sorted(set(self.listed_weights())))
        return [path for path in paths if path is not None]


def check_source(name: str, files: ModelFiles, *, trusted: bool) -> None:
    """Raises a ModelError for a model with an adapter, code, or paths to files in other folders.

    ``name`` is what the user wrote. ``trusted``: the caller allows its code to run.
    """
    _refuse_adapter(name, files)
    _refuse_work(name, Path(files.location))
    if not files.is_local:
        return  # for hub repositories, Transformers itself asks before it runs code
    config, tokenizer = files.read(_CONFIG), files.read(_TOKENIZER_CONFIG)
    if not trusted:
        _refuse_code(name, {_CONFIG: config, _TOKENIZER_CONFIG: tokenizer})
    for file, field, value in _named_files(files, config, tokenizer):
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
    names = {path.name for path in folder.glob("*.safetensors")}
    names |= set(map(str, ModelFiles(str(folder)).listed_weights()))
    return [name for name in sorted(names) if not _is_whole(folder / name)]


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _refuse_adapter(name: str, files: ModelFiles) -> None:
    if files.find(_ADAPTER) is None:
        return
    adapter = files.read(_ADAPTER)
    kind, base = adapter.get("peft_type"), adapter.get("base_model_name_or_path")
    kind = f"a {kind} adapter" if isinstance(kind, str) else "an adapter"
    if files.read(_CONFIG):
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
    files: ModelFiles, config: dict[str, Any], tokenizer: dict[str, Any]
) -> Iterator[tuple[str, str, Any]]:
    """File names in JSON files that Transformers opens: (JSON file, field, file name)."""
    for value in files.listed_weights():
        yield _INDEX, "weight_map", value
    for file, content, field in (
        (_CONFIG, config, "configuration_files"),
        (_TOKENIZER_CONFIG, tokenizer, "fast_tokenizer_files"),
    ):
        value = content.get(field)
        for each in value if isinstance(value, list) else [value] if value else ():
            yield file, field, each


def checksum(path: Path) -> str:
    """A file's SHA-256; an unchanged file is read once per process."""
    state = path.stat()
    return _checksum(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: Path, *_: int) -> str:
    return sha256(path)
