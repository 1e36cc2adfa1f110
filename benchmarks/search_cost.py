"""What a search costs: search and training together against plain LoRA for as many steps.

Each round runs one step (forward, backward, optimizer) of every contender on the same batch, in a
new order; compared are medians over rounds. A bilevel search takes turns: its steps with a held-out
batch come every few steps, so its step is the weighted mean of both kinds. A run is its search's
share of search steps, all as dear as those in which the decisions move, and otherwise steps of LoRA
with the found prefix. LoRA is this project's; ``step_time.py`` compares it with PEFT's alone.

    python benchmarks/search_cost.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from common import (
    CLOCKS,
    Figure,
    at_most,
    benchmark_parser,
    load_mixture,
    mixture_name,
    ratio_of_medians,
    report,
)
from step_time import Step, bucket_batch, full_batch, peml_step, time_rounds, training_step

from peml.data import TaskBatch
from peml.methods.base import AttachContext
from peml.methods.peml import Peml
from peml.methods.settings import PemlSettings
from peml.models import TaskModel, load_backbone
from peml.run.preparation import Prepared
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings

SEARCHES: dict[str, tuple[dict[str, Any], float]] = {
    "single-level": ({}, 1.15),
    "bilevel every 4": ({"optimise": "bilevel", "every": 4}, 1.35),
    "sampled path": ({"relaxation": "sampled-path"}, 1.15),
    "sampled path, bilevel every 4": (
        {"relaxation": "sampled-path", "optimise": "bilevel", "every": 4},
        1.35,
    ),
}
"""Name: what differs from the default search, and the ratio it may reach."""

_STEPS = 4_000_000  # the search's middle lasts as long as anyone measures


class _SameBatch:
    """Held-out rows of the size of a training batch."""

    def __init__(self, model: Any, batch: TaskBatch) -> None:
        self._model = model
        self._batch = batch

    def loss(self, draw: int) -> torch.Tensor:
        loss: torch.Tensor = self._model.train()(self._batch).loss
        return loss

    def measure(self, batches: int) -> float:
        raise NotImplementedError("nothing is scored in the middle of a search")


def search_step(prepared: Prepared, options: Mapping[str, Any], batch: TaskBatch) -> list[Step]:
    """The kinds of step of a search: the common one, and one in which a held-out batch is due."""
    base = TaskModel(load_backbone(prepared.config.model, prepared.family), prepared.tasks)
    settings = PemlSettings.model_validate({"search": {"warmup": 0.1, **options}})
    context = AttachContext(seed=0, calibrate=lambda: base(batch))
    model = Peml(settings).attach(base, context).train()
    optimizer = build_optimizer(model.groups(), TrainingSettings())
    trained = training_step(lambda batch: model(batch).loss, optimizer, "fp32")
    search = model.search
    assert search is not None
    search.begin(_STEPS, _SameBatch(model, batch))
    every = settings.search.every if settings.search.optimise == "bilevel" else 1
    counts = [0, 0]
    middle = _STEPS // 2 - (_STEPS // 2 - _STEPS // 10) % every  # a step that is due

    def kind(offset: int) -> Step:
        def step(batch: TaskBatch) -> None:
            search.before_step(middle + every * counts[offset] + offset)
            counts[offset] += 1
            trained(batch)

        return step

    return [kind(0)] if every == 1 else [kind(1), kind(0)]


def measure(prepared: Prepared, batch: TaskBatch, arguments: argparse.Namespace) -> list[Figure]:
    """Ratios of one batch."""
    steps: dict[str, Step] = {
        kind: peml_step(prepared, kind, batch, "fp32") for kind in ("LoRA", "LoRA + prefix")
    }
    for name, (options, _) in SEARCHES.items():
        for number, step in enumerate(search_step(prepared, options, batch)):
            steps[f"{name}/{number}"] = step
    clock = CLOCKS[arguments.clock]
    seconds = time_rounds(steps, batch, arguments.rounds, 2, clock)
    share = PemlSettings().search.share
    rows, length = batch.input_ids.shape
    figures = []
    for name, (options, limit) in SEARCHES.items():
        common = seconds[f"{name}/0"]
        every = options.get("every", 1)
        due = seconds.get(f"{name}/1", common)
        searching = [(due[i] + (every - 1) * common[i]) / every for i in range(len(common))]
        run = [
            share * one + (1 - share) * other
            for one, other in zip(searching, seconds["LoRA + prefix"], strict=True)
        ]
        for what, series, target in (("search", searching, None), ("search + train", run, limit)):
            ratio = ratio_of_medians(series, seconds["LoRA"])
            unit = f"ratio, 95 % in [{ratio.low:.3f}, {ratio.high:.3f}]"
            label = f"{name}: {what} / LoRA, {rows} x {length} tokens"
            figures.append(
                Figure(label, ratio.value, unit)
                if target is None
                else at_most(label, ratio.value, unit, target)
            )
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rows", type=int, default=32, help="rows of the full batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of its rows")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each contender")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    arguments = parser.parse_args(argv)
    prepared = load_mixture(arguments, "batches.rows=32")
    batches = (full_batch(prepared, arguments.rows, arguments.length), bucket_batch(prepared))
    figures = [figure for batch in batches for figure in measure(prepared, batch, arguments)]
    title = f"Search and training against LoRA for as many steps, {mixture_name(arguments)}"
    report(title, figures, arguments)


if __name__ == "__main__":
    main()
