"""An exported model in EleutherAI's lm-evaluation-harness against the run's model here.

A small random decoder with a random LoRA and prefix is exported with ``--format peft`` and scored
by the harness in a process of its own, through its Hugging Face backend, on tasks written here.
Every option's log-likelihood is then compared with the run's model's, row by row.

    pip install 'peml[harness]'
    python benchmarks/harness_agreement.py [--family NAME | --model FOLDER] [--dtype bfloat16]
        [--rows N] [--json FILE]

Our options share their contexts, as in a run's evaluation. Our families score per option with its
end token, the harness without one; the end token is left out of the comparison.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import Figure, at_most, plain_parser, report
from sentences import SENTENCES

from peml.errors import RunError
from peml.evaluation.scoring.options import score_requests
from peml.evaluation.scoring.requests import Request
from peml.evaluation.scoring.support import sharing_problem
from peml.export import export_model, load_model, save_model
from peml.injection.inject import injection_of
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.tasks import Task, TaskRenderer
from peml.testing import TINY_FAMILIES, save_tiny_model

Row = dict[str, Any]
Sample = Mapping[str, Any]
"""What the harness logs of one row."""
Samples = dict[str, list[Sample]]
"""By task."""

Scores = Sequence[Sequence[float]]
"""The log-likelihood of each option of each row."""

SHOTS = (0, 5)
LIMIT = 1e-3
"""Nats between two log-likelihoods of the same option; the harness's are float32 sums."""

# Room for five shots of long options.
_POSITIONS = 2048
_BATCH_TOKENS = 4096
_SIZE: dict[str, Any] = {"num_hidden_layers": 4, "max_position_embeddings": _POSITIONS}
_METHOD = {
    "name": "lora+prefix",
    "lora": {"r": 4},
    "network": "flat",
    "start": "text",
    "text": "Of the endings below only one makes sense. Read the beginning with care, and then "
    "choose the ending that is the most likely of them all.",
    "bounded": False,
    "length": 16,
}
TASK = Task.model_validate(
    {
        "name": "agreement",
        "type": "multiple-choice",
        "source": {"path": "data"},
        "columns": {"inputs": ["context"], "choices": "options", "label": "label"},
        "template": "{{ context }}",
        "metrics": ["accuracy"],
    }
)
# Both libraries read JSON as YAML.
_HARNESS_TASK = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "validation_split": "validation",
    "fewshot_split": "train",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}


def write_rows(rows: int, *, long: bool, seed: int) -> list[Row]:
    """Questions with three options, of one word or of a sentence or two each."""
    draw = random.Random(seed)
    made = []
    for _ in range(rows):
        first, *others = draw.sample(SENTENCES, 6)
        options = [f"{a} {b}" for a, b in zip(others[:3], others[2:5], strict=True)]
        options[draw.randrange(3)] = others[4]  # options of a row differ in length
        question = f"{first} Which sentence follows?\nAnswer:"
        if not long:
            options = draw.sample(["yes", "no", "maybe", "never", "always"], 3)
            question = f"{first} Is it so?\nAnswer:"
        made.append({"question": question, "options": options, "label": draw.randrange(3)})
    return made


def write_tasks(folder: Path, rows: int) -> list[str]:
    """Writes the harness's task files and their data; returns the tasks' names."""
    names = []
    for number, kind in enumerate(("short", "long")):
        files = {}
        for split, count in (("train", 12), ("validation", rows)):
            path = folder / f"{kind}-{split}.jsonl"
            seed = 2 * number + (split == "train")
            made = write_rows(count, long=kind == "long", seed=seed)
            path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
            files[split] = str(path)
        name = f"peml_agreement_{kind}"
        arguments = {"data_files": files, "cache_dir": str(folder / "cache")}
        task = {"task": name, **_HARNESS_TASK, "dataset_kwargs": arguments}
        (folder / f"{name}.yaml").write_text(json.dumps(task, indent=2), encoding="utf-8")
        names.append(name)
    return names


def make_run(
    folder: Path, family: str, *, base: Path | None = None, dtype: str = "float32"
) -> Path:
    """The final model of a run whose LoRA and prefix are random and large.

    Args:
        folder: Where the run goes.
        family: Of the tiny model.
        base: A model to use instead, which keeps more of what it knows.
        dtype: Of the frozen weights.
    """
    name = base or save_tiny_model(family, folder / "base", **_SIZE)
    settings = ModelSettings.model_validate(
        {"name": str(name), "max_length": _POSITIONS, "dtype": dtype}
    )
    model = TaskModel(load_backbone(settings), [TASK])
    ids = torch.arange(8, 72)[None]
    context = AttachContext(seed=0, calibrate=lambda: model.backbone(input_ids=ids))
    method = parse_method(_METHOD)
    attached = build_method(method).attach(model, context)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in attached.groups():
            for parameter in group.parameters:
                random = torch.randn(parameter.shape, generator=noise).to(parameter)
                parameter.add_(random, alpha=0.1 if base is None else 0.01)
    save_model(attached, folder / "run" / "model", method)
    return folder / "run"


