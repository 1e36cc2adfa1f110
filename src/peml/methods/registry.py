"""The methods by name: those built in, and third parties' through entry points."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from peml.errors import ConfigError, nearest
from peml.methods.base import Method, MethodSettings
from peml.methods.lora import Lora
from peml.methods.lora_prefix import LoraPrefix
from peml.methods.peml import Peml

__all__ = ["ENTRY_POINTS", "build_method", "list_methods", "method_settings_types"]

ENTRY_POINTS = "peml.methods"
"""Entry point group: each entry names a `Method` subclass."""

_BUILT_IN: tuple[type[Method], ...] = (Peml, Lora, LoraPrefix)


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


def build_method(settings: MethodSettings) -> Method:
    """The method a config section describes.

    Raises:
        ConfigError: No method has this name.
    """
    methods = _methods()
    if settings.name not in methods:
        raise ConfigError(
            f"there is no method {settings.name!r}.{nearest(settings.name, methods)}",
            allowed=", ".join(sorted(methods)),
            action="correct method.name",
        )
    method: Any = methods[settings.name]
    built: Method = method(settings)
    return built
