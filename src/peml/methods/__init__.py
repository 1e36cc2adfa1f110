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
    )
    from peml.methods.counting import check_count
    from peml.methods.frozen import Frozen
    from peml.methods.full import Full
    from peml.methods.layers import Layers, LinearShape
    from peml.methods.lora.adalora import AdaLora, AdaLoraPart
    from peml.methods.lora.dora import Dora, DoraPart
    from peml.methods.lora.hira import Hira
    from peml.methods.lora.lora import Lora, LoraPart
    from peml.methods.lora.miss import Miss
    from peml.methods.lora.part import PeftMethod, PeftPart
    from peml.methods.lora.rslora import RsLora
    from peml.methods.lora.settings import (
        AdaLoraSettings,
        DoraSettings,
        HiraSettings,
        LoraMethodSettings,
        LoraSettings,
        LowRankSettings,
        MissSettings,
        RsLoraSettings,
        UpdateSettings,
    )
    from peml.methods.lora_prefix import LoraPrefix
    from peml.methods.peml import Peml
    from peml.methods.prefix.part import PrefixPart
    from peml.methods.prefix.prefix_nas import PrefixNas
    from peml.methods.prefix.prefix_tuning import PrefixTuning
    from peml.methods.prefix.prompt import PromptPart
    from peml.methods.prefix.prompt_tuning import PromptTuning
    from peml.methods.prefix.search import PrefixSearch
    from peml.methods.prefix.settings import (
        FixedPrefixSettings,
        PrefixNasSettings,
        PrefixTuningSettings,
        PromptTuningSettings,
    )
    from peml.methods.registry import (
        MethodSection,
        build_method,
        list_methods,
        method_settings_types,
        parse_method,
    )
    from peml.methods.routed.c_poly import CPoly
    from peml.methods.routed.delta import AdaptedLinear, Delta
    from peml.methods.routed.moe_lora import MoeLora
    from peml.methods.routed.mtl_lora import MtlLora
    from peml.methods.routed.multilora import MultiLora
    from peml.methods.routed.part import AdapterMethod, AdapterPart
    from peml.methods.routed.settings import (
        AdapterSettings,
        CPolySettings,
        MoeLoraSettings,
        MtlLoraSettings,
        MultiLoraSettings,
    )
    from peml.methods.settings import FrozenSettings, FullSettings, LoraPrefixSettings, PemlSettings
    from peml.methods.shape import ModelShape, nearest_size, read_shape
    from peml.methods.targets import read_layers
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "AdaLora",
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
    "DoraPart",
    "DoraSettings",
    "FixedPrefixSettings",
    "Frozen",
    "FrozenSettings",
    "Full",
    "FullSettings",
    "HeldOut",
    "Hira",
    "HiraSettings",
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
    "Miss",
    "MissSettings",
    "ModelShape",
    "MoeLora",
    "MoeLoraSettings",
    "MtlLora",
    "MtlLoraSettings",
    "MultiLora",
    "MultiLoraSettings",
    "ParameterGroup",
    "Part",
    "PeftMethod",
    "PeftPart",
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
    "RsLoraSettings",
    "UpdateSettings",
    "build_method",
    "check_count",
    "list_methods",
    "method_settings_types",
    "nearest_size",
    "parse_method",
    "read_layers",
    "read_shape",
]
