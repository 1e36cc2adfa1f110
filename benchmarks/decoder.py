"""A decoder's training and evaluation: speed and memory against what one would use without PEML.

SmolLM2 in bfloat16 on the rows of GLUE. In training the rival is Transformers' Trainer with PEFT's
LoRA: `bf16=True`, weights in bfloat16, random batches, which is its default. In evaluation it is
EleutherAI's lm-evaluation-harness, with the same prompts. Each part stands alone:

    pip install 'peml[lm,harness]'
    python benchmarks/decoder.py [rates steps memory] [--source FOLDER] [--json FILE]

Peak memory is a process's own, with libraries and weights. The allocator is told to give large
blocks back at once, on both sides.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from logging import getLogger

from common import (
    CLOCKS,
    Figure,
    at_most,
    benchmark_parser,
    final_genotype,
    load_mixture,
    mixture_name,
    ratio_of_medians,
    report,
)
from harness_agreement import require_harness
from option_scoring import ALLOCATOR
from race import RIVAL, Ours, Rival, decoder_rival, race
from step_time import bucket_batch, peml_step, time_rounds

from peml.evaluation.evaluate import score_split
from peml.models import load_backbone
from peml.run.cost import peak_memory
from peml.run.preparation import Prepared
from peml.tasks import TaskRenderer

SPEED = 2.5
STEPS = {"LoRA + supernet": 1.10, "LoRA + prefix": 1.05}
MEMORY = {"training": 0.6, "evaluation": 0.5}
SIDES = {"PEML, lora": "lora", "PEML, peml in search": "peml", "PEML, peml after search": "fixed"}
HARNESS = "lm-evaluation-harness"


def mixture(arguments: argparse.Namespace, *overrides: str) -> Prepared:
    """The rows, in bfloat16 and batches of the given rows."""
    return load_mixture(
        arguments,
        "model.dtype=bfloat16",
        "training.precision=bf16",
        f"batches.rows={arguments.rows}",
        *overrides,
    )


def build_ours(arguments: argparse.Namespace, side: str, total_steps: int, *more: str) -> Ours:
    """One PEML side, by a value of ``SIDES``: ``fixed`` has the prefix that a search leaves."""
    method = "lora" if side == "lora" else "peml"
    prepared = mixture(arguments, f"method={{name: {method}}}", *more)
    return Ours(prepared, total_steps, final_genotype(prepared) if side == "fixed" else None)


def build_rival(arguments: argparse.Namespace) -> Rival:
    """The Trainer's side, from the same weights and rows."""
    prepared = mixture(arguments)
    model = load_backbone(prepared.config.model, prepared.family).model
    options = {"bf16": True, "use_cpu": True, "train_sampling_strategy": arguments.sampling}
    return decoder_rival(prepared, model, arguments.rows, **options)


def measure_rates(arguments: argparse.Namespace) -> list[Figure]:
    """Real tokens per second of training, all sides in turn."""
    steps = (arguments.segments + 1) * arguments.steps * arguments.more
    return race(
        {name: build_ours(arguments, side, steps) for name, side in SIDES.items()},
        build_rival(arguments),
        segments=arguments.segments,
        steps=arguments.steps,
        more=arguments.more,
        clock=CLOCKS[arguments.clock],
        target=SPEED,
    )


def measure_steps(arguments: argparse.Namespace) -> list[Figure]:
    """Steps of the searching and of the found prefix against our own LoRA's, on one batch."""
    prepared = mixture(arguments)
    batch = bucket_batch(prepared)
    steps = {kind: peml_step(prepared, kind, batch, "bf16") for kind in ("LoRA", *STEPS)}
    seconds = time_rounds(steps, batch, arguments.rounds, 2, CLOCKS[arguments.clock])
    rows, length = batch.input_ids.shape
    figures = []
    for kind, limit in STEPS.items():
        ratio = ratio_of_medians(seconds[kind], seconds["LoRA"])
        unit = f"ratio, 95 % in [{ratio.low:.3f}, {ratio.high:.3f}]"
        name = f"{kind} / LoRA, {rows} x {length} tokens"
        figures.append(at_most(name, ratio.value, unit, limit))
    return figures


def train_rival(arguments: argparse.Namespace) -> Callable[[], object]:
    """Some steps of the Trainer."""
    rival, steps = build_rival(arguments), arguments.memory_steps
    return lambda: rival.train(steps, steps, CLOCKS["wall"], lambda counted: None)


