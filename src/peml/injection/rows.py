"""Reads the keys and values that a model computes for a text."""

from collections.abc import Callable

import torch
from torch import Tensor

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection


def read_rows(
    injection: PrefixInjection, run: Callable[[], None], *, gradients: bool = False
) -> Tensor:
    """Keys and values of one text in every self-attention layer.

    PEFT's ``initialize_kv_prefix_from_text`` reads them from the cache. Here they are read at the
    attention calls (after rotation), so that it works with encoders too.

    `run` calls the model on one row without padding, without prefix and contexts. With `gradients`,
    keys and values keep their graph.

    Returns:
        (layers, 2, kv_heads, tokens, head_dim), as the model computes them.

    Raises:
        InjectionError: ``run()`` did not reach every layer, or lengths differ between layers.
    """
    seen: dict[int, Tensor] = {}

    def observe(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        seen[layer] = torch.stack([key[0], value[0]])

    with injection.observed(observe, gradients=gradients):
        run()
    lengths = sorted({rows.shape[2] for rows in seen.values()})
    if len(seen) < len(injection.sites) or len(lengths) > 1:
        raise InjectionError(
            f"the text reached {len(seen)} of {len(injection.sites)} layers, with {lengths} tokens",
            allowed="the same text in every self-attention layer",
            action="pass a function that calls the whole model on one text",
        )
    return torch.stack([seen[layer] for layer in range(len(injection.sites))])
