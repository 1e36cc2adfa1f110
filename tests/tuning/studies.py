"""Studies small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from peml.tuning.settings import StudyConfig, parse_study
from tests.e2e.toy import METHODS, toy_config

RATE = "training.learning_rates.lora"

MADE_UP: dict[str, Any] = {
    "name": "made-up",
    "run": {"tasks": {"suite": "demo"}, "method": METHODS["lora"]},
    "space": {
        RATE: {"low": 1e-4, "high": 1e-1, "log": True},
        "method.lora.r": {"low": 2, "high": 8},
        "training.schedule": ["linear", "cosine", "constant"],
    },
    "budget": {"trials": 8},
}
"""A study whose trials are never trained."""


def made_up(**sections: Any) -> StudyConfig:
    """`MADE_UP` with other sections."""
    return parse_study(MADE_UP | sections)


def toy_study(folder: Path, **sections: Any) -> dict[str, Any]:
    """The raw config of a study of toy runs, each under a second."""
    run = yaml.safe_load(toy_config(folder, method="lora").read_text(encoding="utf-8"))
    run["training"] |= {"epochs": 1, "explode_at": 100.0}
    return {
        "name": "toy",
        "run": run,
        "space": {
            RATE: {"low": 1e-4, "high": 1e-1, "log": True},
            "method.lora.r": {"low": 2, "high": 8},
        },
        "budget": {"trials": 3},
        "execution": {"kind": "inline"},
        **sections,
    }


def study_file(folder: Path, path: Path, **sections: Any) -> Path:
    """Writes the config of `toy_study`."""
    path.write_text(yaml.safe_dump(toy_study(folder, **sections)), encoding="utf-8")
    return path