def train_ours(arguments: argparse.Namespace) -> Callable[[], object]:
    """Some steps of PEML, searching, which takes most."""
    steps = arguments.memory_steps
    ours = build_ours(arguments, "peml", steps)
    return lambda: ours.train(steps)


def evaluate_harness(arguments: argparse.Namespace) -> Callable[[], object]:
    """Scores the reported rows' options in the harness, as many tokens in a batch as PEML."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    getLogger("lm_eval").setLevel("ERROR")
    prepared = mixture(arguments, f"tasks.evaluation_rows={arguments.evaluation_rows}")
    longest = max(int(split.encoded.lengths.max()) for split in prepared.reported)
    harness = HFLM(
        load_backbone(prepared.config.model, prepared.family).model,
        tokenizer=prepared.family.tokenizer,
        batch_size=prepared.config.evaluation.tokens // longest,
        device="cpu",
    )
    requests = []
    for split in prepared.reported:
        render = TaskRenderer(prepared.tasks[split.task_id]).render
        for number, row in enumerate(prepared.loaded.data[split.task_id].reported):
            example = render(row, number)
            pairs = [(example.prompt, f" {option}") for option in example.options]
            requests += [
                Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)
            ]
    return lambda: harness.loglikelihood(requests, disable_tqdm=True)


def evaluate_ours(arguments: argparse.Namespace) -> Callable[[], object]:
    """Scores the reported rows as a run does, with LoRA and prefix."""
    ours = build_ours(
        arguments, "fixed", 1, f"tasks.evaluation_rows={arguments.evaluation_rows}"
    ).loop
    prepared = mixture(arguments, f"tasks.evaluation_rows={arguments.evaluation_rows}")
    settings = prepared.config.evaluation
    return lambda: [score_split(ours.model, split, settings) for split in prepared.reported]


Work = Callable[[argparse.Namespace], Callable[[], object]]
WORK: dict[str, dict[str, Work]] = {
    "training": {RIVAL: train_rival, "PEML": train_ours},
    "evaluation": {HARNESS: evaluate_harness, "PEML": evaluate_ours},
}


def in_fresh_process(work: str, side: str, argv: Sequence[str]) -> int:
    """A process's peak memory in bytes, out of reach of what was measured before."""
    command = [sys.executable, __file__, *argv, "--memory-of", work, side]
    environment = os.environ | ALLOCATOR
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(run.stdout.splitlines()[-1])


def measure_memory(argv: Sequence[str]) -> list[Figure]:
    """Peaks of training and evaluation, each side in a process of its own."""
    figures, own = [], {}
    for work, sides in WORK.items():
        theirs, ours = (in_fresh_process(work, side, argv) for side in sides)
        rival, own[work] = next(iter(sides)), ours
        figures += [
            Figure(f"{rival}: peak memory in {work}", theirs / 2**20, "MiB"),
            Figure(f"PEML: peak memory in {work}", ours / 2**20, "MiB"),
            at_most(f"PEML / {rival}: peak memory in {work}", ours / theirs, "ratio", MEMORY[work]),
        ]
    ratio = own["evaluation"] / own["training"]
    return [*figures, at_most("PEML: peak memory, evaluation / training", ratio, "ratio", 1.0)]


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = benchmark_parser(__doc__)
    parser.set_defaults(model="smollm2")
    parts = ("rates", "steps", "memory")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="default: all three")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch, on both sides")
    parser.add_argument("--steps", type=int, default=2, help="the Trainer's steps in a segment")
    parser.add_argument("--more", type=int, default=3, help="PEML's steps for one of the Trainer's")
    parser.add_argument("--segments", type=int, default=6, help="segments that are counted")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind of prefix")
    parser.add_argument("--memory-steps", type=int, default=12, help="steps to find peaks in")
    parser.add_argument("--evaluation-rows", type=int, default=16, help="of each task, for memory")
    parser.add_argument(
        "--sampling",
        default="random",
        choices=("random", "group_by_length"),
        help="how the Trainer draws its batches; default: as it does by default",
    )
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    if arguments.memory_of is not None:
        work, side = arguments.memory_of
        WORK[work][side](arguments)()
        print(peak_memory())
        return
    parts = {
        "rates": lambda: measure_rates(arguments),
        "steps": lambda: measure_steps(arguments),
        "memory": lambda: measure_memory(argv),
    }
    chosen = arguments.parts or list(parts)
    if "memory" in chosen:
        require_harness()
    figures = [figure for part in chosen for figure in parts[part]()]
    report(f"{arguments.model} in bfloat16, {mixture_name(arguments)}", figures, arguments)


if __name__ == "__main__":
    main()
