"""The JSON Schema people and editors read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from typer.testing import CliRunner

from peml.cli import app
from peml.config.model import RunConfig
from peml.methods.registry import method_settings_types


def _properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    sections = {"RunConfig": schema, **schema["$defs"]}
    for section, definition in sections.items():
        for name, field in definition.get("properties", {}).items():
            yield f"{section}.{name}", field


def test_every_field_of_every_section_is_described() -> None:
    fields = dict(_properties(RunConfig.model_json_schema()))
    assert len(fields) > 60
    # A method's `name` is what chooses the section; it explains itself.
    bare = [
        name
        for name, field in fields.items()
        if not field.get("description") and "const" not in field
    ]
    assert bare == []


def test_every_method_and_section_is_in_the_schema() -> None:
    schema = RunConfig.model_json_schema()
    for settings in method_settings_types().values():
        assert settings.__name__ in schema["$defs"]
    assert schema["additionalProperties"] is False
    for name, definition in schema["$defs"].items():
        if definition["type"] == "object":
            assert definition["additionalProperties"] is False, name


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(app, ["config", "schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == RunConfig.model_json_schema()
