"""A saved model's folder, its files verified and its description read, before anything is loaded.

``peml.json`` and the manifest come with the folder, so neither may grant anything: what a model is
called, where it is, and whether its code may run is the caller's to say. The digest ties the
description to the other files. It finds what was altered together with its checksum; it is no
signature, and anyone who means to can compute it anew.
"""

from __future__ import annotations

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
from peml.files import (
    checksums,
    copy_listed,
    read_json,
    read_tensors,
    verify_manifest,
    write_json,
)
from peml.methods import Method, build_method, parse_method
from peml.models import ModelSettings
from peml.problems import describe_problems, list_problems
from peml.removed import without_removed
from peml.settings import Settings
from peml.tasks import Task

ACTION = "restore the file, or export the model again from its run"
DESCRIPTION = "peml.json"
_FORMAT = 2


class Description(Settings):
    """What ``peml.json`` says of a saved model."""

    format: Literal[2] = Field(2, description="Version of the folder's format.")
    base_model: str = Field(description="The base model, as the run's config named it.")
    method: dict[str, Any] = Field(description="The method's section of the config.")
    model: ModelSettings = Field(description="Family, types and lengths.")
    prefix_active: tuple[bool, ...] | None = Field(
        description="Which layers get the prefix; null without one."
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
            raise ValueError(f"{', '.join(granted)}: that is for the caller to say, not the folder")
        return model


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A saved model's folder.

    Attributes:
        folder: Where it is.
        description: What it says.
        files: The checksum of every file, by its path there.
    """

    folder: Path
    description: Description
    files: Mapping[str, str]

    def settings(self, *, trust_remote_code: bool) -> ModelSettings:
        """How its backbone is loaded: from its own folder alone.

        Args:
            trust_remote_code: Whether the caller allows code that comes with it to run.
        """
        own = {"name": str(self.folder / "backbone"), "trust_remote_code": trust_remote_code}
        return self.description.model.model_copy(update=own)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of one of its files.

        Raises:
            CheckpointError: There is no such file, or a number in it is not finite.
        """
        path = self.folder / name
        if name not in self.files:
            raise CheckpointError(f"{path} is missing, or not in the manifest", action=ACTION)
        tensors = read_tensors(path)
        for key, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"{path}: {key!r} holds numbers that are not finite", action=ACTION
                )
        return tensors

    def shaped(self, name: str, wanted: Mapping[str, tuple[int | None, ...]]) -> dict[str, Tensor]:
        """Tensors of one of its files whose shapes are known.

        Args:
            name: The file.
            wanted: Shape of each tensor; None for a size that may be any but 0.

        Raises:
            CheckpointError: As `tensors`, or there are others, or others in shape or kind.
        """
        tensors, path = self.tensors(name), self.folder / name
        if tensors.keys() != wanted.keys():
            raise CheckpointError(
                f"{path} holds the tensors {', '.join(sorted(tensors)) or 'none'}",
                allowed=", ".join(sorted(wanted)),
                action=ACTION,
            )
        for key, tensor in tensors.items():
            if not _fits(tensor, wanted[key]):
                shape = ", ".join("n" if size is None else str(size) for size in wanted[key])
                raise CheckpointError(
                    f"{path}: {key!r} is of shape {tuple(tensor.shape)} and type {tensor.dtype}",
                    allowed=f"floating-point numbers of the shape ({shape})",
                    action=ACTION,
                )
        return tensors

    @property
    def method_name(self) -> str:
        """Name of the method that trained it."""
        return str(self.description.method.get("name"))

    def method(self) -> Method:
        """The method that trained it.

        Raises:
            CheckpointError: There is none of that name here, or its settings are wrong.
        """
        try:
            return build_method(parse_method(without_removed(self.description.method)))
        except ConfigError as error:
            where = f"{self.folder / DESCRIPTION}: method: {error.problem}"
            raise CheckpointError(where, allowed=error.allowed, action=ACTION) from error

    def has(self, part: str) -> bool:
        """Whether a folder of its name is part of it."""
        return any(name.startswith(f"{part}/") for name in self.files)

    def copy(self, part: str, target: Path) -> None:
        """Copies the files of one of its folders, never through a link."""
        copy_listed(self.folder, self.files, part, target)


def _fits(tensor: Tensor, wanted: tuple[int | None, ...]) -> bool:
    return (
        tensor.is_floating_point()
        and len(tensor.shape) == len(wanted)
        and all(
            size == asked or (asked is None and size > 0)
            for size, asked in zip(tensor.shape, wanted, strict=True)
        )
    )


def describe(folder: Path, description: Description) -> SavedModel:
    """Writes ``peml.json`` beside the other files of a model, the digest over all of them in it.

    Args:
        folder: The model's, all else in it.
        description: What it is; the digest is filled in.
    """
    files = checksums(folder)
    said = description.model_dump(mode="json") | {"model": description.model.stored()}
    said["digest"] = digest(said, files)
    write_json(folder / DESCRIPTION, said)
    return SavedModel(folder, description, files)


def digest(description: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Ties a description to the files beside it.

    Args:
        description: Content of ``peml.json``; a digest in it is left out.
        files: Checksums by path; that of ``peml.json`` is left out.
    """
    said = {key: value for key, value in description.items() if key != "digest"}
    others = {name: value for name, value in files.items() if name != DESCRIPTION}
    text = json.dumps([said, others], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def open_model(folder: Path) -> SavedModel:
    """Verifies a saved model's files and reads what it is; nothing is loaded yet.

    Args:
        folder: What `save_model` wrote.

    Raises:
        CheckpointError: A file is missing, altered or not listed, or ``peml.json`` says what it
            can't say; file and field are named.
    """
    files = verify_manifest(folder, ACTION, (DESCRIPTION, "backbone/config.json"))
    path = folder / DESCRIPTION
    said = read_json(path)
    if not isinstance(said, dict):
        raise CheckpointError(f"{path} holds no description of a model", action=ACTION)
    if said.get("format") != _FORMAT:
        raise CheckpointError(
            f"{folder} is of format {said.get('format')}",
            allowed=f"format {_FORMAT}",
            action="load it with the version of peml that wrote it",
        )
    try:
        description = Description.model_validate(said)
    except ValidationError as error:
        problems = describe_problems(error, Description)
        raise CheckpointError(list_problems(str(path), problems), action=ACTION) from None
    if description.digest != digest(said, files):
        raise CheckpointError(
            f"{path} does not belong to the files beside it: its digest is not theirs, so one of "
            "them was altered together with its checksum",
            action=ACTION,
        )
    return SavedModel(folder, description, files)
