"""The built-in formats under the suite that a third party's format has to pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.errors import ConfigError
from peml.export import EXPORTS, export_model
from peml.testing import ExportSuite

pytestmark = pytest.mark.usefixtures("one_process")


class TestGguf(ExportSuite):
    name = "gguf"


class TestLora(ExportSuite):
    name = "lora"


class TestLoraPerTask(ExportSuite):
    name = "lora"
    method = {"name": "mtl-lora", "r": 2}  # noqa: RUF012


class TestOnnx(ExportSuite):
    name = "onnx"
    model = "bert"


class TestOnnxInt8(ExportSuite):
    name = "onnx-int8"
    model = "bert"


class TestPeft(ExportSuite):
    name = "peft"


class TestPeftPrompt(ExportSuite):
    name = "peft"
    method = {"name": "prompt-tuning", "length": 2}  # noqa: RUF012


class TestText(ExportSuite):
    name = "text"
    method = {"name": "lora+context", "lora": {"r": 2}, "context": {"of": "adapted"}}  # noqa: RUF012


class TestCartridge(ExportSuite):
    name = "cartridge"
    method = {"name": "lora+context", "lora": {"r": 2}}  # noqa: RUF012


class TestTransformers(ExportSuite):
    name = "transformers"


class TestTransformersPrefix(ExportSuite):
    name = "transformers"
    method = {"name": "lora+prefix", "lora": {"r": 2}, "length": 2, "width": 4}  # noqa: RUF012


def test_every_format_has_a_suite() -> None:
    suites = {value.name for key, value in globals().items() if key.startswith("Test")}
    assert suites == set(EXPORTS.names())


def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no export format 'loar'\. Did you mean 'lora'"):
        export_model(tmp_path / "nowhere", tmp_path / "out", "loar")
