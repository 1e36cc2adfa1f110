"""``training.compile``: compiles the frozen model's blocks with `torch.compile` for training steps.

The parts of a block (its norms, its attention, its feed-forward network) are compiled, not the
block as a whole: gradient checkpointing wraps the block, which would prevent compiling it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from peml.errors import TrainingError
from peml.injection.attention import leave_out_of_graphs

# How often a function may be compiled anew for other types or sizes. By default, torch silently
# gives up after eight times.
_MOST = 64

Backend = Callable[..., Any]
"""A backend of `torch.compile`: makes a function from a graph and example inputs."""


class CompiledBlocks:
    """Compiles the blocks of a model in place, at their first call.

    Names of parameters don't change. All layers and lengths share the compiled code.

    Raises:
        TrainingError: The model has no blocks.
    """

    def __init__(self, model: nn.Module, backend: str | Backend = "inductor") -> None:
        blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not blocks:
            raise TrainingError(
                f"training.compile is true, but {type(model).__name__} has no blocks to compile",
                allowed="models whose layers are Transformers' GradientCheckpointingLayer",
                action="leave out training.compile",
            )
        leave_out_of_graphs()
        # torch's own random numbers, so that dropout is that of a run without compile.
        options: dict[str, Any] | None = (
            {"fallback_random": True} if backend == "inductor" else None
        )
        self._compiled: dict[nn.Module, Any] = {
            part: torch.compile(part._call_impl, dynamic=True, backend=backend, options=options)
            for block in blocks
            for part in _parts(block)
        }
        self._graphs = _graphs()

    @property
    def graphs(self) -> int:
        """Number of graphs compiled so far."""
        return _graphs() - self._graphs

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Uses the compiled code inside the block: a step's forward and backward passes.

        Raises:
            TrainingError: A part can't be compiled.
        """
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        for part, call in self._compiled.items():
            part._compiled_call_impl = call
        try:
            with torch._dynamo.config.patch(  # for sizes that change from batch to batch
                allow_unspec_int_on_nn_module=True,
                force_nn_module_property_static_shapes=False,
                fail_on_recompile_limit_hit=True,
                recompile_limit=_MOST,
            ):
                yield
        except (FailOnRecompileLimitHit, TorchDynamoException) as error:
            raise TrainingError(
                f"training.compile is true, but the model can't be compiled: {_reason(error)}",
                allowed="models and methods that torch.compile can trace",
                action="leave out training.compile",
            ) from error
        finally:
            for part in self._compiled:
                part._compiled_call_impl = None


def check_compiler() -> None:
    """Raises a TrainingError if `torch.compile` doesn't work here; compiles a small function."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.compile(lambda x: 2 * x)(torch.ones(8, device=device))
    except (RuntimeError, ImportError) as error:
        raise TrainingError(
            "training.compile is true, but torch.compile doesn't work on this machine: "
            f"{_reason(error)}",
            allowed="machines with a C++ compiler and Python's headers; for GPUs Triton as well",
            action="install them (Debian: g++ and python3-dev), or leave out training.compile",
        ) from error


def _parts(block: nn.Module) -> Iterator[nn.Module]:
    for child in block.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):  # never called themselves
            yield from _parts(child)
        else:
            yield child


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _reason(error: Exception) -> str:
    """The first paragraph of the error; the others are hints on torch's logging."""
    return " ".join(str(error).strip().partition("\n\n")[0].split()) or repr(error)
