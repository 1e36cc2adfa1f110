"""Methods: what each attaches to a frozen model and trains."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.methods.attached import AttachedModel
    from peml.methods.base import (
        AttachContext,
        Merging,
        Method,
        MethodSettings,
        ParameterGroup,
        Part,
    )
    from peml.methods.layers import LinearShape
    from peml.methods.lora.part import PeftMethod, PeftPart
    from peml.methods.lora.settings import LowRankSettings
    from peml.methods.registry import build_method, parse_method
    from peml.methods.routed.delta import Delta
    from peml.methods.routed.part import AdapterMethod
    from peml.methods.routed.settings import AdapterSettings
    from peml.methods.shape import ModelShape, nearest_size
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "AdapterMethod",
    "AdapterSettings",
    "AttachContext",
    "AttachedModel",
    "Delta",
    "LinearShape",
    "LowRankSettings",
    "Merging",
    "Method",
    "MethodSettings",
    "ModelShape",
    "ParameterGroup",
    "Part",
    "PeftMethod",
    "PeftPart",
    "build_method",
    "nearest_size",
    "parse_method",
]
