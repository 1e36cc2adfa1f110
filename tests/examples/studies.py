"""A made-up study folder, for trying and testing what reads studies."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

_SPACE: dict[str, dict[str, Any]] = {
    "training.learning_rates.prefix": {"log": True, "choices": None},
    "method.lora.r": {"log": False, "choices": [4, 8, 16]},
    "method.prefix.width": {"log": False, "choices": None},
    "training.schedule": {"log": False, "choices": ["linear", "cosine"]},
}
_DIVERGED = "training diverged at step 12: loss nan, gradient norm nan"
_FAILED, _COLLAPSED = (5, 17), 11


def write_example_study(folder: Path, *, trials: int = 40, front: bool = False) -> Path:
    """Writes ``study.json`` of a study that never took place.

    Args:
        folder: Made if it is missing.
        trials: How many. Trials 5 and 17 failed, trial 11 collapsed, every fourth that is weak
            was pruned.
        front: With two objectives: the mean against trainable parameters.

    Returns:
        The folder.
    """
    noise = random.Random(0)
    drawn = [_trial(number, noise, front) for number in range(trials)]
    finished = [trial for trial in drawn if trial["state"] == "finished"]
    finished.sort(key=lambda trial: -trial["objectives"][0])
    best: list[int] = []
    smallest = math.inf
    for trial in finished:
        size = trial["objectives"][-1] if front else 0.0
        if size < smallest:
            best.append(trial["number"])
            smallest = size
    objectives = [{"name": "mean", "title": "development mean", "direction": "maximize"}]
    if front:
        title = "trainable parameters"
        objectives.append({"name": "parameters", "title": title, "direction": "minimize"})
    shares = zip(_SPACE, (0.82, 0.1, 0.06, 0.02), strict=True)
    study = {
        "format": 1,
        "name": "glue-peml",
        "model": "minilm",
        "method": "peml",
        "device": "cpu (2 threads)",
        "versions": {"peml": "0.1.0", "torch": "2.13.0"},
        "commit": "0123abc",
        "objectives": objectives,
        "sampler": {"name": "tpe", "seed": 0, "startup": 10},
        "pruner": {"name": "none" if front else "hyperband", "reduction": 3, "least": 0.1},
        "budget": {"trials": trials, "hours": None, "tokens": None},
        "space": _SPACE,
        "trials": drawn,
        "best": best,
        "importance": dict(shares) if len(finished) > 3 else {},
        "cost": {
            "trials": trials,
            "seconds": sum(trial["seconds"] for trial in drawn),
            "tokens": sum(trial["tokens"] for trial in drawn),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study, indent=2) + "\n", encoding="utf-8")
    return folder


def _trial(number: int, noise: random.Random, front: bool) -> dict[str, Any]:
    rate, rank = 10 ** noise.uniform(-4, -1), noise.choice([4, 8, 16])
    width, schedule = noise.randint(32, 96), noise.choice(["linear", "cosine"])
    mean = 0.81 - 0.05 * (math.log10(rate) + 2.3) ** 2 + 0.001 * rank + noise.gauss(0, 0.006)
    mean = 0.35 if number == _COLLAPSED else mean
    state = "failed" if number in _FAILED else "finished"
    if state == "finished" and not front and number % 4 == 3 and mean < 0.8:
        state = "pruned"
    whole = state == "finished"
    objectives = [] if state == "failed" else [mean]
    size = 20_000 * rank + 3_000 * width
    return {
        "number": number,
        "state": state,
        "objectives": [*objectives, float(size)] if front and whole else objectives,
        "values": dict(zip(_SPACE, (rate, rank, width, schedule), strict=True)),
        "seconds": 60.0 if whole else 20.0,
        "tokens": 230_000 if whole else 80_000,
        "parameters": size if whole else None,
        "reports": {},
        "reason": _DIVERGED if state == "failed" else "",
        "folder": f"trials/{number:04}",
    }
