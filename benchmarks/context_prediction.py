"""Prediction with a context of 500 positions, against the bare model on the same rows.

Rows of four tasks are mixed in a batch, each task with a context of its own. Sides take the same
batch in turn, without gradients: the base model by itself (`bare`); a merged model with its
contexts (`context`); and the base model with as many tokens in front of every row (`prompt`).

    python benchmarks/context_prediction.py [--model smollm2] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from common import CLOCKS, Figure, report
from context_step import build, compare, draw_batch, load_base, size_options

from peml.injection.contexts import Contexts
from peml.injection.inject import injection_of
from peml.models import TaskModel


def merged(arguments: argparse.Namespace) -> TaskModel:
    """A model with its static contexts, as one is loaded from a run's folder."""
    attached = build("frozen", arguments)
    held = attached.static_contexts()
    attached.merge()
    injection = injection_of(attached.base.backbone)
    assert injection is not None
    injection.set_contexts(Contexts(held, attached.base.routing.rows))
    return attached.base


def measure(arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of a forward pass on every side, interleaved."""
    models = {"bare": load_base(arguments, held=False), "context": merged(arguments)}
    if arguments.prompt:
        models["prompt"] = models["bare"]
    seconds: dict[str, list[float]] = {side: [] for side in models}
    clock, low = CLOCKS[arguments.clock], arguments.dtype == "bfloat16"
    for _ in range(arguments.rounds + 1):
        for side, model in models.items():
            before = arguments.positions if side == "prompt" else 0
            batch = draw_batch(arguments, heads=model.heads is not None, before=before)
            with (
                torch.inference_mode(),
                torch.autocast("cpu", dtype=torch.bfloat16) if low else nullcontext(),
            ):
                since = clock()
                model.eval()(batch)
                seconds[side].append(clock() - since)
    counted = {side: series[1:] for side, series in seconds.items()}  # the first warms up
    figures = [compare("prediction", counted, "context", "bare", 1.25)]
    if arguments.prompt:
        figures.append(compare("prediction", counted, "context", "prompt", 0.25))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = size_options(__doc__)
    parser.add_argument("--prompt", action=argparse.BooleanOptionalAction, default=True)
    parser.set_defaults(shown=0)
    arguments = parser.parse_args(argv)
    title = f"{arguments.model}, contexts of {arguments.positions}, {arguments.dtype}"
    report(title, measure(arguments), arguments)


if __name__ == "__main__":
    main()
