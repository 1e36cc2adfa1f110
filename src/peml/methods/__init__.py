"""Methods: what each attaches to a frozen model and trains."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.methods.attached import AttachedModel, check_count
    from peml.methods.base import (
        AttachContext,
        Merging,
        Method,
        MethodSettings,
        ParameterGroup,
        Part,
    )
    from peml.methods.layers import Layers, LinearShape
    from peml.methods.lora.lora import Lora
    from peml.methods.lora.part import PeftMethod, PeftPart
    from peml.methods.lora.settings import LoraMethodSettings, LoraSettings, LowRankSettings
    from peml.methods.peml import Peml
    from peml.methods.registry import MethodSection, build_method, parse_method
    from peml.methods.routed.delta import AdaptedLinear, Delta
    from peml.methods.routed.part import AdapterMethod
    from peml.methods.routed.settings import AdapterSettings
    from peml.methods.settings import PemlSettings
    from peml.methods.shape import ModelShape, nearest_size, read_shape
    from peml.methods.targets import read_layers
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "AdaptedLinear",
    "AdapterMethod",
    "AdapterSettings",
    "AttachContext",
    "AttachedModel",
    "Delta",
    "Layers",
    "LinearShape",
    "Lora",
    "LoraMethodSettings",
    "LoraSettings",
    "LowRankSettings",
    "Merging",
    "Method",
    "MethodSection",
    "MethodSettings",
    "ModelShape",
    "ParameterGroup",
    "Part",
    "PeftMethod",
    "PeftPart",
    "Peml",
    "PemlSettings",
    "build_method",
    "check_count",
    "nearest_size",
    "parse_method",
    "read_layers",
    "read_shape",
]
