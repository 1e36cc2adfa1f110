"""How far a fresh prefix moves a model: quiet keys, zeros, and copies of real tokens.

For each model: the relative change of the hidden states before the head (norm of the difference
over the norm, real tokens only) on held-out text, with a prefix of 16. Only MiniLM is pretrained;
a random model has no common direction of queries for a quiet key to answer, so its figures are
shown without a target. For MiniLM also the relative change of a loss: the cross-entropy of linear
probes, fitted to plain features of two demo tasks, on held-out rows.

    python benchmarks/quiet_start.py [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import Figure, plain_parser, report
from sentences import SENTENCES
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from peml.injection.inject import PrefixInjection, attach_prefix
from peml.injection.quiet import measure_start
from peml.models.embedded import MINILM, embedded_model
from peml.prefix.prefix import Prefix
from peml.tasks import load_suite
from peml.tasks.generated import generate
from peml.testing.models import tiny_model, tiny_tokenizer

LENGTH = 16
TARGET = 0.02
LOSS_TARGET = 0.01
PROBED_TASKS = ("topics", "reviews")


@dataclass(frozen=True)
class Subject:
    """A model and its text, half of it to fit the keys to and half to measure on."""

    name: str
    model: PreTrainedModel
    fitted: dict[str, Tensor]
    held_out: dict[str, Tensor]
    pretrained: bool


def subjects() -> list[Subject]:
    """MiniLM, a tiny Llama and a tiny T5."""
    half = len(SENTENCES) // 2
    folder = embedded_model(MINILM)
    made = [
        ("minilm", AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), True),
        ("tiny-llama", tiny_model("llama", head="Model"), tiny_tokenizer("causal"), False),
        ("tiny-t5", tiny_model("t5", head="Model"), tiny_tokenizer("seq2seq"), False),
    ]
    found = []
    for name, model, tokenizer, pretrained in made:
        parts = [
            dict(tokenizer(list(texts), padding=True, return_tensors="pt"))
            for texts in (SENTENCES[:half], SENTENCES[half:])
        ]
        if name == "tiny-t5":
            for part in parts:
                part["decoder_input_ids"] = part["input_ids"]
                part["decoder_attention_mask"] = part["attention_mask"]
        found.append(Subject(name, model.eval(), parts[0], parts[1], pretrained))
    return found


@torch.no_grad()
def hidden(subject: Subject) -> Tensor:
    """Last hidden states at real tokens, (tokens, channels)."""
    states: Tensor = subject.model(**subject.held_out).last_hidden_state
    return states[subject.held_out["attention_mask"].bool()]


def real_tokens(injection: PrefixInjection, subject: Subject) -> Tensor:
    """Keys and values of the first real tokens of one row, as a prefix tensor."""
    shape = injection.shape
    tensor = torch.zeros(shape.layers, 2, shape.kv_heads, LENGTH, shape.head_dim)
    # The longest row has no padding in front of its sixteenth token.
    row = int(subject.fitted["attention_mask"].sum(-1).argmax())

    def copy(layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        tensor[layer, 0] = key[row, :, :LENGTH]
        tensor[layer, 1] = value[row, :, :LENGTH]

    injection.observer = copy
    with torch.no_grad():
        subject.model(**subject.fitted)
    injection.observer = None
    return tensor


def measure(subject: Subject) -> list[Figure]:
    """Relative change for each kind of start."""
    injection = attach_prefix(subject.model)
    plain = hidden(subject)

    def change(tensor: Tensor) -> float:
        injection.set(Prefix(tensor, (True,) * injection.shape.layers))
        moved = float((hidden(subject) - plain).norm() / plain.norm())
        injection.set(None)
        return moved

    figures = []
    for quietness in (4.0, 8.0, 16.0):
        run: Callable[[], Any] = lambda: subject.model(**subject.fitted)  # noqa: E731
        start = measure_start(injection, run, quietness=quietness)
        quiet = torch.zeros_like(real_tokens(injection, subject))
        quiet[:, 0] = start.keys[:, :, None]
        name, value = f"{subject.name}: quiet keys, c = {quietness:g}", change(quiet)
        if subject.pretrained:
            figures.append(Figure(name, value, "relative", f"< {TARGET}", value < TARGET))
        else:
            figures.append(Figure(name, value, "relative"))
    copied = real_tokens(injection, subject)
    figures.append(
        Figure(f"{subject.name}: all zero", change(torch.zeros_like(copied)), "relative")
    )
    figures.append(Figure(f"{subject.name}: copied real tokens", change(copied), "relative"))
    return figures


@torch.no_grad()
def probe_losses() -> list[Figure]:
    """Relative change of linear probes' losses when MiniLM gets a quiet prefix (c = 4)."""
    folder = embedded_model(MINILM)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    injection = attach_prefix(model.eval())

    def features(rows: list[dict[str, Any]], column: str) -> Any:
        batch = tokenizer([row[column] for row in rows], padding=True, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None]
        return ((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy()

    figures = []
    for task in load_suite("demo").tasks:
        if task.name not in PROBED_TASKS:
            continue
        splits, column = generate("demo", task.name), task.columns.inputs[0]
        train, held_out = splits["train"], splits["validation"]
        injection.set(None)
        probe = LogisticRegression(max_iter=1000)
        probe.fit(features(train, column), [row["label"] for row in train])
        gold = [row["label"] for row in held_out]
        plain = log_loss(gold, probe.predict_proba(features(held_out, column)))
        start = measure_start(injection, lambda: features(train[:64], column))  # noqa: B023
        tensor = start.keys[:, None, :, None].repeat(1, 2, 1, LENGTH, 1)
        tensor[:, 1] = 0
        injection.set(Prefix(tensor, (True,) * injection.shape.layers))
        moved = log_loss(gold, probe.predict_proba(features(held_out, column)))
        change = abs(moved - plain) / plain
        name = f"minilm: loss of a probe on {task.name}"
        figures.append(Figure(name, change, "relative", f"< {LOSS_TARGET}", change < LOSS_TARGET))
    return figures


def main() -> None:
    """Prints the table and writes the figures."""
    arguments = plain_parser(__doc__).parse_args()
    figures = [figure for subject in subjects() for figure in measure(subject)]
    report("Start (prefix of 16)", [*figures, *probe_losses()], arguments)


if __name__ == "__main__":
    main()
