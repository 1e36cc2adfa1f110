"""Attention masks for keys that have a prefix in front.

columns:   prefix   tokens
         | 0 0 0 | 0 - - - |       additive: the prefix is padded with 0,
         | 0 0 0 | 0 0 - - |       boolean: with True,
         | 0 0 0 | 0 0 0 - |       so every query sees all of it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def pad_mask(mask: Tensor, length: int) -> Tensor:
    """Adds ``length`` visible columns in front of a mask or a position bias.

    `mask` is (..., query_length, key_length), boolean (True is visible) or additive.
    """
    return functional.pad(mask, (length, 0), value=mask.dtype == torch.bool)


def causal_mask(
    queries: int, length: int, device: torch.device, window: int | None = None
) -> Tensor:
    """Boolean mask, (1, 1, queries, length + queries): the prefix and a causal triangle.

    ``window`` tokens are seen by a query, itself included; None: all. The prefix stays visible.
    """
    mask = torch.ones(queries, queries, dtype=torch.bool, device=device).tril_()
    if window is not None:
        mask.triu_(1 - window)
    return pad_mask(mask, length)[None, None]


class MaskMemo:
    """Caches the last mask, since all layers of a forward pass get the same mask object.

    Not cached: masks that need a gradient, which would keep a step's graph alive, and masks padded
    in inference mode, which autograd can't save later.
    """

    def __init__(self) -> None:
        self._padded: tuple[Tensor, int, int, Tensor] | None = None
        self._causal: tuple[tuple[int, int, torch.device, torch.dtype], Tensor] | None = None

    def padded(self, mask: Tensor, length: int) -> Tensor:
        """``pad_mask``, cached for this tensor object until it is written to."""
        if mask.requires_grad or mask.is_inference():
            return pad_mask(mask, length)
        # One read of the attribute: another thread may replace the tuple, never change it.
        last = self._padded
        if last is not None:
            seen, version, seen_length, padded = last
            if seen is mask and version == mask._version and seen_length == length:
                return padded
        padded = pad_mask(mask, length)
        if not padded.is_inference():
            self._padded = (mask, mask._version, length, padded)
        return padded

    def causal(self, queries: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """``causal_mask`` as an additive mask, cached for these sizes.

        sdpa would convert a boolean mask in every layer.
        """
        key = (queries, length, device, dtype)
        last = self._causal
        if last is not None and last[0] == key:
            return last[1]
        with torch.inference_mode(False):
            hidden = ~causal_mask(queries, length, device)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            mask.masked_fill_(hidden, -torch.inf)  # every query sees the prefix
        self._causal = (key, mask)
        return mask
