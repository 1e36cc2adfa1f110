"""Where a prefix is put: in front of attention, or of the input embeddings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from peml.models import TaskModel
from peml.prefix import Prefix, PrefixShape


class PrefixPlace(Protocol):
    """What takes a prefix: an injection, or an `InputPlace`."""

    shape: PrefixShape

    @property
    def prefix(self) -> Prefix | None:
        """The prefix in use."""

    def set(self, prefix: Prefix | None) -> None:
        """Uses this prefix from the next forward pass on."""

    def disabled(self) -> AbstractContextManager[None]:
        """The model without its prefix, for the length of the block."""


class InputPlace:
    """Takes a prefix as vectors in front of the input embeddings.

    Args:
        model: Its prompt is what is set.
    """

    def __init__(self, model: TaskModel) -> None:
        channels = model.backbone.get_input_embeddings().weight.shape[1]
        self.shape = PrefixShape.at_input(channels)
        self._prompt = model.prompt
        self._prefix: Prefix | None = None

    @property
    def prefix(self) -> Prefix | None:
        """The prefix in use; None where none is set or inside `disabled`."""
        return None if self._prompt.vectors is None else self._prefix

    def set(self, prefix: Prefix | None) -> None:
        """Uses this prefix, (1, 1, 1, prefix_length, channels), from the next forward pass on."""
        self._prefix = prefix
        self._prompt.set(None if prefix is None else prefix.tensor[0, 0, 0])

    def disabled(self) -> AbstractContextManager[None]:
        """The model without its prefix."""
        return self._prompt.disabled()
