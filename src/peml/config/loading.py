"""From a YAML file and overrides to a validated config, or to all errors at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from peml.config.grants import is_shared, without_grants
from peml.config.model import RunConfig, config_type
from peml.errors import ConfigError, nearest
from peml.settings import Settings
from peml.tasks.yaml_file import StrictLoader

__all__ = [
    "apply_overrides",
    "dump_config",
    "load_config",
    "parse_config",
    "read_config",
    "validate_config",
]

SettingsT = TypeVar("SettingsT", bound=Settings)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a config file and applies overrides.

    Args:
        path: YAML file.
        overrides: ``section.key=value`` strings; the value is read as YAML, so ``{...}`` and
            ``[...]`` replace whole sections and lists.

    Raises:
        ConfigError: The file can't be read, or anything in it is wrong; all at once.
    """
    return parse_config(read_config(path, overrides, RunConfig), str(path))


def read_config(path: Path, overrides: Sequence[str], model: type[Settings]) -> dict[str, Any]:
    """Reads the mapping of a config file and applies overrides; nothing is validated yet.

    A copy that a run, study or comparison keeps in its folder grants nothing, see `grants`.

    Args:
        path: YAML file.
        overrides: ``section.key=value`` strings.
        model: What the file should hold, for the message if it holds something else.

    Raises:
        ConfigError: The file can't be read or holds no mapping, or an override is wrong.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no config file {path}", action="check the path; examples/ holds some"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{path} is not YAML: {where}", action="correct the line") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} holds {'nothing' if raw is None else type(raw).__name__}, not a mapping",
            allowed=", ".join(model.model_fields),
            action="write these sections; examples/ holds some files",
        )
    return apply_overrides(without_grants(raw) if is_shared(path) else raw, overrides)


def apply_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns a copy of a raw config with ``a.b=c`` strings applied in order."""
    result = copy.deepcopy(dict(raw))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {override!r} is not an assignment",
                allowed="section.key=value",
                action="for example --set training.epochs=3",
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: {text!r} is not YAML") from error
        *parents, last = key.strip().split(".")
        section = result
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            child = section[parent]
            if not isinstance(child, dict):
                raise ConfigError(
                    f"--set {override!r}: {parent!r} is a value, not a section",
                    action="name a key inside a section",
                )
            section = child
        section[last] = value
    return result


def parse_config(raw: Mapping[str, Any], origin: str = "the config") -> RunConfig:
    """Validates a raw config.

    Raises:
        ConfigError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    model = config_type()
    # `training:` with nothing below it is an empty section.
    named = {k: v for k, v in raw.items() if v is not None or k not in model.model_fields}
    method = named.get("method")
    if isinstance(method, dict) and "name" not in method:
        named["method"] = {"name": "peml", **method}
    return validate_config(
        model, named, origin, "correct them; `peml config schema` describes every field"
    )


def validate_config(
    model: type[SettingsT],
    raw: Mapping[str, Any],
    origin: str,
    action: str,
    rename: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda place: place,
) -> SettingsT:
    """Validates a raw config of any kind.

    Args:
        model: What it should be.
        raw: Sections by name.
        origin: What is read, for the message.
        action: What to do about problems.
        rename: From the place of a problem to the one the user wrote it at.

    Raises:
        ConfigError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_describe(model, item, rename) for item in error.errors()]
        problems = list(dict.fromkeys(lines))
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(
            f"{origin} has {count}:\n" + "\n".join(f"  {line}" for line in problems),
            action=action,
        ) from None


def _describe(
    model: type[BaseModel], item: Any, rename: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> str:
    place, here = _follow(model, item["loc"])
    shown = ".".join(str(part) for part in rename(place))
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        valid = {field for section in here for field in section.model_fields}
        hint = nearest(name, valid) or f" Valid here: {', '.join(sorted(valid))}."
        return f"{shown}: unknown key.{hint}"
    if item["type"] == "union_tag_invalid":
        tags = sorted(filter(None, map(_tag, here)))
        given = str(item["ctx"]["tag"])
        return f"{shown}.name: there is no method {given!r}.{nearest(given, tags)} " + (
            f"Valid: {', '.join(tags)}."
        )
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    value = (
        ""
        if item["type"] == "missing" or isinstance(given, (dict, BaseModel))
        else f" (got {given!r})"
    )
    return f"{shown}: {message}{value}" if shown else f"{message}"


def _follow(
    model: type[BaseModel], location: Sequence[Any]
) -> tuple[tuple[Any, ...], list[type[BaseModel]]]:
    """A place as the user wrote it, and the sections that may stand there.

    Of the place of an unknown key, the sections it may have been meant for.
    """
    place: list[Any] = []
    here: Any = model
    for part in location:
        sections = _sections_in(here)
        if len(sections) > 1 and get_origin(here) is not dict:
            # A union: pydantic puts the method's name into the path.
            here = next((section for section in sections if _tag(section) == part), None)
            continue
        place.append(part)
        if get_origin(here) is dict:
            here = get_args(here)[1]
        elif sections and part in sections[0].model_fields:
            here = sections[0].model_fields[part].annotation
    return tuple(place), _sections_in(here)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    pending, found = [annotation], []
    while pending:
        current = pending.pop()
        if isinstance(current, type) and issubclass(current, BaseModel):
            found.append(current)
        pending.extend(get_args(current))
    return found


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    return None if field is None else str(field.default)


def dump_config(config: Settings) -> str:
    """The resolved config as YAML; reading it gives the same config again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
