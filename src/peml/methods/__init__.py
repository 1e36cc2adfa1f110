"""Methods: how something trainable is attached to a frozen model."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.methods.attached import AttachedModel
    from peml.methods.base import (
        AttachContext,
        HeldOut,
        Merging,
        Method,
        MethodSettings,
        ParameterGroup,
        Part,
        Search,
    )
    from peml.methods.counting import check_count
    from peml.methods.frozen import Frozen, FrozenSettings
    from peml.methods.full import Full, FullSettings
    from peml.methods.lora.adalora import (
        AdaLora,
        AdaLoraMethodSettings,
        AdaLoraPart,
        AdaLoraSettings,
    )
    from peml.methods.lora.dora import Dora, DoraMethodSettings, DoraPart, DoraSettings
    from peml.methods.lora.lora import (
        Lora,
        LoraMethodSettings,
        LoraPart,
        LoraSettings,
        LowRankSettings,
    )
    from peml.methods.lora.rslora import RsLora, RsLoraMethodSettings, RsLoraSettings
    from peml.methods.lora_prefix import LoraPrefix, LoraPrefixSettings
    from peml.methods.peml import Peml, PemlSettings
    from peml.methods.prefix.part import FixedPrefixSettings, PrefixPart
    from peml.methods.prefix.prefix_nas import PrefixNas, PrefixNasSettings
    from peml.methods.prefix.prefix_tuning import PrefixTuning, PrefixTuningSettings
    from peml.methods.prefix.prompt import PromptPart
    from peml.methods.prefix.prompt_tuning import PromptTuning, PromptTuningSettings
    from peml.methods.prefix.search import PrefixSearch
    from peml.methods.registry import (
        MethodSection,
        build_method,
        list_methods,
        method_settings_types,
        parse_method,
    )
    from peml.methods.routed.c_poly import CPoly, CPolySettings
    from peml.methods.routed.delta import AdaptedLinear, AdapterSettings, Delta
    from peml.methods.routed.moe_lora import MoeLora, MoeLoraSettings
    from peml.methods.routed.mtl_lora import MtlLora, MtlLoraSettings
    from peml.methods.routed.multilora import MultiLora, MultiLoraSettings
    from peml.methods.routed.part import AdapterMethod, AdapterPart
    from peml.methods.shape import ModelShape, nearest_size, read_shape
    from peml.methods.targets import Layers, LinearShape, read_layers
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "AdaLora",
    "AdaLoraMethodSettings",
    "AdaLoraPart",
    "AdaLoraSettings",
    "AdaptedLinear",
    "AdapterMethod",
    "AdapterPart",
    "AdapterSettings",
    "AttachContext",
    "AttachedModel",
    "CPoly",
    "CPolySettings",
    "Delta",
    "Dora",
    "DoraMethodSettings",
    "DoraPart",
    "DoraSettings",
    "FixedPrefixSettings",
    "Frozen",
    "FrozenSettings",
    "Full",
    "FullSettings",
    "HeldOut",
    "Layers",
    "LinearShape",
    "Lora",
    "LoraMethodSettings",
    "LoraPart",
    "LoraPrefix",
    "LoraPrefixSettings",
    "LoraSettings",
    "LowRankSettings",
    "Merging",
    "Method",
    "MethodSection",
    "MethodSettings",
    "ModelShape",
    "MoeLora",
    "MoeLoraSettings",
    "MtlLora",
    "MtlLoraSettings",
    "MultiLora",
    "MultiLoraSettings",
    "ParameterGroup",
    "Part",
    "Peml",
    "PemlSettings",
    "PrefixNas",
    "PrefixNasSettings",
    "PrefixPart",
    "PrefixSearch",
    "PrefixTuning",
    "PrefixTuningSettings",
    "PromptPart",
    "PromptTuning",
    "PromptTuningSettings",
    "RsLora",
    "RsLoraMethodSettings",
    "RsLoraSettings",
    "Search",
    "build_method",
    "check_count",
    "list_methods",
    "method_settings_types",
    "nearest_size",
    "parse_method",
    "read_layers",
    "read_shape",
]
