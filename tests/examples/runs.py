"""A made-up run folder, for trying and testing what reads run folders."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

# name: (metric, rows, majority, prefix off, LoRA off, both on). One task is learnt by the prefix,
# one by LoRA alone, one not at all.
_TASKS: dict[str, tuple[str, int, float, float, float, float]] = {
    "cola": ("matthews", 1043, 0.0, 0.312, 0.104, 0.338),
    "sst2": ("accuracy", 872, 0.509, 0.874, 0.801, 0.881),
    "mrpc": ("f1", 408, 0.812, 0.851, 0.815, 0.872),
    "stsb": ("pearson", 1500, 0.0, 0.731, 0.642, 0.802),
    "qnli": ("accuracy", 5463, 0.505, 0.829, 0.612, 0.834),
    "rte": ("accuracy", 277, 0.527, 0.592, 0.549, 0.614),
    "wnli": ("accuracy", 71, 0.563, 0.563, 0.563, 0.563),
}
_OPERATIONS = (
    "skip",
    "linear",
    "mlp-tanh",
    "mlp-gelu",
    "gated-mlp",
    "conv",
    "self-attention",
    "min-gru",
)
_SEARCH, _TRAIN, _EVERY = 120, 300, 20
_FREE = 100  # steps until the cool-down


def write_example_run(folder: Path, *, search: bool = True, layers: int = 6) -> Path:
    """Writes the files of a finished run that never took place.

    Args:
        folder: Made if it is missing.
        search: True for method ``peml`` with a searched prefix, False for method ``lora``.
        layers: Attention layers of the model that is made up.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(0)
    genotype = _genotype(layers)
    lines = _steps(noise, search) + _development(noise, search)
    if search:
        lines += _decisions(noise, genotype)
        free = [line for line in lines if line["kind"] == "decisions" and line["step"] == _FREE]
        lines.append(_discretise(genotype, free[0]["weights"]))
        _write(folder / "genotype.json", genotype)
    lines.sort(key=lambda line: line["step"])
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "config.yaml").write_text(
        f"method:\n  name: {'peml' if search else 'lora'}\n  r: 8\n"
        "model:\n  name: minilm\nseed: 0\ntraining:\n  epochs: 3\n",
        encoding="utf-8",
    )
    _write(folder / "results.json", _results(search))
    _write(folder / "plan.json", _plan(search))
    _write(
        folder / "environment.json",
        {
            "versions": {"peml": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "device": "cpu (2 threads)",
            "commit": "0123abc",
            "python": "3.11.9",
        },
    )
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _phase(step: int, search: bool) -> str:
    return "search" if search and step <= _SEARCH else "train"


def _steps(noise: random.Random, search: bool) -> list[dict[str, Any]]:
    return [
        {
            "kind": "step",
            "phase": _phase(step, search),
            "step": step,
            "epoch": step // 140,
            "loss": 0.42 + 0.6 * math.exp(-step / 70) + noise.gauss(0, 0.05),
            "gradient_norm": 1.0 + abs(noise.gauss(0, 0.2)),
            "learning_rates": {"lora": 3e-4},
            "task_losses": {},
            "task_rows": {name: 4 + place for place, name in enumerate(_TASKS)},
        }
        for step in range(1, _TRAIN + _SEARCH * search + 1)
    ]


def _development(noise: random.Random, search: bool) -> list[dict[str, Any]]:
    lines = []
    for step in range(_EVERY, _TRAIN + _SEARCH * search + 1, _EVERY):
        grown = 1 - math.exp(-step / 90)
        tasks = {
            name: majority + (value - majority) * grown + noise.gauss(0, 0.008)
            for name, (_, _, majority, _, _, value) in _TASKS.items()
        }
        lines.append(
            {
                "kind": "development",
                "phase": _phase(step, search),
                "step": step,
                "mean": sum(tasks.values()) / len(tasks),
                "tasks": tasks,
            }
        )
    return lines


def _genotype(layers: int) -> dict[str, Any]:
    return {
        "format": 1,
        "cells": ["gated-mlp", "conv", "mlp-tanh"],
        "length": 16,
        "layers": [index % 3 != 1 for index in range(layers)],
        "head": "low-rank",
        "head_rank": 16,
        "width": 64,
        "radius": 1.0,
        "shape": {"layers": layers, "kv_heads": 12, "head_dim": 32},
        "found_by": {"relaxation": "gumbel", "seed": 0},
    }


def _decisions(noise: random.Random, genotype: dict[str, Any]) -> list[dict[str, Any]]:
    options: dict[str, tuple[tuple[str, ...], str]] = {
        **{f"cell.{i}": (_OPERATIONS, name) for i, name in enumerate(genotype["cells"])},
        "length": (("4", "8", "16"), str(genotype["length"])),
        "head": (("full", "low-rank"), genotype["head"]),
        **{
            f"layer.{i}": (("off", "on"), "on" if active else "off")
            for i, active in enumerate(genotype["layers"])
        },
    }
    pull = {name: {o: noise.gauss(0, 1.0) for o in opts} for name, (opts, _) in options.items()}
    for name, (_, chosen) in options.items():
        pull[name][chosen] = 3.0
    pull["cell.1"]["skip"] = 3.4  # here the guard has to step in
    pull["length"] = {"4": 0.0, "8": 3.0, "16": 3.1}  # as good as equal
    lines = []
    for step in range(5, _SEARCH + 1, 5):
        weights = {}
        hardness = max(0, step - _FREE) / (_SEARCH - _FREE)
        for name, (names, chosen) in options.items():
            logits = {o: pull[name][o] * 1.6 * (min(step, _FREE) / _FREE) ** 2 for o in names}
            total = sum(math.exp(logit) for logit in logits.values())
            weights[name] = {
                o: (1 - hardness) * math.exp(logit) / total + hardness * (o == chosen)
                for o, logit in logits.items()
            }
        lines.append(
            {
                "kind": "decisions",
                "phase": "search",
                "step": step,
                "temperature": 1.0 - 0.8 * step / _SEARCH,
                "weights": weights,
            }
        )
    return lines


def _discretise(genotype: dict[str, Any], free: dict[str, dict[str, float]]) -> dict[str, Any]:
    choices = {f"cell.{i}": name for i, name in enumerate(genotype["cells"])}
    choices |= {"length": str(genotype["length"]), "head": genotype["head"]}
    choices |= {f"layer.{i}": "on" if on else "off" for i, on in enumerate(genotype["layers"])}
    soft = {name: value - 0.05 for name, (*_, value) in _TASKS.items()}
    hard = {name: value - 0.004 for name, value in soft.items()}
    means = [sum(scores.values()) / len(scores) for scores in (soft, hard)]
    return {
        "kind": "discretise",
        "step": _SEARCH,
        "soft": {"mean": means[0], "tasks": soft},
        "hard": {"mean": means[1], "tasks": hard},
        "gap": means[0] - means[1],
        "choices": choices,
        "guarded": ["cell.1"],
        "fitted": [],
        "free": {"step": _FREE, "weights": free, "by_weight": True},
    }


def _results(search: bool) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for name, (metric, rows, majority, prefix_off, lora_off, value) in _TASKS.items():
        tasks[name] = {
            "metric": metric,
            "value": value if search else prefix_off,
            "all": {metric: value if search else prefix_off},
            "majority": majority,
            "lora_off": lora_off,
            "rows": rows,
        }
        spread = 0.98 / math.sqrt(rows)
        tasks[name] |= {"low": tasks[name]["value"] - spread, "high": tasks[name]["value"] + spread}
        if search:
            tasks[name]["prefix_off"] = prefix_off
    tasks["sst2"]["classes"] = {
        "labels": ["negative", "positive"],
        "f1": [0.875, 0.885],
        "confusion": [[370, 58], [47, 397]],
    }
    tasks["mrpc"]["all"]["accuracy"] = 0.824

    def mean(key: str) -> float:
        return float(sum(task[key] for task in tasks.values()) / len(tasks))

    groups = {"lora": 1_327_104, "heads": 5_775}
    if search:
        groups |= {"prefix": 218_880, "architecture": 41}
    return {
        "format": 1,
        "method": "peml" if search else "lora",
        "model": "minilm",
        "seed": 0,
        "tasks": tasks,
        "mean": mean("value"),
        "low": mean("value") - 0.011,
        "high": mean("value") + 0.011,
        "majority_mean": mean("majority"),
        "ablation_means": {k: mean(k) for k in ("prefix_off", "lora_off") if search or k[0] == "l"},
        "export": {"rows": 24, "largest_difference": 3.4e-7, "tolerance": 1e-3},
        "cost": {
            "seconds": {**({"search": 141.2} if search else {}), "train": 326.5, "evaluate": 48.9},
            "tokens": {**({"search": 402_113} if search else {}), "train": 1_004_772},
            "steps": {**({"search": _SEARCH} if search else {}), "train": _TRAIN},
            "peak_memory_bytes": 1_912_602_624,
            "trainable_parameters": groups,
            "total_trainable_parameters": sum(groups.values()),
        },
    }


def _plan(search: bool) -> dict[str, Any]:
    types = {"stsb": "regression", "cola": "classification", "sst2": "classification"}
    return {
        "tasks": [
            {
                "name": name,
                "type": types.get(name, "pair-classification"),
                "train": 900,
                "development": 100,
                "reported": rows,
                "metric": metric,
                "cut": 3 if name == "qnli" else 0,
            }
            for name, (metric, rows, *_) in _TASKS.items()
        ],
        "skipped": [{"name": "headlines", "reason": "an encoder can't generate text"}],
        "leakage": [
            _leak("stsb", "reported", "mrpc", 118, _TASKS["stsb"][1]),
            _leak("mrpc", "development", "stsb", 7, 100),
        ],
        "leakage_action": "drop",
        "leakage_dropped": {"mrpc": 118, "stsb": 7},
        "trainable_parameters": _results(search)["cost"]["trainable_parameters"],
        "steps": {**({"search": _SEARCH} if search else {}), "train": _TRAIN},
        "batches_per_epoch": 140,
        "padding": 0.07,
        "identity": {"tasks": {}, "model": {}},
    }


def _leak(evaluation: str, split: str, train: str, rows: int, of: int) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "split": split,
        "train": train,
        "rows": rows,
        "evaluation_rows": of,
        "anywhere": rows,
    }
