"""From a YAML file and overrides to a validated config, or to all errors at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from peml.config.model import RunConfig, config_type
from peml.errors import ConfigError, nearest
from peml.tasks.yaml_file import StrictLoader

__all__ = ["apply_overrides", "dump_config", "load_config", "parse_config"]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a config file and applies overrides.

    Args:
        path: YAML file.
        overrides: ``section.key=value`` strings; the value is read as YAML, so ``{...}`` and
            ``[...]`` replace whole sections and lists.

    Raises:
        ConfigError: The file can't be read, or anything in it is wrong; all at once.
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
            allowed=", ".join(RunConfig.model_fields),
            action="write sections such as `tasks:` and `method:`",
        )
    return parse_config(apply_overrides(raw, overrides), str(path))


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
    try:
        return model.model_validate(named)
    except ValidationError as error:
        problems = [_describe(model, item) for item in error.errors()]
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError(
            f"{origin} has {count}:\n" + "\n".join(f"  {line}" for line in problems),
            action="correct them; `peml config schema` describes every field",
        ) from None


def _describe(model: type[BaseModel], item: Any) -> str:
    names = [str(part) for part in item["loc"]]
    tags = set(_method_names(model))
    shown = ".".join(
        name
        for i, name in enumerate(names)
        if not (i == 1 and names[0] == "method" and name in tags)
    )
    if item["type"] == "extra_forbidden":
        valid = _fields_at(model, names[:-1])
        hint = nearest(names[-1], valid) or f" Valid here: {', '.join(sorted(valid))}."
        return f"{shown}: unknown key.{hint}"
    if item["type"] == "union_tag_invalid":
        given = str(item["ctx"]["tag"])
        return f"method.name: there is no method {given!r}.{nearest(given, tags)} " + (
            f"Valid: {', '.join(sorted(tags))}."
        )
    message = item["msg"].removeprefix("Value error, ")
    given = item.get("input")
    value = "" if item["type"] == "missing" or isinstance(given, dict) else f" (got {given!r})"
    return f"{shown}: {message}{value}"


def _method_names(model: type[BaseModel]) -> list[str]:
    return [str(t.model_fields["name"].default) for t in _models_in(model.model_fields["method"])]


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> set[str]:
    """Names valid inside the section a path leads to."""
    candidates: list[type[BaseModel]] = [model]
    for name in path:
        if len(candidates) > 1:  # a union: pydantic puts the method's name into the path
            candidates = [model for model in candidates if _tag(model) == name]
        elif name in candidates[0].model_fields:
            candidates = _models_in(candidates[0].model_fields[name])
    return {field for candidate in candidates for field in candidate.model_fields}


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    return None if field is None else str(field.default)


def _models_in(field: Any) -> list[type[BaseModel]]:
    pending, found = [field.annotation], []
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        pending.extend(get_args(annotation))
    return found


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML; reading it gives the same config again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
