"""Stands for a GPU: the `meta` device, watched for what a GPU would wait for or refuse."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers.masking_utils
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class OnOneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, and copies that block if nothing may wait."""

    def __init__(self, may_wait: bool = False) -> None:
        super().__init__()
        self._may_wait = may_wait

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        copies = func is torch.ops.aten._to_copy.default and kwargs.get("device") == META
        if copies and args[0].device != META and not self._may_wait:
            assert kwargs.get("non_blocking"), "a copy to the device waits for it"
        if func is not torch.ops.aten.copy_.default:
            leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            devices = {leaf.device.type for leaf in leaves if leaf.dim()}  # numbers may differ
            assert len(devices) <= 1, f"{func} of tensors on {devices}"
        return func(*args, **kwargs)


def let_meta_stand_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps Transformers and autocast from reading or refusing `meta`."""
    # Autocast doesn't know `meta`.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)
    # Transformers reads whether a batch has padding; that is not PEML's to defer.
    for name in ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa"):
        monkeypatch.setattr(transformers.masking_utils, name, lambda *args, **kwargs: False)
