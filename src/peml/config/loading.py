"""Reads a YAML file and overrides into a validated config, or reports all errors together."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from peml.config.grants import is_shared, without_grants
from peml.config.model import RunConfig
from peml.errors import ConfigError
from peml.problems import Location, describe_problems, list_problems
from peml.removed import without_removed
from peml.settings import Settings
from peml.tasks.yaml_file import StrictLoader

SettingsT = TypeVar("SettingsT", bound=Settings)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a config file and applies overrides.

    Overrides are ``section.key=value`` strings; the value is read as YAML, so ``{...}`` and
    ``[...]`` replace whole sections and lists.

    Raises:
        ConfigError: The file can't be read, or has errors; the message lists all.
    """
    return parse_config(read_config(path, overrides, RunConfig), str(path))


def read_config(path: Path, overrides: Sequence[str], model: type[Settings]) -> dict[str, Any]:
    """Reads the mapping of a config file and applies overrides; nothing is validated yet.

    The copy of a config in a run's, study's or comparison's folder grants nothing, see `grants`,
    and may contain removed options at values at which they had no effect. `model` is the expected
    section, for messages.

    Raises:
        ConfigError: The file can't be read or holds no mapping, or an override is wrong.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no config file {path}", action="check the path; `peml init` writes one"
        ) from error
    except IsADirectoryError as error:
        resume = f"to resume its run: peml fit {path}/config.yaml"
        raise ConfigError(
            f"{path} is a folder, not a config file",
            action=resume if (path / "config.yaml").is_file() else "give a file",
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
    own = without_removed(without_grants(raw)) if is_shared(path) else raw
    return apply_overrides(own, overrides)


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
        set_value(result, key.strip(), value)
    return result


def set_value(raw: dict[str, Any], path: str, value: Any) -> None:
    """Puts a value at a path into a raw config; a missing section is created.

    Raises:
        ConfigError: A part of the path is a value, not a section.
    """
    *parents, last = path.split(".")
    section = raw
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        child = section[parent]
        if not isinstance(child, dict):
            raise ConfigError(
                f"{path}={value}: {parent!r} is a value, not a section",
                action="name a key inside a section",
            )
        section = child
    section[last] = value


def parse_config(raw: Mapping[str, Any], origin: str = "the config") -> RunConfig:
    """Validates a raw config.

    Raises:
        ConfigError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    return validate_config(
        RunConfig, raw, origin, "correct them; `peml config schema` describes every field"
    )


def validate_config(
    model: type[SettingsT],
    raw: Mapping[str, Any],
    origin: str,
    action: str,
    rename: Callable[[Location], Location] = lambda location: location,
) -> SettingsT:
    """Validates a raw config of any kind.

    `rename` maps the location of a problem to the one at which the user wrote it.

    Raises:
        ConfigError: Every wrong field is listed, unknown ones with the nearest valid name.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = describe_problems(error, model, rename)
        raise ConfigError(list_problems(origin, problems), action=action) from None


def dump_config(config: Settings) -> str:
    """The resolved config as YAML; reading it gives the same config again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
