"""Scoring options with shared contexts, against a sequence for each option.

Two kinds of rows: four long endings of one context (HellaSwag), and four letters after a question
behind five examples of its subject (MMLU). Both sides have the same token budget. The model is a
random Llama of 4 layers and 256 channels; tokens are hashed pieces of words, since only their
number and what is shared matter. Memory is what a fresh process's peak rises by while it scores.

    python benchmarks/option_scoring.py [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import CLOCKS, Figure, at_least, at_most, plain_parser, ratio_of_medians, report
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from peml.evaluation.scoring.options import score_requests
from peml.evaluation.scoring.requests import Request, score_alone
from peml.models import Backbone, ModelSettings, TaskModel
from peml.run.cost import peak_memory
from peml.testing import TINY_TASKS
from peml.testing.tasks import tiny_family

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc's settings: blocks from 64 KiB are mapped, and unmapped when they are freed."""
VOCABULARY = 8192
START, END = 1, 2
LETTERS = "ABCD"
TARGETS = {"long endings": 1.5, "five-shot letters": 4.0}

Side = Callable[[TaskModel, Sequence[Request], int], Tensor]
SIDES: dict[str, Side] = {"plain": score_alone, "shared": score_requests}


def small_llama() -> TaskModel:
    """The random model, with PEML's interface around it."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
    )
    model = LlamaForCausalLM(config).requires_grad_(False).eval()
    family = tiny_family("llama", max_length=4096)
    return TaskModel(Backbone(model, family, ModelSettings(name="random-llama")), TINY_TASKS)


def tokens_of(text: str) -> tuple[int, ...]:
    """Hashed pieces of words of at most six letters, about as many as a tokenizer makes."""
    pieces = re.findall(r"\w{1,6}|[^\w\s]", text)
    return tuple(10 + zlib.crc32(piece.encode()) % (VOCABULARY - 10) for piece in pieces)


def read_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def long_endings(source: Path | None, rows: int) -> list[Request]:
    """Four endings of each context, closed by the end of text."""
    if source is None:
        table = generated_endings(rows)
    else:
        table = [
            (tokens_of(row["ctx"]), [tokens_of(ending) for ending in row["endings"]])
            for row in read_rows(source / "commonsense/hellaswag/validation.jsonl", rows)
        ]
    return [
        Request((1, *context), (*ending, END), 0)
        for context, endings in table
        for ending in endings
    ]


def generated_endings(rows: int) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Random tokens of HellaSwag's lengths."""
    draw = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, VOCABULARY) for _ in range(count))

    return [
        (some(draw.randrange(15, 80)), [some(draw.randrange(10, 40)) for _ in range(4)])
        for _ in range(rows)
    ]


def five_shot_letters(source: Path | None, rows: int) -> list[Request]:
    """The letter of the answer, one token, after five answered questions of the same subject."""
    requests = []
    for examples, questions in subjects(source, rows):
        context = (START, *(token for example in examples for token in example))
        for question in questions:
            for letter in LETTERS:
                requests.append(Request((*context, *question), tokens_of(letter), 0))
    return requests


def subjects(
    source: Path | None, rows: int
) -> list[tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]:
    """Four subjects, each with five examples and its share of the questions."""
    each = max(1, rows // 4)
    if source is None:
        draw = random.Random(0)
        return [
            (
                [tuple(draw.choices(range(10, VOCABULARY), k=80)) for _ in range(5)],
                [
                    tuple(draw.choices(range(10, VOCABULARY), k=draw.randrange(40, 120)))
                    for _ in range(each)
                ],
            )
            for _ in range(4)
        ]
    found = []
    for folder in sorted((source / "mmlu").iterdir())[:4]:
        shots, asked = (
            read_rows(folder / f"{split}.jsonl", count)
            for split, count in (("dev", 5), ("test", each))
        )
        examples = [(*spelled(row), *tokens_of(LETTERS[row["answer"]])) for row in shots]
        found.append((examples, [spelled(row) for row in asked]))
    return found


def spelled(row: dict[str, Any]) -> tuple[int, ...]:
    """A question and its choices, up to the answer."""
    choices = "\n".join(f"{a}. {b}" for a, b in zip(LETTERS, row["choices"], strict=True))
    return tokens_of(f"{row['question']}\n{choices}\nAnswer:")


CASES = {"long endings": long_endings, "five-shot letters": five_shot_letters}


def memory_of(case: str, side: str, arguments: argparse.Namespace) -> int:
    """Bytes a process's peak rises by while it scores; run in a fresh one."""
    base = small_llama()
    requests = CASES[case](arguments.source, arguments.rows)
    SIDES[side](base, requests[:4], arguments.tokens)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_memory()
    SIDES[side](base, requests, arguments.tokens)
    return peak_memory() - before


def in_fresh_process(case: str, side: str, arguments: argparse.Namespace) -> int:
    """`memory_of`, out of reach of what was measured before."""
    command = [sys.executable, __file__, "--memory-of", case, side]
    command += ["--rows", str(arguments.rows), "--tokens", str(arguments.tokens)]
    if arguments.source is not None:
        command += ["--source", str(arguments.source)]
    environment = os.environ | ALLOCATOR
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(run.stdout)


def compare(case: str, base: TaskModel, arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of both sides in turn, the largest difference of their scores, memory."""
    requests = CASES[case](arguments.source, arguments.rows)
    clock = CLOCKS[arguments.clock]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    scores: dict[str, Tensor] = {}
    for number in range(arguments.rounds + 1):
        for side, score in SIDES.items():
            since = clock()
            scores[side] = score(base, requests, arguments.tokens)
            if number:  # the first round warms up
                seconds[side].append(clock() - since)
    ratio = ratio_of_medians(seconds["plain"], seconds["shared"])
    apart = float((scores["plain"] - scores["shared"]).abs().max())
    interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    figures = [
        at_least(
            f"{case}: plain / shared, seconds {interval}", ratio.value, "ratio", TARGETS[case]
        ),
        at_most(f"{case}: largest difference of a score", apart, "nats", 1e-4),
    ]
    if arguments.memory:
        plain, shared = (in_fresh_process(case, side, arguments) for side in SIDES)
        name = f"{case}: shared / plain, peak memory ({plain / 2**20:.0f} MiB plain)"
        figures.append(at_most(name, shared / plain, "ratio", 1.0))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = plain_parser(__doc__)
    data = os.environ.get("PEML_DATA")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(data) if data else None,
        help="folder with commonsense/hellaswag and mmlu; default: PEML_DATA, else random tokens",
    )
    parser.add_argument("--rows", type=int, default=16, help="questions of each kind")
    parser.add_argument("--tokens", type=int, default=8192, help="budget of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="measure it (Linux)"
    )
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.memory_of is not None:
        case, side = arguments.memory_of
        print(memory_of(case, side, arguments))
        return
    base = small_llama()
    figures = [figure for case in CASES for figure in compare(case, base, arguments)]
    rows = "random tokens (no --source given)" if arguments.source is None else "real rows"
    report(f"Option scoring, {rows}, {arguments.tokens:,} tokens a batch", figures, arguments)


if __name__ == "__main__":
    main()
