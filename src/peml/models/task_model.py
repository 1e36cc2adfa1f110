"""A frozen backbone and its heads behind one forward pass."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.distributed import ALONE
from peml.errors import ModelError
from peml.models.families import Family, ModelOutput
from peml.models.families.stopping import Limits
from peml.models.loading import Backbone
from peml.models.prompt import InputPrompt, packed_rows
from peml.models.routing import TaskRouting
from peml.models.sharding import SharedPasses, is_sharded
from peml.tasks import Task

_SHOWN = 5


class TaskModel(nn.Module):
    """Computes losses and predictions for batches of many tasks, for any family.

    ``seed`` is that of the heads' initial weights.

    Attributes:
        world: The processes that train and evaluate it together.
        sharing: By tested setting, why options can't share contexts, or None; see
            `peml.evaluation`.
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], *, seed: int = 0) -> None:
        super().__init__()
        self.backbone: Any = backbone.model
        self.family: Family = backbone.family
        self.settings = backbone.settings
        self.tasks = tuple(tasks)
        self.world = ALONE
        self.routing = TaskRouting(len(self.tasks))
        self.prompt = InputPrompt()
        self.sharing: dict[str, str | None] = {}
        self._passes: SharedPasses | None = None
        if is_sharded(self.backbone):
            self._passes = SharedPasses(self.backbone, self._pass_idly)
        generator = torch.Generator().manual_seed(seed)
        self.heads = self.family.build_heads(self.tasks, self.backbone, generator)

    @property
    def device(self) -> torch.device:
        """The device of the backbone's weights."""
        device: torch.device = next(self.backbone.parameters()).device
        return device

    @property
    def not_finite_advice(self) -> str:
        """What to do if the model's output is NaN or infinite, for error messages."""
        if self.settings.dtype == "float16":
            return (
                "set model.dtype to bfloat16 or float32 in a new run: float16 overflows above "
                "65504, as many models' activations do"
            )
        return (
            f"model.dtype is {self.settings.dtype}, whose range is wide enough: look for NaN in "
            "the base model's own weights, and for learning rates that were too high"
        )

    def not_finite(self, what: str, task: Task, rows: Sequence[int]) -> ModelError:
        """The error for rows of a task with NaN or infinite ``scores`` or ``logits``."""
        named = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
        count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
        return ModelError(
            f"Task {task.name!r}: the model's {what} are NaN or infinite on {count} (from 0): "
            f"{named}",
            allowed="finite numbers",
            action=self.not_finite_advice,
        )

    def forward(self, batch: TaskBatch) -> ModelOutput:
        """Losses and scores of a batch that may mix tasks."""
        self._route(batch)
        output = self.family.forward(self.backbone, self.heads, batch, self.prompt.vectors)
        return output if batch.weights is None else output.weighted(batch.weights)

    def divided(self) -> AbstractContextManager[None]:
        """Wraps forward passes that are divided among the processes, of which some have fewer."""
        return nullcontext() if self._passes is None else self._passes.uneven()

    @torch.no_grad()
    def _pass_idly(self) -> None:
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self.routing.set(token[0])
        self.backbone(input_ids=token, attention_mask=torch.ones_like(token))

    def predict(self, output: ModelOutput, batch: TaskBatch, task_id: int) -> Tensor:
        """Option scores, (examples, options), or regression scores, (examples,), of one task."""
        task = self.tasks[task_id]
        return self.family.predict(output, self.heads, batch, task, task_id)

    def generate(self, batch: TaskBatch, **limits: Unpack[Limits]) -> list[str | None]:
        """Generated texts of a batch of prompts; arguments and result as for `Family.generate`."""
        self._route(batch)
        return self.family.generate(self.backbone, batch, self.prompt.vectors, **limits)

    def _route(self, batch: TaskBatch) -> None:
        """Sets the task of each row for routed layers."""
        mask, prompt = batch.attention_mask, self.prompt.vectors
        if prompt is not None:
            mask = torch.cat([mask.new_ones(len(mask), len(prompt)), mask], 1)
        targets = None
        if self.backbone.config.is_encoder_decoder and batch.labels is not None:
            targets = (batch.labels >= 0).to(mask.dtype)
        present = None if batch.facts is None else batch.facts.task_rows.keys()
        packed = packed_rows(batch, prompt)
        self.routing.set(
            batch.task_ids, present=present, inputs=mask, targets=targets, packed=packed
        )
