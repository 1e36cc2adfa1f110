"""The methods by name: those built in, and third parties' through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from importlib.metadata import entry_points
from operator import or_
from typing import Annotated, Any

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import core_schema

from peml.errors import ConfigError, nearest
from peml.methods.base import Method, MethodSettings
from peml.methods.frozen import Frozen
from peml.methods.full import Full
from peml.methods.lora.adalora import AdaLora
from peml.methods.lora.dora import Dora
from peml.methods.lora.lora import Lora
from peml.methods.lora.rslora import RsLora
from peml.methods.lora_prefix import LoraPrefix
from peml.methods.peml import Peml
from peml.methods.prefix.prefix_nas import PrefixNas
from peml.methods.prefix.prefix_tuning import PrefixTuning
from peml.methods.prefix.prompt_tuning import PromptTuning
from peml.methods.routed.c_poly import CPoly
from peml.methods.routed.moe_lora import MoeLora
from peml.methods.routed.mtl_lora import MtlLora
from peml.methods.routed.multilora import MultiLora
from peml.problems import describe_problems, in_words, list_problems, problems_at

__all__ = [
    "ENTRY_POINTS",
    "MethodSection",
    "build_method",
    "list_methods",
    "method_settings_types",
    "parse_method",
]

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


def _read_section(section: Any) -> Any:
    """A method's section as its own settings; what is no section is left to pydantic."""
    if type(section) is MethodSettings:
        section = section.model_dump()
    if not isinstance(section, Mapping):
        return section
    types, name = method_settings_types(), section.get("name")
    if name not in types:
        hint = f"{nearest(str(name), types)} Valid: {', '.join(sorted(types))}."
        raise problems_at("method", [(("name",), f"there is no method {name!r}.{hint}", section)])
    try:
        return types[name].model_validate(section)
    except ValidationError as error:
        raise in_words(error, types[name]) from None


class _AnyMethod:
    """Any registered method's section; which there are is known only when one is read."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(_read_section, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        union: Any = reduce(or_, method_settings_types().values())
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[union, Field(discriminator="name")])
        return handler(adapter.core_schema)


MethodSection = Annotated[SerializeAsAny[MethodSettings], _AnyMethod()]
"""A method's section in a config: ``name`` says which method, the rest are its settings."""


def parse_method(section: Mapping[str, Any]) -> MethodSettings:
    """The settings of a method as a config or a saved model holds them.

    Raises:
        ConfigError: No method has this name, or a field is wrong; all of them are listed.
    """
    try:
        found: MethodSettings = _read_section(section)
    except ValidationError as error:
        subject = f"the section of the method {section.get('name')!r}"
        raise ConfigError(
            list_problems(subject, describe_problems(error, MethodSettings)),
            action="correct it; `peml config schema` describes every field",
        ) from None
    return found


def build_method(settings: MethodSettings) -> Method:
    """The method a config section describes.

    Raises:
        ConfigError: No method has this name.
    """
    method: Any = _named(settings.name)
    built: Method = method(settings)
    return built
