"""A finished encoder run in onnxruntime against PyTorch: latency of one row, and its predictions.

    peml fit examples/demo.yaml --output runs/demo
    python benchmarks/onnx_latency.py runs/demo [--rounds 200] [--json FILE]

Rows are the run's reported ones, one a batch, in turn by both. Predictions of all reported rows are
compared with those that the run stored, for ``onnx`` and ``onnx-int8``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from common import Figure, at_least, describe_machine, plain_parser, ratio_of_medians, report
from onnxruntime import InferenceSession, SessionOptions

from peml.data import Collator
from peml.data.batching import evaluation_batches
from peml.data.encoding import encode_rows
from peml.export import check_export, export_model
from peml.models.families import EncoderFamily
from peml.models.heads import TaskHeads
from peml.run.finished import load_finished, read_examples
from peml.run.verification import against_predictions
from peml.serving import Predictor, load

TARGET = 1.5


def batches_of(run: Path, model: Predictor, rounds: int) -> list[Any]:
    """Reported rows of all tasks but multiple choice, one a batch."""
    found: list[Any] = []
    for number, task in enumerate(model.tasks):
        if task.type.has_own_options:
            continue
        kept = load_finished(run, task.name).predictions[task.name]
        rows = kept.rows[: rounds // len(model.tasks) + 1]
        examples = [pair[1] for pair in read_examples(run, kept, rows, task).values()]
        collate = Collator(model.base.family.tokenizer.pad_token_id)
        for example in examples:
            split = encode_rows([example], task, model.base.family, task.type.evaluated_as)
            found += evaluation_batches(split, number, 4096, collate)
    return found


@torch.inference_mode()
def latencies(model: Predictor, session: InferenceSession, batches: list[Any]) -> Any:
    """Seconds of each batch, with PyTorch and with onnxruntime."""
    names = [each.name for each in session.get_inputs()]
    base = model.base
    family, heads = cast(EncoderFamily, base.family), cast(TaskHeads, base.heads)
    torches, others = [], []
    for batch in batches:
        inputs = {name: getattr(batch, name).numpy() for name in names}
        since = time.perf_counter()
        family.logits(base.backbone, heads, batch, base.prompt.vectors)
        torches.append(time.perf_counter() - since)
        since = time.perf_counter()
        session.run(["logits"], inputs)
        others.append(time.perf_counter() - since)
    return torches, others


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished run of an encoder")
    parser.add_argument("--rounds", type=int, default=200, help="rows to measure")
    arguments = parser.parse_args(argv)
    figures = []
    with TemporaryDirectory() as scratch:
        for name in ("onnx", "onnx-int8"):
            out = Path(scratch, name)
            prove = against_predictions(arguments.run, rows=None)
            export_model(arguments.run, out, name, prove=prove)
            found = check_export(out)["predictions"]
            figures += [
                Figure(f"{name}: rows with the run's answer", found["same"], f"of {found['rows']}"),
                Figure(f"{name}: largest difference", found["largest_difference"], "of 1 + score"),
            ]
            options = SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = InferenceSession(out / "model.onnx", options)
            model = load(arguments.run, "cpu", dtype="float32").eval()
            batches = batches_of(arguments.run, model, arguments.rounds)
            latencies(model, session, batches[:20])
            torches, others = latencies(model, session, batches)
            ratio = ratio_of_medians(torches, others)
            milliseconds = 1000 * sorted(others)[len(others) // 2]
            figures += [
                at_least(f"{name}: PyTorch's time over its own", ratio.value, "x", TARGET),
                Figure(f"{name}: one row {ratio}", milliseconds, "ms"),
            ]
    report(f"ONNX, {describe_machine()}", figures, arguments)


if __name__ == "__main__":
    main()
