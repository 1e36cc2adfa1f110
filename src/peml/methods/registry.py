"""The methods by name: those built in, and third parties' through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from peml.errors import ConfigError, nearest
from peml.methods.adalora import AdaLora
from peml.methods.base import Method, MethodSettings
from peml.methods.c_poly import CPoly
from peml.methods.dora import Dora
from peml.methods.frozen import Frozen
from peml.methods.full import Full
from peml.methods.lora import Lora
from peml.methods.lora_prefix import LoraPrefix
from peml.methods.moe_lora import MoeLora
from peml.methods.mtl_lora import MtlLora
from peml.methods.multilora import MultiLora
from peml.methods.peml import Peml
from peml.methods.prefix_nas import PrefixNas
from peml.methods.prefix_tuning import PrefixTuning
from peml.methods.prompt_tuning import PromptTuning
from peml.methods.rslora import RsLora

__all__ = ["ENTRY_POINTS", "build_method", "list_methods", "method_settings_types", "parse_method"]

ENTRY_POINTS = "peml.methods"
"""Entry point group: each entry names a `Method` subclass."""

_BUILT_IN: tuple[type[Method], ...] = (
    AdaLora,
    CPoly,
    Dora,
    Frozen,
    Full,
    Lora,
    LoraPrefix,
    MoeLora,
    MtlLora,
    MultiLora,
    Peml,
    PrefixNas,
    PrefixTuning,
    PromptTuning,
    RsLora,
)


def _name(method: type[Method]) -> str:
    return str(method.settings_type.model_fields["name"].default)


@cache
def _methods() -> dict[str, type[Method]]:
    methods = {_name(method): method for method in _BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        method: type[Method] = entry.load()
        if _name(method) in methods:
            raise ConfigError(
                f"the method {_name(method)!r} is defined twice, the second time by {entry.value}",
                action="uninstall one of the packages, or rename the method",
            )
        methods[_name(method)] = method
    return methods


def list_methods() -> list[str]:
    """Names of all methods."""
    return sorted(_methods())


def method_settings_types() -> dict[str, type[MethodSettings]]:
    """The config section of each method, by name."""
    return {name: method.settings_type for name, method in _methods().items()}


def _named(name: str) -> type[Method]:
    methods = _methods()
    if name not in methods:
        raise ConfigError(
            f"there is no method {name!r}.{nearest(name, methods)}",
            allowed=", ".join(sorted(methods)),
            action="correct method.name",
        )
    return methods[name]


def parse_method(section: Mapping[str, Any]) -> MethodSettings:
    """The settings of a method as a config or a saved model holds them.

    Raises:
        ConfigError: No method has this name, or a field is wrong; all of them are listed.
    """
    settings_type = _named(str(section.get("name"))).settings_type
    try:
        return settings_type.model_validate(section)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(
            f"the section of the method {section.get('name')!r} is wrong: {'; '.join(wrong)}",
            action="correct it; `peml config schema` describes every field",
        ) from None


def build_method(settings: MethodSettings) -> Method:
    """The method a config section describes.

    Raises:
        ConfigError: No method has this name.
    """
    method: Any = _named(settings.name)
    built: Method = method(settings)
    return built
