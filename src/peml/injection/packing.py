"""Several rows in one sequence, so that no layer but attention computes padding.

::

    rows    a a a -      packed    a a a b c c      positions    0 1 2 0 0 1
            b - - -
            c c - -

A row sees itself only. This is a block-diagonal mask; but most products under such a mask would be
thrown away. So attention gets the rows side by side again, and their output is packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peml.errors import InjectionError
from peml.injection.attention import PACKED, register_wrapper
from peml.injection.difference import unexplained
from peml.injection.probe import implementation_of, in_eval_mode, switch_implementation, unwrap

_SHORT = 3


@dataclass(frozen=True)
class PackedRows:
    """The places of padded rows' tokens in one packed sequence.

    Attributes:
        places: Place of each token in the flattened rows, ascending, (tokens,).
        rows: Number of rows.
        length: Their length with padding.
    """

    places: Tensor
    rows: int
    length: int

    @classmethod
    def of(cls, mask: Tensor) -> PackedRows:
        """The tokens where ``mask``, (rows, length), is not 0."""
        return cls(mask.flatten().nonzero()[:, 0], *mask.shape)

    def pack(self, padded: Tensor) -> Tensor:
        """(rows, length, ...) -> (1, tokens, ...)."""
        return padded.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """(1, tokens, ...) -> (rows, length, ...), with zeros at padding."""
        shape = packed.shape[2:]
        padded = packed.new_zeros(self.rows * self.length, *shape)
        return padded.index_copy_(0, self.places, packed[0]).view(self.rows, self.length, *shape)

    def find(self, rows: Tensor, places: Tensor) -> Tensor:
        """Index in the packed sequence of the token at each row and place."""
        return torch.searchsorted(self.places, rows * self.length + places)

    def inputs(self, padded: Mapping[str, Tensor]) -> dict[str, Any]:
        """A model's inputs, packed from those of padded rows with their mask (``padded``)."""
        inputs: dict[str, Any] = {
            name: self.pack(value) for name, value in padded.items() if name != "attention_mask"
        }
        # with four dimensions, so that the model passes it on unchanged
        inputs["attention_mask"] = padded["attention_mask"].bool()[:, None, None, :]
        return {**inputs, "position_ids": (self.places % self.length)[None], PACKED: self}


@torch.no_grad()
def enable_packing(model: nn.Module, length: int) -> None:
    """Lets a model take packed rows, after comparing packed and padded rows on a test input.

    The model has no attached methods yet. `length` is the longest row: the test has a row of this
    length, so that it also covers layers which see only near tokens.

    Raises:
        InjectionError: The model can't take packed rows.
    """
    try:
        inner = unwrap(model)
        base = implementation_of(inner)
        switch_implementation(inner, register_wrapper(base))
        problem = _difference(inner, length)
    except (InjectionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        problem = str(error.problem if isinstance(error, InjectionError) else error)
    if problem:
        raise InjectionError(
            f"{type(model).__name__} can't take several rows in one sequence: {problem}",
            allowed="models of attention layers that take position_ids, with rotary or learned "
            "absolute positions",
            action="leave out batches.packing",
        )


def _difference(model: PreTrainedModel, length: int) -> str:
    """The difference between padded and packed rows; empty if there is none."""
    body = model.base_model
    ids = torch.randint(
        model.config.get_text_config().vocab_size,
        (2, length),
        generator=torch.Generator().manual_seed(0),
    )
    mask = torch.ones_like(ids)
    mask[1, min(_SHORT, length - 1) :] = 0
    padded = {"input_ids": ids.to(body.device), "attention_mask": mask.to(body.device)}
    rows = PackedRows.of(padded["attention_mask"])
    with in_eval_mode(model):
        whole = rows.pack(body(**padded).last_hidden_state)
        packed = body(**rows.inputs(padded)).last_hidden_state
    if not whole.isfinite().all():
        return ""  # such a model is refused where its numbers are used
    difference = unexplained(packed, whole)
    return (
        f"in a test, hidden states differ by {difference:.2g} of the largest" if difference else ""
    )
