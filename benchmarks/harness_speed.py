"""Scoring options in EleutherAI's lm-evaluation-harness and here: seconds, memory, agreement.

The same model, rows and prompts on both sides: four long endings of one context (HellaSwag), and
four letters behind five examples (MMLU). The model is a random Llama (6 layers, 512 channels) with
MiniLM's vocabulary of 30,522. Both sides start from texts: the harness's Hugging Face backend
tokenises and batches as it does, our side as `peml evaluate` does. A batch holds the same tokens at
most: the harness's rows times the longest row. Memory is what a fresh process's peak rises by.

    pip install 'peml[harness]'
    python benchmarks/harness_speed.py --source FOLDER [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from common import CLOCKS, Figure, at_least, at_most, plain_parser, ratio_of_medians, report
from harness_agreement import (
    LIMIT,
    TASK,
    Scores,
    best_option,
    largest_difference,
    require_harness,
)
from option_scoring import ALLOCATOR, LETTERS, read_rows
from tokenizers import Tokenizer, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from peml.data.encoding import encode_rows
from peml.evaluation.scoring import ScoringSettings, score_options
from peml.models import Backbone, ModelSettings, TaskModel
from peml.models.embedded import MINILM, embedded_model
from peml.models.families import CausalFamily
from peml.run.cost import peak_memory
from peml.tasks import TaskRenderer

Question = tuple[str, list[str]]
"""A prompt and its options; a space stands between them."""
Side = Callable[[TaskModel, Sequence[Question], int], Scores]

TARGETS = {"long endings": 2.0, "five-shot letters": 4.0}
SHOTS = 5
_POSITIONS = 4096


def long_endings(arguments: argparse.Namespace) -> list[Question]:
    """HellaSwag's contexts with four endings."""
    path = arguments.source / "commonsense/hellaswag/validation.jsonl"
    return [(row["ctx"], row["endings"]) for row in read_rows(path, arguments.rows)]


