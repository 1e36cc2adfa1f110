"""Padding in training batches: PEML's, and random batches of 32 mixed rows.

python benchmarks/batching.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from common import Figure, at_most, benchmark_parser, load_mixture, mixture_name, report

from peml.data.batching import BatchStream
from peml.data.settings import BatchSettings
from peml.run.preparation import Prepared

TARGET = 0.10
ROWS = 32


def padding_of_batches(stream: BatchStream, epochs: int) -> float:
    """Padded over all tokens, counted in the tensors that training gets."""
    padded = real = 0
    for epoch in range(epochs):
        for numbers in stream.plan(epoch):
            mask = stream.fetch(numbers).attention_mask
            padded += mask.numel()
            real += int(mask.sum())
    return 1 - real / padded


def padding_of_random(prepared: Prepared, rows: int, epochs: int) -> float:
    """The same for random batches of so many rows of all tasks, padded to their longest."""
    lengths = np.concatenate([split.lengths for split in prepared.train])
    padded = 0
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(lengths)
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            padded += len(batch) * int(batch.max())
    return float(1 - epochs * lengths.sum() / padded)


def measure(prepared: Prepared, epochs: int) -> list[Figure]:
    """Padding of the example's batches, of the default ones, and of random ones."""
    example = prepared.stream.settings
    default = BatchSettings()
    figures = []
    for name, settings in (("the example's", example), ("default", default)):
        stream = BatchStream(prepared.train, settings, prepared.stream.collate, seed=0)
        label = f"padding, {name} batches ({settings.tokens} tokens, {settings.rows} rows)"
        figures.append(at_most(label, padding_of_batches(stream, epochs), "share", TARGET))
    random = padding_of_random(prepared, ROWS, epochs)
    figures.append(Figure(f"padding, random batches of {ROWS} mixed rows", random, "share"))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=3, help="epochs that are counted")
    arguments = parser.parse_args(argv)
    prepared = load_mixture(arguments)
    report(f"Padding, {mixture_name(arguments)}", measure(prepared, arguments.epochs), arguments)


if __name__ == "__main__":
    main()
