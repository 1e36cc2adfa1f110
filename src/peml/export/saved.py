"""A saved model's folder: verifies its files and reads its description before anything is loaded.

``peml.json`` and the manifest come with the folder, so they are not trusted with permissions: the
caller alone sets the model's name and location, and whether its code may run. The digest ties the
description to the other files, so that a file altered together with its checksum is noticed. It is
not a signature: anyone can compute it again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from peml.errors import CheckpointError, ConfigError
from peml.files import checksums, copy_listed, read_json, read_tensors, verify_manifest, write_json
from peml.methods.base import Method
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings
from peml.problems import describe_problems, list_problems
from peml.removed import without_removed
from peml.settings import Settings
from peml.tasks import Task

ACTION = "restore the file, or export the model again from its run"
DESCRIPTION = "peml.json"
_FORMAT = 2


class Description(Settings):
    """The content of a saved model's ``peml.json``."""

    format: Literal[2] = Field(2, description="Version of the folder's format.")
    base_model: str = Field(description="The base model, as the run's config named it.")
    method: dict[str, Any] = Field(description="The method's section of the config.")
    model: ModelSettings = Field(description="Family, types and lengths.")
    prefix_active: tuple[bool, ...] | None = Field(
        description="Which layers get the prefix; null without one."
    )
    contexts_active: tuple[bool, ...] | None = Field(
        None, description="Which layers see the contexts; null: all, or there are none."
    )
    evaluation: dict[str, Any] = Field(description="How answers are scored and generated.")
    tasks: tuple[Task, ...] = Field(
        description="The tasks, in the order of their ids.", min_length=1
    )
    digest: str = Field("", description="Checksum of the rest of this file and of all other files.")

    @field_validator("model", mode="before")
    @classmethod
    def _is_no_grant(cls, model: Any) -> Any:
        granted = sorted(ModelSettings.CALLERS & model.keys()) if isinstance(model, dict) else []
        if granted:
            raise ValueError(f"{', '.join(granted)}: only the caller may set this, not the folder")
        return model


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A saved model's folder: its path, description, and the checksum of every file by path."""

    folder: Path
    description: Description
    files: Mapping[str, str]

    def settings(self, *, trust_remote_code: bool) -> ModelSettings:
        """The settings that load the backbone from this folder."""
        update = {"name": str(self.folder / "backbone"), "trust_remote_code": trust_remote_code}
        return self.description.model.model_copy(update=update)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file in the folder; one that isn't there or isn't finite is refused."""
        path = self.folder / name
        if name not in self.files:
            raise CheckpointError(f"{path} is missing, or not in the manifest", action=ACTION)
        tensors = read_tensors(path)
        for key, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: {key!r} has NaN or infinite values", action=ACTION)
        return tensors

    def shaped(self, name: str, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, Tensor]:
        """The tensors of a file whose names and shapes are known; None is any size but 0."""
        tensors, path = self.tensors(name), self.folder / name
        if tensors.keys() != shapes.keys():
            raise CheckpointError(
                f"{path} has the tensors {', '.join(sorted(tensors)) or 'none'}",
                allowed=", ".join(sorted(shapes)),
                action=ACTION,
            )
        for key, tensor in tensors.items():
            if not _fits(tensor, shapes[key]):
                shape = ", ".join("n" if size is None else str(size) for size in shapes[key])
                raise CheckpointError(
                    f"{path}: {key!r} has shape {tuple(tensor.shape)} and type {tensor.dtype}",
                    allowed=f"floating-point numbers of the shape ({shape})",
                    action=ACTION,
                )
        return tensors

    @property
    def method_name(self) -> str:
        """Name of the method that trained it."""
        return str(self.description.method.get("name"))

    def method(self) -> Method:
        """The method that trained it; one that isn't installed is a `CheckpointError`."""
        try:
            return build_method(parse_method(without_removed(self.description.method)))
        except ConfigError as error:
            where = f"{self.folder / DESCRIPTION}: method: {error.problem}"
            raise CheckpointError(where, allowed=error.allowed, action=ACTION) from error

    def has(self, part: str) -> bool:
        """Whether the model has a subfolder of this name."""
        return any(name.startswith(f"{part}/") for name in self.files)

    def copy(self, part: str, target: Path) -> None:
        """Copies the files of a subfolder, without following links."""
        copy_listed(self.folder, self.files, part, target)


def _fits(tensor: Tensor, shape: tuple[int | None, ...]) -> bool:
    if not tensor.is_floating_point() or len(tensor.shape) != len(shape):
        return False
    pairs = zip(tensor.shape, shape, strict=True)
    return all(size == wanted or (wanted is None and size > 0) for size, wanted in pairs)


def describe(folder: Path, description: Description) -> SavedModel:
    """Writes ``peml.json`` with its digest into a folder that has all other files."""
    files = checksums(folder)
    content = description.model_dump(mode="json") | {"model": description.model.stored()}
    content["digest"] = digest(content, files)
    write_json(folder / DESCRIPTION, content)
    return SavedModel(folder, description, files)


def digest(description: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The checksum that ties the content of ``peml.json`` to the checksums of all other files."""
    fields = {key: value for key, value in description.items() if key != "digest"}
    others = {name: value for name, value in files.items() if name != DESCRIPTION}
    text = json.dumps([fields, others], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def open_model(folder: Path) -> SavedModel:
    """Verifies the files that `save_model` wrote, and reads the description; loads no weights.

    A file that is missing, altered or not listed, or a wrong field, is a `CheckpointError`.
    """
    files = verify_manifest(folder, ACTION, (DESCRIPTION, "backbone/config.json"))
    path = folder / DESCRIPTION
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not describe a model", action=ACTION)
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder} is in format {content.get('format')}",
            allowed=f"format {_FORMAT}",
            action="load it with the version of peml that wrote it",
        )
    try:
        description = Description.model_validate(content)
    except ValidationError as error:
        problems = describe_problems(error, Description)
        raise CheckpointError(list_problems(str(path), problems), action=ACTION) from None
    if description.digest != digest(content, files):
        raise CheckpointError(
            f"{path} does not belong to the files beside it: its digest is wrong, so a file was "
            "altered together with its checksum",
            action=ACTION,
        )
    return SavedModel(folder, description, files)
