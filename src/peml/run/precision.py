"""The precision of computation and of stored weights, if the config leaves it to the machine."""

from functools import partial
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized

from peml.config.model import RunConfig
from peml.distributed import ALONE, World
from peml.errors import TrainingError
from peml.methods.base import Method
from peml.models.reading import read_quantization, read_width
from peml.records.plan import Precision

# On a CPU, narrower models train no faster in bf16, and slower below 128 (benchmarks/RESULTS.md).
_LEAST_WIDTH = 256


def choose_precision(config: RunConfig, method: Method) -> Precision:
    """Decides ``training.precision: auto`` and ``model.dtype: auto``.

    Raises:
        TrainingError: The config asks for bf16, and the accelerator can't compute in it.
    """
    return precision_of(config, method, *_compute(config))


def precision_of(
    config: RunConfig, method: Method, compute: Literal["fp32", "bf16"], reason: str
) -> Precision:
    """The types of stored weights of a run that computes in a precision, chosen for a reason."""
    weights, exported = config.model.dtype, config.model.dtype
    if weights == "auto":
        weights = "bfloat16" if compute == "bf16" and not method.trains_backbone else "float32"
        exported = "float32"  # merged into bfloat16, LoRA would be rounded away in part
    quantization = read_quantization(config.model)
    if quantization is not None:
        exported = "float32"  # dequantised
    return Precision(
        compute=compute,
        weights=weights,
        exported=exported,
        reason=reason,
        quantization=quantization,
    )


def with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    """The config with both settings as decided."""
    training = config.training.model_copy(update={"precision": precision.compute})
    model = config.model.model_copy(update={"dtype": precision.weights})
    return config.model_copy(update={"training": training, "model": model})


def build_accelerator(precision: str, world: World = ALONE) -> Accelerator:
    """The device, and autocast if the precision is bf16.

    Raises:
        TrainingError: Several processes were started by an unknown launcher.
    """
    # Accelerate has one precision for the whole process, and refuses another one than the first.
    # Here each run has its own, also after a Trainer's in the same process.
    accelerator = Accelerator(mixed_precision=None if is_initialized() else "no")
    accelerator.scaler = None  # a Trainer's float16 would scale the losses
    device, bf16 = accelerator.device.type, precision == "bf16"
    accelerator.autocast = partial(torch.autocast, device, torch.bfloat16, enabled=bf16)
    if accelerator.num_processes != world.size:
        raise TrainingError(
            f"the run was started in {accelerator.num_processes} processes, by a launcher that "
            "sets no WORLD_SIZE",
            allowed="one process, or those of `accelerate launch` or `torchrun`",
            action="start it with one of these",
        )
    return accelerator


def _compute(config: RunConfig) -> tuple[Literal["fp32", "bf16"], str]:
    """The precision and, in a few words, the reason."""
    asked = config.training.precision
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if gpu is not None and gpu.type == "cuda":
        # Without emulation: older GPUs compute in bf16, but slowly.
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        if asked == "bf16" and not torch.cuda.is_bf16_supported():
            raise TrainingError(
                f"training.precision is bf16, which {torch.cuda.get_device_name()} can't compute",
                allowed="auto or fp32 on this GPU",
                action="set training.precision: auto",
            )
        found = "the GPU has bf16" if able else "the GPU has no bf16"
    elif gpu is not None:
        able, found = False, f"auto takes bf16 on CUDA GPUs and CPUs only, not on {gpu.type}"
    else:
        able, found = _cpu(config)
    if asked == "bf16" and not able:
        return asked, f"as training.precision says, although {found}; auto takes fp32"
    if asked != "auto":
        return asked, "as training.precision says"
    return ("bf16" if able else "fp32"), found


def _cpu(config: RunConfig) -> tuple[bool, str]:
    """Whether bf16 is faster on this CPU, which needs instructions and a wide model, and why."""
    if not (torch.cpu._is_avx512_bf16_supported() and torch.backends.mkldnn.is_available()):
        return False, "the CPU has no bf16 instructions (AVX512-BF16)"
    width = read_width(config.model)
    if width is None:
        return False, "the model's config has no hidden_size, and CPUs gain with wide models only"
    if width < _LEAST_WIDTH:
        return False, f"with {width} channels, below {_LEAST_WIDTH}, a CPU is no faster in bf16"
    return True, "the CPU has bf16 instructions (AVX512-BF16)"
