"""Chooses the device of a loaded model, and the type of its weights."""

import re

import torch

from peml.errors import ModelError, nearest

DTYPES = ("float32", "bfloat16", "float16")
_ALLOWED = "auto (a GPU if there is one, else the CPU), cpu, cuda, or cuda:N"


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device with this name; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        ModelError: There is no such device.
    """
    if isinstance(device, torch.device):
        return device
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise ModelError(
            f"device is {device!r}.{nearest(device, ('auto', 'cpu', 'cuda'))}",
            allowed=_ALLOWED,
            action="name one of these",
        )
    if int(match[1] or 0) >= gpus:
        raise ModelError(
            f"device is {device!r}, but PyTorch {torch.__version__} sees {gpus or 'no'} CUDA GPUs",
            allowed=f"a GPU that is there, or {_ALLOWED}",
            action="choose auto or cpu, or install a driver and a PyTorch built for CUDA "
            "(`peml doctor` shows both)",
        )
    return torch.device(device)


def check_dtype(dtype: str) -> str | None:
    """The type of the frozen weights; None for ``auto``: the type in which the model was saved.

    Raises:
        ModelError: There is no such type.
    """
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise ModelError(
            f"dtype is {dtype!r}.{nearest(dtype, ('auto', *DTYPES))}",
            allowed=f"auto (as the model was saved), {', '.join(DTYPES)}",
            action="name one of these",
        )
    return dtype
