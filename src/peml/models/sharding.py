"""``model.sharding: fsdp``: each process holds a part of every frozen weight.

PyTorch's FSDP2 gathers a block's weights before the block runs and frees them after it.
Transformers sets it up, and reads from the files only what a process holds. What methods add is not
sharded::

    process 0    embeddings [0]   block 1 [0]   block 2 [0] ...   prefix, LoRA, heads: whole
    process 1    embeddings [1]   block 1 [1]   block 2 [1] ...   prefix, LoRA, heads: whole

To gather weights is an exchange, so all processes have to make equally many forward passes.
"""

import ctypes
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join, Joinable, JoinHook
from torch.distributed.fsdp import FSDPModule
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from peml.distributed import World
from peml.errors import ModelError

_FREED = "free_full_weight"  # Transformers' word for weights that are sharded again after use
_MIXED = "mixed torch.Tensor and DTensor"
_MMAP_THRESHOLD, _SIZE = -3, 2**17  # of glibc's mallopt; the size is where it begins


def sharded_options(model_class: Any, config: Any, world: World, name: str) -> dict[str, Any]:
    """Options of `from_pretrained`, with which a process reads only its part of the weights.

    Raises:
        ModelError: There is one process, or the model can't be sharded.
    """
    if world.size == 1:
        raise ModelError(
            "model.sharding is fsdp, and there is one process",
            allowed="several processes, which share the weights, or model.sharding: none",
            action="start `peml fit` with `accelerate launch` or `torchrun`, or leave out "
            "model.sharding",
        )
    if "fsdp_plan" not in inspect.signature(DistributedConfig).parameters:
        raise ModelError(
            "model.sharding is fsdp, and the installed Transformers can't shard a model",
            allowed="a version whose DistributedConfig has an fsdp_plan",
            action="upgrade transformers, or leave out model.sharding",
        )
    with torch.device("meta"):
        empty = model_class.from_config(config)
    blocks = {
        re.sub(r"\.\d+(?=\.|$)", ".*", path): _FREED
        for path, module in empty.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
    }
    if not blocks:
        raise ModelError(
            f"model.sharding is fsdp, but {name!r} ({type(empty).__name__}) has no blocks to shard",
            allowed="models whose layers are Transformers' GradientCheckpointingLayer",
            action="leave out model.sharding",
        )
    _return_freed_memory()
    plan = DistributedConfig(fsdp_size=world.size, fsdp_plan=blocks)
    return {"distributed_config": plan}


def _return_freed_memory() -> None:
    """Makes the C library return gathered weights to the system when they are freed.

    glibc does so for blocks that it maps one by one, but with every mapped block that is freed, it
    raises the size from which it maps, up to 32 MiB. Setting the size keeps it fixed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _SIZE)


def free_after_use(model: nn.Module) -> None:
    """Frees all weights of a sharded model after a pass without gradients.

    FSDP keeps the weights that a backward pass needs first, and frees them in it; an output layer
    that shares the embeddings' weights needs that.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]

    def free(*_: Any) -> None:
        if not torch.is_grad_enabled():
            for part in parts:
                part.reshard()

    if parts:
        model.register_forward_hook(free)


def is_sharded(model: object) -> bool:
    """Whether the processes share the model's weights."""
    return isinstance(model, FSDPModule)


@contextmanager
def whole_weights_refused(method: str) -> Iterator[None]:
    """Raises a ModelError instead of the error of a method that needs a whole weight."""
    try:
        yield
    except RuntimeError as error:
        if _MIXED not in str(error):
            raise
        raise ModelError(
            f"model.sharding is fsdp, and the method {method} reads whole weights of the frozen "
            "model, which no process has",
            allowed="methods that use the frozen weights in forward passes only, such as lora, "
            "mtl-lora and peml",
            action="choose another method, or leave out model.sharding",
        ) from error


class SharedPasses(Joinable):
    """Lets processes make different numbers of forward passes through a sharded model.

    A process without passes left takes part in the others' with an idle pass, whose result is not
    used (`torch.distributed.algorithms.join`).

    `idle` is a forward pass over any input.
    """

    def __init__(self, model: Any, idle: Callable[[], None]) -> None:
        super().__init__()
        self._model, self._idle = model, idle
        self._uneven = False
        # In front of FSDP's own hook, which begins to gather.
        model.register_forward_pre_hook(self._announce, prepend=True)

    def _announce(self, *_: Any) -> None:
        if self._uneven:
            Join.notify_join_context(self)

    @contextmanager
    def uneven(self) -> Iterator[None]:
        """Wraps passes whose number may differ between processes."""
        self._uneven = True
        try:
            with warnings.catch_warnings(), Join([self]):  # it changes the filters at its end
                yield
                self._uneven = False
        finally:
            self._uneven = False

    def join_hook(self, **_: Any) -> JoinHook:
        """The idle passes of a process without passes left."""
        hook = JoinHook()
        hook.main_hook = self._idle  # type: ignore[method-assign]
        return hook

    @property
    def join_device(self) -> torch.device:
        """The device on which processes with passes left are counted."""
        device: torch.device = next(self._model.parameters()).device
        return device

    @property
    def join_process_group(self) -> Any:
        """The group of all processes of the run."""
        return dist.group.WORLD
