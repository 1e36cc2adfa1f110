"""Methods: how something trainable is attached to a frozen model."""

from peml.methods.base import (
    AttachContext,
    AttachedModel,
    Method,
    MethodSettings,
    ParameterGroup,
    Part,
    Search,
)
from peml.methods.lora import Lora, LoraMethodSettings, LoraPart, LoraSettings
from peml.methods.lora_prefix import LoraPrefix, LoraPrefixSettings
from peml.methods.peml import Peml, PemlSettings, PrefixSearch
from peml.methods.prefix import PrefixPart
from peml.methods.registry import build_method, list_methods, method_settings_types

__all__ = [
    "AttachContext",
    "AttachedModel",
    "Lora",
    "LoraMethodSettings",
    "LoraPart",
    "LoraPrefix",
    "LoraPrefixSettings",
    "LoraSettings",
    "Method",
    "MethodSettings",
    "ParameterGroup",
    "Part",
    "Peml",
    "PemlSettings",
    "PrefixPart",
    "PrefixSearch",
    "Search",
    "build_method",
    "list_methods",
    "method_settings_types",
]
