"""Keys and values that the model itself gives to a text, to start a prefix from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from peml.errors import InjectionError
from peml.injection.inject import PrefixInjection


def read_rows(injection: PrefixInjection, run: Callable[[], None]) -> Tensor:
    """Keys and values of one text in every self-attention layer.

    As PEFT's ``initialize_kv_prefix_from_text`` reads them from the cache; here they are read where
    attention gets them (after rotation), which encoders have as well.

    Args:
        injection: The attached model's injection; the prefix is off meanwhile.
        run: Calls the model on one row without padding.

    Returns:
        (layers, 2, kv_heads, tokens, head_dim), in float32 on the CPU.

    Raises:
        InjectionError: ``run()`` did not reach every layer, or layers saw different lengths.
    """
    seen: dict[int, Tensor] = {}

    def observe(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        seen[layer] = torch.stack([key[0], value[0]]).detach().float().cpu()

    injection.observer = observe
    try:
        with injection.disabled(), torch.no_grad():
            run()
    finally:
        injection.observer = None
    lengths = sorted({rows.shape[2] for rows in seen.values()})
    if len(seen) < len(injection.sites) or len(lengths) > 1:
        raise InjectionError(
            f"the text reached {len(seen)} of {len(injection.sites)} layers, with {lengths} tokens",
            allowed="the same text in every self-attention layer",
            action="pass a function that calls the whole model on one text",
        )
    return torch.stack([seen[layer] for layer in range(len(injection.sites))])
