"""Runs a model on tensors without values, and counts bytes and FLOPs."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers.utils import logging as hf_logging

from peml.data import TaskBatch

_ATEN = torch.ops.aten


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    shapes = (gradient.shape, query.shape, key.shape, value.shape)
    return int(sdpa_backward_flop_count(*shapes))


# torch counts the kernels of GPUs only.
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Tracker(TorchDispatchMode):
    """Counts the bytes of tensors and the FLOPs of operations.

    Code that reads a tensor's values gets invented ones, so that it can continue: a condition is
    true, a number is 1, an index is 0, a mask selects everything.

    Attributes:
        vocabulary: Size of the last dimension of logits; None: none are counted as such.
        live: Bytes of all tensors that exist.
        peak: Maximum of `live` since `restart`.
        peak_logits: Bytes of logits at the peak.
        flops: Operations since `restart`; a multiplication and its addition are two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary: int | None = None
        self.live = self.peak = self.peak_logits = self.flops = 0
        self._logits = 0
        self._sizes: dict[int, tuple[int, bool]] = {}

    def restart(self) -> None:
        """Resets peak and FLOPs."""
        self.peak, self.peak_logits, self.flops = self.live, self._logits, 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs an operation."""
        kwargs = kwargs or {}
        result = _ANSWERS.get(operation, _run)(operation, *args, **kwargs)
        count = _FLOPS.get(operation._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._hold(value)
        return result

    def _hold(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        is_logits = value.dim() > 1 and value.shape[-1] == self.vocabulary
        self._sizes[key] = storage.nbytes(), is_logits
        weakref.finalize(storage, self._release, key)
        self.live += storage.nbytes()
        self._logits += storage.nbytes() * is_logits
        if self.live > self.peak:
            self.peak, self.peak_logits = self.live, self._logits

    def _release(self, key: int) -> None:
        size, is_logits = self._sizes.pop(key)
        self.live -= size
        self._logits -= size * is_logits


@contextmanager
def without_values() -> Iterator[Tracker]:
    """Tensors that are made in the block have no values and use no memory.

    Garbage is collected in it by ``gc.collect(1)`` alone, which doesn't search what is older.
    """
    tracker = Tracker()
    searched = gc.isenabled()
    gc.disable()
    verbosity = hf_logging.get_verbosity()
    with FakeTensorMode(allow_non_fake_inputs=True), tracker:
        convert, nn.Module._apply = nn.Module._apply, _convert  # type: ignore[method-assign]
        hf_logging.set_verbosity_error()  # warnings about values would be of none
        try:
            yield tracker
        finally:
            if searched:
                gc.enable()
            nn.Module._apply = convert  # type: ignore[method-assign]
            hf_logging.set_verbosity(verbosity)


def _convert(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """`Module.to` and the like, since torch's can't replace parameters without values.

    Nothing moves between devices. Parameters that already have the wanted type stay.
    """
    for child in module.children() if recurse else ():
        _convert(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None and (changed := change(parameter)) is not parameter:
            module._parameters[name] = nn.Parameter(changed.detach(), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def emptied_batch(batch: TaskBatch) -> TaskBatch:
    """A batch of the same shape without values; inside `without_values`."""
    return batch.mapped(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs the operation, with values if all its inputs have them."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    if operation in _ANSWERS and not any(isinstance(value, FakeTensor) for value in tensors):
        with _disable_current_modes():
            return operation(*args, **kwargs)
    return operation(*args, **kwargs)


def _is_known(value: Tensor) -> bool:
    """Whether a tensor has values: it is real, or made of plain numbers."""
    return not isinstance(value, FakeTensor) or value.constant is not None


def _number(operation: Any, value: Tensor) -> Any:
    if _is_known(value):
        return _run(operation, value)
    return True if value.dtype == torch.bool else 1.0 if value.is_floating_point() else 0


def _places(operation: Any, value: Tensor) -> Any:
    if not isinstance(value, FakeTensor):
        return _run(operation, value)
    return value.new_empty((value.numel(), value.dim()), dtype=torch.int64)


def _chosen(operation: Any, value: Tensor, indices: list[Tensor | None]) -> Any:
    numbers: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            numbers += _places(_ATEN.nonzero.default, index).unbind(1)
        else:
            numbers.append(index)
    return _run(operation, value, numbers)


def _counts(operation: Any, value: Tensor, weights: None = None, minlength: int = 0) -> Any:
    if not isinstance(value, FakeTensor):
        return _run(operation, value, weights, minlength)
    return value.new_empty(max(minlength, 1))


def _are_equal(operation: Any, *values: Tensor) -> Any:
    return _run(operation, *values) if all(map(_is_known, values)) else True


_ANSWERS: dict[Any, Callable[..., Any]] = {
    _ATEN._local_scalar_dense.default: _number,
    _ATEN.nonzero.default: _places,
    _ATEN.index.Tensor: _chosen,
    _ATEN.equal.default: _are_equal,
    _ATEN.bincount.default: _counts,
}
