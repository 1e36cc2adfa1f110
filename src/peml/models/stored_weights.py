"""Refuses weight files that say two things, or hold packed numbers that nothing unpacks.

Transformers reads such files without a word: the older of two copies, or integers as if they were
the weights.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from peml.errors import ModelError
from peml.models.source import ModelFiles

_SINGLE = "model.safetensors"
_WHOLE = ("I", "U")  # with which the names of safetensors' integer types begin


def check_stored(model: nn.Module, files: ModelFiles, name: str, *, packed: bool) -> None:
    """Refuses files whose weights are not those of the model.

    Called once after loading; `packed` says that the model unpacks quantised weights by itself.

    Raises:
        ModelError: A weight is there twice with different values, or as integers without scales.
    """
    read = files.weights()
    _refuse_twice(read, getattr(model, "base_model_prefix", ""), name)
    if files.is_local:
        _refuse_other_files(Path(files.location), read, name)
    if not packed:
        _refuse_integers(model, read, name)


def _refuse_twice(read: list[Path], prefix: str, name: str) -> None:
    """Refuses a weight that two files have, or one file with and without the model's prefix."""
    met: dict[str, tuple[Path, str]] = {}
    for path in read:
        for key in _names(path):
            plain = key.removeprefix(f"{prefix}.")
            if plain not in met:
                met[plain] = (path, key)
            elif not torch.equal(_tensor(path, key), _tensor(*met[plain])):
                other, spelled = met[plain]
                raise ModelError(
                    f"the files of model {name!r} hold a weight twice, with different values: "
                    f"{spelled} in {other.name} and {key} in {path.name}",
                    allowed="each weight once",
                    action="get the model from its source again, or save it as it is meant with "
                    "save_pretrained in an empty folder",
                )


def _refuse_other_files(folder: Path, read: list[Path], name: str) -> None:
    """Refuses weights in files that aren't read, where those that are read say otherwise."""
    single = folder / _SINGLE
    listed = sorted({folder / str(each) for each in ModelFiles(str(folder)).listed_weights()})
    if single not in read or not all(path.is_file() for path in listed):
        return  # other shards, or the rest of an older index
    if found := next(_different(read, listed), None):
        key, path = found
        raise ModelError(
            f"the folder of model {name!r} has two sets of weights that differ: {read[0].name}, "
            f"which is read, and {path.name} ({key} is another one)",
            allowed="one set of weights, or several that are equal",
            action=f"remove {_SINGLE} if the others are meant (Transformers leaves an older one "
            "there when it saves several files), or the others and their index if not",
        )


def _different(read: list[Path], others: list[Path]) -> Iterator[tuple[str, Path]]:
    """Weights in other safetensors files that those that are read lack, or have otherwise."""
    own = {key: path for path in read for key in _names(path)}
    for path in others:
        if path in read:
            continue
        for key in _names(path):
            if key not in own or not torch.equal(_tensor(own[key], key), _tensor(path, key)):
                yield key, path


def _refuse_integers(model: nn.Module, read: list[Path], name: str) -> None:
    """Refuses weights that are stored as integers, which only their scales make numbers again."""
    parameters = {path for path, _ in model.named_parameters(remove_duplicate=False)}
    prefix = getattr(model, "base_model_prefix", "")
    for path in read:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - the file is no mapping
                spellings = {key, key.removeprefix(f"{prefix}."), f"{prefix}.{key}"}
                if parameters.isdisjoint(spellings):
                    continue
                kind: str = file.get_slice(key).get_dtype()
                if kind.startswith(_WHOLE):
                    raise ModelError(
                        f"the weight {key} of model {name!r} is stored as integers ({kind}), and "
                        "its config.json has no quantization_config that says how to unpack them",
                        allowed="weights as floating-point numbers, or a config.json that says how "
                        "they were quantised",
                        action="get config.json from the model's source again, or use its original "
                        "weights",
                    )


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _tensor(path: Path, key: str) -> Tensor:
    with safe_open(path, "pt") as file:
        held: Tensor = file.get_tensor(key)
        return held