def five_shot_letters(arguments: argparse.Namespace) -> list[Question]:
    """MMLU's questions of some subjects, behind the subject's five answered ones."""
    found: list[Question] = []
    for folder in sorted((arguments.source / "mmlu").iterdir())[: arguments.subjects]:
        shots = read_rows(folder / "dev.jsonl", SHOTS)
        solved = [f"{spelled(row)} {LETTERS[row['answer']]}\n\n" for row in shots]
        asked = read_rows(folder / "test.jsonl", arguments.rows // arguments.subjects)
        found += [("".join([*solved, spelled(row)]), list(LETTERS)) for row in asked]
    return found


def spelled(row: dict[str, Any]) -> str:
    """A question with its choices, up to the answer."""
    choices = "\n".join(f"{a}. {b}" for a, b in zip(LETTERS, row["choices"], strict=True))
    return f"{row['question']}\n{choices}\nAnswer:"


CASES = {"long endings": long_endings, "five-shot letters": five_shot_letters}


def read_tokenizer() -> PreTrainedTokenizerFast:
    """MiniLM's vocabulary, for a decoder: a start token in front, nothing behind."""
    backend = Tokenizer.from_file(str(embedded_model(MINILM) / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    start = ("[CLS]", backend.token_to_id("[CLS]"))
    backend.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[start])
    named = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def make_model() -> TaskModel:
    """The random Llama, with PEML's interface around it."""
    tokenizer = read_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).requires_grad_(False).eval()
    family = CausalFamily(tokenizer, max_length=_POSITIONS, pooling="mean")
    return TaskModel(Backbone(model, family, ModelSettings(name="random-llama")), [TASK])


def score_here(base: TaskModel, questions: Sequence[Question], rows: int) -> Scores:
    """As `peml evaluate` does, end tokens left out."""
    renderer = TaskRenderer(TASK)
    examples = [
        renderer.render({"context": context, "options": options, "label": 0}, number)
        for number, (context, options) in enumerate(questions)
    ]
    split = encode_rows(examples, TASK, base.family, "score")
    settings = ScoringSettings(end=False)
    tokens = rows * int(split.lengths.max())
    return [scores.tolist() for _, scores in score_options(base, split, 0, settings, tokens)]


def score_in_harness(base: TaskModel, questions: Sequence[Question], rows: int) -> Scores:
    """With the harness's Hugging Face backend, from its list of requests on."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = base.family.tokenizer
    harness = HFLM(base.backbone, tokenizer=tokenizer, batch_size=rows, device="cpu")
    requests = [
        Instance("loglikelihood", {}, (context, f" {option}"), number)
        for context, options in questions
        for number, option in enumerate(options)
    ]
    said = iter(harness.loglikelihood(requests, disable_tqdm=True))
    return [[next(said)[0] for _ in options] for _, options in questions]


SIDES: dict[str, Side] = {"harness": score_in_harness, "here": score_here}


def memory_of(case: str, side: str, arguments: argparse.Namespace) -> int:
    """Bytes a process's peak rises by while it scores; run in a fresh one."""
    base, questions = make_model(), CASES[case](arguments)
    SIDES[side](base, questions[:1], 1)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = peak_memory()
    SIDES[side](base, questions, arguments.batch)
    return peak_memory() - before


def in_fresh_process(case: str, side: str, arguments: argparse.Namespace) -> int:
    """`memory_of`, out of reach of what was measured before."""
    command = [sys.executable, __file__, "--memory-of", case, side]
    for name in ("source", "rows", "subjects", "batch"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | ALLOCATOR
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(run.stdout.splitlines()[-1])


def compare(case: str, base: TaskModel, arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of both sides in turn, agreement of their scores, memory."""
    questions = CASES[case](arguments)
    clock = CLOCKS[arguments.clock]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    scores: dict[str, Scores] = {}
    for number in range(arguments.rounds + 1):
        for side, score in SIDES.items():
            since = clock()
            # The first round warms up.
            scores[side] = score(base, questions if number else questions[:1], arguments.batch)
            if number:
                seconds[side].append(clock() - since)
    ratio = ratio_of_medians(seconds["harness"], seconds["here"])
    interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    other = sum(
        best_option(a) != best_option(b)
        for a, b in zip(scores["harness"], scores["here"], strict=True)
    )
    apart = largest_difference(scores["harness"], scores["here"])
    name = f"{case}: harness / here, seconds {interval}"
    figures = [
        at_least(name, ratio.value, "ratio", TARGETS[case]),
        at_most(f"{case}: largest difference of a log-likelihood", apart, "nats", LIMIT),
        at_most(f"{case}: other predictions", float(other), "rows", 0),
    ]
    if arguments.memory:
        theirs, ours = (in_fresh_process(case, side, arguments) for side in SIDES)
        name = f"{case}: here / harness, peak memory ({theirs / 2**20:.0f} MiB harness)"
        figures.append(at_most(name, ours / theirs, "ratio", 1.0))
    return figures


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = plain_parser(__doc__)
    data = os.environ.get("PEML_DATA")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(data) if data else None,
        required=not data,
        help="folder with commonsense/hellaswag and mmlu; default: PEML_DATA",
    )
    parser.add_argument("--rows", type=int, default=48, help="questions of each kind")
    parser.add_argument("--subjects", type=int, default=2, help="MMLU subjects they are from")
    parser.add_argument("--batch", type=int, default=8, help="rows of the harness's batch")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="measure it (Linux)"
    )
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    arguments = build_parser().parse_args(argv)
    require_harness()
    logging.set_verbosity_error()
    getLogger("lm_eval").setLevel("ERROR")
    if arguments.memory_of is not None:
        case, side = arguments.memory_of
        print(memory_of(case, side, arguments))
        return
    base = make_model()
    figures = [figure for name in CASES for figure in compare(name, base, arguments)]
    report(
        f"lm-evaluation-harness against peml, {arguments.batch} rows per batch", figures, arguments
    )


if __name__ == "__main__":
    main()
