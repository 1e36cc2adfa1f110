"""The methods by name: the built-in ones, and those that installed packages add."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from types import MappingProxyType
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
from peml.methods import settings as plain
from peml.methods.base import Method, MethodSettings
from peml.methods.context import settings as context
from peml.methods.lora import settings as lora
from peml.methods.prefix import settings as prefix
from peml.methods.routed import settings as routed
from peml.problems import describe_problems, in_words, list_problems, problems_at
from peml.registry import Registry

# Settings are read without torch; the module of a method is imported when one is built.
_BUILT_IN: Mapping[type[MethodSettings], str] = MappingProxyType(
    {
        lora.AdaLoraSettings: "peml.methods.lora.adalora:AdaLora",
        routed.CPolySettings: "peml.methods.routed.c_poly:CPoly",
        context.ContextTuningSettings: "peml.methods.context.context_tuning:ContextTuning",
        lora.DoraSettings: "peml.methods.lora.dora:Dora",
        plain.FrozenSettings: "peml.methods.frozen:Frozen",
        plain.FullSettings: "peml.methods.full:Full",
        lora.HiraSettings: "peml.methods.lora.hira:Hira",
        lora.LoraMethodSettings: "peml.methods.lora.lora:Lora",
        context.LoraContextSettings: "peml.methods.context.lora_context:LoraContext",
        plain.LoraPrefixSettings: "peml.methods.lora_prefix:LoraPrefix",
        lora.MissSettings: "peml.methods.lora.miss:Miss",
        routed.MoeLoraSettings: "peml.methods.routed.moe_lora:MoeLora",
        routed.MtlLoraSettings: "peml.methods.routed.mtl_lora:MtlLora",
        routed.MultiLoraSettings: "peml.methods.routed.multilora:MultiLora",
        plain.PemlSettings: "peml.methods.peml:Peml",
        prefix.PrefixNasSettings: "peml.methods.prefix.prefix_nas:PrefixNas",
        prefix.PrefixTuningSettings: "peml.methods.prefix.prefix_tuning:PrefixTuning",
        prefix.PromptTuningSettings: "peml.methods.prefix.prompt_tuning:PromptTuning",
        lora.RsLoraSettings: "peml.methods.lora.lora:RsLora",
    }
)


def _name(settings: type[MethodSettings]) -> str:
    return str(settings.model_fields["name"].default)


METHODS: Registry[type[Method]] = Registry(
    "peml.methods",
    "method",
    {_name(settings): place for settings, place in _BUILT_IN.items()},
    own_name=lambda method: _name(method.settings_type),
)
_SETTINGS = MappingProxyType({_name(settings): settings for settings in _BUILT_IN})


def list_methods() -> list[str]:
    """Names of all methods."""
    return list(METHODS.names())


def method_settings_types() -> dict[str, type[MethodSettings]]:
    """The config section of each method, by name."""
    return {name: _settings_of(name) for name in METHODS.names()}


def _settings_of(name: str) -> type[MethodSettings]:
    if name in _SETTINGS:
        return _SETTINGS[name]
    return METHODS.load(name, "correct method.name").settings_type


def _read_section(section: Any) -> Any:
    """A method's section as its settings; other values are left for pydantic to refuse."""
    if type(section) is MethodSettings:
        section = section.model_dump()
    if not isinstance(section, Mapping):
        return section
    names, name = METHODS.names(), section.get("name")
    if name not in names:
        hint = f"{nearest(str(name), names)} Valid: {', '.join(names)}."
        raise problems_at("method", [(("name",), f"there is no method {name!r}.{hint}", section)])
    settings = _settings_of(name)
    try:
        return settings.model_validate(section)
    except ValidationError as error:
        raise in_words(error, settings) from None


class _AnyMethod:
    """The section of any registered method; installed packages are searched when one is read."""

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
"""A method's section in a config: its ``name`` and its settings."""


def parse_method(section: Mapping[str, Any]) -> MethodSettings:
    """The settings of a method from its section in a config or saved model.

    Raises:
        ConfigError: No method has this name, or a field is wrong; the message lists all.
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
    """The method of a config section; raises a ConfigError if there is none of its name."""
    method: Any = METHODS.load(settings.name, "correct method.name")
    built: Method = method(settings)
    return built