def require_harness() -> None:
    """Asks for the harness before anything is measured.

    Raises:
        RunError: It isn't installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise RunError(
            "lm-evaluation-harness is not installed",
            allowed="the version that the extra `harness` pins",
            action="pip install 'peml[harness]', best into an environment of its own",
        )


def run_harness(
    exported: Path, tasks: Path, names: Sequence[str], shots: int, dtype: str = "float32"
) -> Samples:
    """What the harness logs of every row of every task.

    Args:
        exported: What ``peml export --format peft`` wrote.
        tasks: The folder of the task files; results go there as well.
        names: The tasks.
        shots: Solved examples in front of every question.
        dtype: Of the weights.

    Raises:
        RunError: It isn't installed, or it failed.
    """
    require_harness()
    results = tasks / f"results-{shots}"
    adapter = f"pretrained={exported},peft={exported / 'adapter'},dtype={dtype}"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", adapter]
    command += ["--tasks", ",".join(names), "--include_path", str(tasks), "--device", "cpu"]
    command += ["--num_fewshot", str(shots), "--batch_size", "8"]
    command += ["--log_samples", "--output_path", str(results)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tasks / "home")}
    ended = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RunError(
            f"the harness failed: {ended.stderr.strip()[-2000:]}",
            action="run it by hand: " + " ".join(command),
        )
    return {name: _read(next(results.rglob(f"samples_{name}_*.jsonl"))) for name in names}


def _read(path: Path) -> list[Sample]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def options_of(sample: Sample) -> list[tuple[str, str]]:
    """Context and continuation of each option, as the harness scored them."""
    return [(pair["arg_0"], pair["arg_1"]) for pair in sample["arguments"].values()]


def theirs(sample: Sample) -> list[float]:
    """The harness's log-likelihood of each option."""
    return [float(likelihood) for likelihood, _ in sample["filtered_resps"]]


def ours(model: TaskModel, samples: Sequence[Sample]) -> list[list[float]]:
    """The run's model's log-likelihood of each option of each row, end tokens left out."""
    requests: list[Request] = []
    for sample in samples:
        pairs = options_of(sample)
        options = [continuation.removeprefix(" ") for _, continuation in pairs]
        row = {"context": pairs[0][0], "options": options, "label": 0}
        example = TaskRenderer(TASK).render(row, 0)
        for sequence in model.family.encode(TASK, example, "score"):
            option = [token for token in sequence.labels or () if token != -100]
            context = sequence.input_ids[: len(sequence.input_ids) - len(option)]
            requests.append(Request(tuple(context), tuple(option[:-1]), 0))
    scores = iter(score_requests(model, requests, _BATCH_TOKENS).tolist())
    return [[next(scores) for _ in options_of(sample)] for sample in samples]


def compare(model: TaskModel, logged: Samples, shots: int) -> list[Figure]:
    """A task's largest difference, its predictions that differ, and what the prefix is worth."""
    injection = injection_of(model.backbone)
    if injection is None:
        raise TypeError("the run's model has no prefix")
    exact = model.backbone.dtype == torch.float32
    shares = sharing_problem(model, _POSITIONS) is None
    figures = [Figure(f"{shots}-shot: contexts shared (1: yes)", float(shares), "")]
    for task, samples in logged.items():
        mine, other = ours(model, samples), [*map(theirs, samples)]
        with injection.disabled():
            without = ours(model, samples)
        moved = float(
            sum(best_option(a) != best_option(b) for a, b in zip(mine, other, strict=True))
        )
        name = f"{task.rpartition('_')[2]}, {shots}-shot"
        figures += [
            _limited(f"{name}: difference", largest_difference(mine, other), "nats", LIMIT, exact),
            _limited(f"{name}: other predictions", moved, "rows", 0, exact),
            Figure(f"{name}: change by the prefix", largest_difference(mine, without), "nats"),
        ]
    return figures


def _limited(name: str, value: float, unit: str, limit: float, exact: bool) -> Figure:
    """A figure with its limit, which holds in float32; a coarser type is reported as it is."""
    return at_most(name, value, unit, limit) if exact else Figure(name, value, unit)


def largest_difference(some: Scores, others: Scores) -> float:
    """Between two sides' scores of the same options, in nats."""
    rows = zip(some, others, strict=True)
    return max(abs(a - b) for row in rows for a, b in zip(*row, strict=True))


def best_option(scores: Sequence[float]) -> int:
    """The option that is predicted."""
    return max(range(len(scores)), key=scores.__getitem__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports, runs the harness and prints the table."""
    parser = plain_parser(__doc__)
    parser.add_argument("--family", default="llama", choices=sorted(TINY_FAMILIES))
    parser.add_argument("--model", type=Path, help="folder of a decoder, instead of --family")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rows", type=int, default=50, help="rows of each task")
    parsed = parser.parse_args(arguments)
    figures = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder, parsed.family, base=parsed.model, dtype=parsed.dtype)
        out, _ = export_model(run, folder / "out", "peft")
        model = load_model(run / "model")
        tasks = folder / "tasks"
        tasks.mkdir()
        names = write_tasks(tasks, parsed.rows)
        for shots in SHOTS:
            logged = run_harness(out, tasks, names, shots, parsed.dtype)
            figures += compare(model, logged, shots)
    what = f"a tiny {parsed.family}" if parsed.model is None else parsed.model.name
    report(f"Harness against peml, {what}, {parsed.dtype}, {parsed.rows} rows", figures, parsed)


if __name__ == "__main__":
    main()
