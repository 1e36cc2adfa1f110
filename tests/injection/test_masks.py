"""Masks over a prefix, drawn out, and what is remembered of them."""

from __future__ import annotations

import weakref

import torch

from peml.injection.masks import MaskMemo, causal_mask, pad_mask


def test_causal_mask_drawn_out() -> None:
    mask = causal_mask(3, 2, torch.device("cpu"))
    assert mask.shape == (1, 1, 3, 5)
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_padding_is_visible_in_both_kinds_of_mask() -> None:
    boolean = pad_mask(torch.zeros(1, 1, 2, 3, dtype=torch.bool), 2)
    assert boolean[0, 0].int().tolist() == [[1, 1, 0, 0, 0]] * 2
    additive = pad_mask(torch.full((1, 4, 2, 3), -5.0), 2)
    assert additive[0, 3].tolist() == [[0.0, 0.0, -5.0, -5.0, -5.0]] * 2


def test_one_padding_serves_all_layers() -> None:
    memo = MaskMemo()
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert memo.padded(mask, 3) is memo.padded(mask, 3)
    assert memo.padded(mask, 4).shape[-1] == 6
    assert memo.padded(mask.clone(), 4) is not memo.padded(mask, 4)


def test_one_causal_mask_serves_all_layers() -> None:
    memo, device = MaskMemo(), torch.device("cpu")
    with torch.inference_mode():  # as a generating model calls it
        mask = memo.causal(3, 2, device, torch.bfloat16)
    assert memo.causal(3, 2, device, torch.bfloat16) is mask
    assert not mask.is_inference()
    assert mask.dtype == torch.bfloat16
    assert (mask.isinf() == ~causal_mask(3, 2, device)).all()
    assert memo.causal(3, 2, device, torch.float32).dtype == torch.float32
    assert memo.causal(5, 2, device, torch.float32).shape == (1, 1, 5, 7)


def test_no_graph_is_kept_alive() -> None:
    memo = MaskMemo()
    bias = torch.ones(1, 4, 2, 2, requires_grad=True) * 1.0
    alive = weakref.ref(bias)
    memo.padded(bias, 3)
    del bias
    assert alive() is None
