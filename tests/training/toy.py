"""A tiny encoder with LoRA and heads, and everything that trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from peml.data import Collator
from peml.data.batching import BatchStream
from peml.data.encoding import encode_rows
from peml.data.settings import BatchSettings
from peml.distributed import ALONE, World
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.lora.lora import Lora
from peml.methods.lora.settings import LoraMethodSettings
from peml.models import TaskModel
from peml.records.metrics import Evaluation, Scores, StepRecord
from peml.training.balancing import build_balancing
from peml.training.loop import Phase, TrainingLoop
from peml.training.optimizer import build_optimizer
from peml.training.settings import TrainingSettings
from tests.models.tasks import examples, tiny_task_model
from tests.tasks.examples import score, sentiment

TASKS = (sentiment(), score())
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs")


def base(**config: Any) -> TaskModel:
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | config
    return tiny_task_model("bert", TASKS, **options)


def attached(model: TaskModel | None = None, **lora: Any) -> AttachedModel:
    settings = LoraMethodSettings.model_validate({"r": 2} | lora)
    return Lora(settings).attach(model or base(), AttachContext(seed=0, calibrate=lambda: None))


def rows(count: int) -> list[list[dict[str, Any]]]:
    texts = [" ".join(WORDS[n % 5 : n % 5 + 2 + n % 7]) for n in range(count)]
    return [
        [{"sentence": text, "label": n % 2} for n, text in enumerate(texts)],
        [{"first": t, "second": "a fox", "score": float(n % 6)} for n, t in enumerate(texts)],
    ]


def stream(model: TaskModel, count: int = 12, **batches: Any) -> BatchStream:
    splits = [
        encode_rows(examples(task, of_task), task, model.family, "train")
        for task, of_task in zip(TASKS, rows(count), strict=True)
    ]
    settings = BatchSettings.model_validate({"tokens": 4096, "rows": 4} | batches)
    return BatchStream(splits, settings, Collator(model.family.tokenizer.pad_token_id), seed=0)


@dataclass
class Recorder:
    """A listener that keeps what it is told."""

    steps: list[StepRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def on_checkpoint(self, phase: str) -> None:
        self.checkpoints.append(self.steps[-1].step)


@dataclass
class Toy:
    """One training set-up."""

    model: AttachedModel
    optimizer: torch.optim.AdamW
    stream: BatchStream
    loop: TrainingLoop
    recorder: Recorder

    def run(self, last: int, **phase: Any) -> None:
        self.loop.run(Phase("train", last, **phase))

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.trainable_state().items()}


def toy(
    *,
    total: int = 12,
    config: dict[str, Any] | None = None,
    batches: dict[str, Any] | None = None,
    count: int = 12,
    evaluate: Callable[[], dict[str, float]] = lambda: {"mood": 0.5},
    lora: dict[str, Any] | None = None,
    world: World = ALONE,
    **training: Any,
) -> Toy:
    torch.manual_seed(0)
    settings = TrainingSettings.model_validate({"warmup": 0.2, "log_every": 3} | training)
    model = attached(base(**(config or {})), **(lora or {}))
    model.base.world = world
    balancing = build_balancing(settings.balancing, [task.name for task in TASKS], seed=0)
    model.added["balancing"] = balancing
    optimizer = build_optimizer([*model.groups(), *balancing.groups()], settings)
    data = stream(model.base, count, **(batches or {}))
    recorder = Recorder()

    def scores() -> Scores:
        tasks = evaluate()
        return Scores(mean=sum(tasks.values()) / len(tasks), tasks=tasks)

    loop = TrainingLoop(
        model,
        optimizer,
        data,
        Accelerator(cpu=True),
        settings,
        balancing=balancing,
        total_steps=total,
        evaluate=scores,
        listener=recorder,
    )
    return Toy(model, optimizer, data, loop, recorder)
