"""Config sections of contexts; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from peml.data.chosen import ENDINGS, read_chosen, take_chosen
from peml.errors import ConfigError, nearest
from peml.methods.base import MethodSettings
from peml.methods.lora.settings import LoraSettings
from peml.methods.prefix.settings import attention_shape
from peml.settings import Settings
from peml.tasks import Shots, Task

if TYPE_CHECKING:
    from peml.data.sources import TaskData
    from peml.methods.shape import ModelShape

_CHOICES = ("balanced", "first")


class ContextSettings(Settings):
    """A text per task that the model holds as keys and values in front of every row."""

    instruction: bool = False
    """Begin with the task's header or, if it has none, its description."""
    shots: int = Field(8, ge=0)
    """Number of solved rows of the task's train split. They are neither trained on (but see
    leave_one_out) nor scored."""
    choose: str = "balanced"
    """balanced: the first rows of each label in turn; first: the first rows; or a file of rows
    chosen by hand, NAME.jsonl or NAME.csv, each line a `task` and a `row`, its number in the split
    from 0. The first `shots` rows of each task are shown."""
    scope: Literal["task", "shared"] = "task"
    """task: each task has a context of its own, so a row's task has to be known. shared: all tasks
    have the same, with `shots` rows of all of them in turn."""
    draw: Literal["once", "epoch", "step"] = "once"
    """once: the same rows throughout. step: every training step shows others, drawn at random from
    the task's train rows without those of the batch. epoch: all steps of an epoch show the same
    ones; where one is in the batch, another stands in. choose: balanced draws rows of each label in
    turn. Evaluation and the saved model show those of once."""
    of: Literal["frozen", "adapted"] = "frozen"
    """Model that computes keys and values. frozen: the base model, once. adapted: those of the
    model as it is trained, computed in every step, with gradients; the merged model then answers as
    with the text in front of every row."""
    leave_one_out: Literal["exact", "masked"] | None = None
    """Train on the rows that are shown as well. Such a row sees neither itself nor one row of each
    other label, since the labels that are left would tell its own. exact: its context is computed
    without them. masked: their positions are taken out of the keys and values, which is cheaper,
    but the demonstrations after them have read them. Default: rows that are shown aren't trained
    on."""

    @field_validator("choose")
    @classmethod
    def _known(cls, choose: str) -> str:
        if choose not in _CHOICES and not choose.endswith(ENDINGS):
            raise ValueError(
                f"{choose!r} is neither balanced nor first, nor a file (.jsonl, .csv)."
                f"{nearest(choose, _CHOICES)}"
            )
        return choose

    @model_validator(mode="after")
    def _holds_something(self) -> ContextSettings:
        if not self.instruction and not self.shots:
            raise ValueError("a context needs shots of at least 1, or instruction: true")
        if self.draw != "once" and not self.shots:
            raise ValueError(
                f"draw: {self.draw} needs shots of at least 1, since it draws solved rows"
            )
        if self.scope == "shared" and (self.draw != "once" or self.leave_one_out is not None):
            raise ValueError("scope: shared needs draw: once, and no leave_one_out")
        if self.leave_one_out is not None and (self.draw != "once" or self.shots < 2):
            raise ValueError(
                "leave_one_out needs draw: once, since drawn rows are never those of the batch, "
                "and shots of at least 2, so that another is left"
            )
        return self

    def refuse_correction(self, dropout: float) -> None:
        """Raises a ValueError if contexts with these settings can't have a correction.

        ``dropout`` is the share of the positions that a training step leaves out.
        """
        trained = "a correction trains what stands at each position of a task's context"
        if self.draw != "once":
            raise ValueError(
                f"{trained}, and with context.draw: {self.draw} other rows stand there each time: "
                "set draw: once, or train no correction"
            )
        if self.leave_one_out == "exact" or (self.leave_one_out and dropout):
            raise ValueError(
                f"{trained}, and a row that is shown sees these without its own: set "
                "context.leave_one_out: masked and a correction without dropout"
            )

    def hold(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks with header and shots as their context.

        Raises:
            ConfigError: A task has shots of its own, is a chat, or has no text for a context.
            DataError: The file of chosen rows can't be used.
        """
        chosen = None if self.choose in _CHOICES else read_chosen(Path(self.choose))
        headers = [self._header(task) if self.instruction else None for task in tasks]
        counts = [self.shots] * len(tasks)
        if self.scope == "shared":
            headers = ["\n\n".join(filter(None, headers)) or None] * len(tasks)
            counts = self._spread(tasks)
        held = []
        for task, header, count in zip(tasks, headers, counts, strict=True):
            how: dict[str, Any] = {"choose": self.choose}
            if chosen is not None:
                rows = take_chosen(Path(self.choose), chosen, task.name) if count else ()
                how = {"rows": rows}
            held.append(_hold(task, header, Shots(count=count, split=task.shots.split, **how)))
        return tuple(held)

    def gather(self, data: Sequence[TaskData]) -> tuple[TaskData, ...]:
        """The loaded tasks; if they share a context, each has the solved rows of all."""
        if self.scope == "task":
            return tuple(data)
        turns = zip_longest(*(item.task.shots.examples for item in data))
        texts = tuple(text for turn in turns for text in turn if text is not None)
        gathered = []
        for item in data:
            shots = item.task.shots.model_copy(update={"count": 0, "examples": texts})
            task = item.task.model_copy(update={"shots": shots})
            gathered.append(replace(item, task=task))
        return tuple(gathered)

    def held(self, lengths: Sequence[int]) -> list[int]:
        """Lengths of the held contexts: a single one if all tasks share it."""
        return list(lengths[:1] if self.scope == "shared" else lengths)

    def _spread(self, tasks: Sequence[Task]) -> list[int]:
        """The number of rows of each task in a shared context; 0 for tasks without train rows."""
        able = [task.splits.train is not None or task.shots.split is not None for task in tasks]
        each, more = divmod(self.shots, max(1, sum(able)))
        places = accumulate(able, initial=0)
        return [
            each + (place < more) if can else 0 for can, place in zip(able, places, strict=False)
        ]

    def _header(self, task: Task) -> str:
        if not (task.header or task.description).strip():
            raise ConfigError(
                f"task {task.name!r} has neither a header nor a description, so there is no "
                "instruction to hold",
                allowed="a task with a header or a description",
                action="write one in the task's file, or set method.context.instruction: false",
            )
        return task.header or "{% raw %}" + task.description + "{% endraw %}"


def _hold(task: Task, header: str | None, shots: Shots) -> Task:
    if task.shots.count or task.shots.examples:
        raise ConfigError(
            f"task {task.name!r} shows solved rows in its prompts (shots), and "
            "method.context.shots holds them as keys and values",
            allowed="one of the two",
            action="take shots out of the task's file or set tasks.shots: 0, or choose a method "
            "without a context",
        )
    if task.chat is not None:
        raise ConfigError(
            f"task {task.name!r} is asked through the chat template (chat), and a context is text "
            "in front of plain prompts",
            allowed="tasks without a chat",
            action="take chat out of the task's file or set tasks.chat: false, or choose a method "
            "without a context",
        )
    return task.model_copy(update={"context": True, "header": header, "shots": shots})


class CorrectionSettings(Settings):
    """Numbers per task that are added to the keys and values of its context, and trained."""

    trains: Literal["none", "values", "keys-values"] = "none"
    """Trained part of a context: nothing, its values, or its keys and values."""
    kind: Literal["free", "low-rank"] = "free"
    """free: a parameter per number, from zero. low-rank: a product per layer, (positions x rank) at
    random times (rank x channels) from zero."""
    rank: int = Field(8, description="Rank of low-rank.", ge=1)
    freeze_first: bool = True
    """Leave a context's first position as computed, and never drop it: much attention rests on
    it."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Probability that a position of a context is left out in a training step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Default rate of the group `correction` (that of Context Tuning, arXiv 2507.04221)."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of the group `correction`; default: training.weight_decay."""

    @model_validator(mode="after")
    def _trains_what_is_set(self) -> CorrectionSettings:
        if self.trains == "none" and self != CorrectionSettings.model_construct():
            raise ValueError(
                "correction has settings, but trains nothing: set trains: values or keys-values"
            )
        return self

    @property
    def halves(self) -> int:
        """Number of trained halves: none, values (1), or keys and values (2)."""
        return {"none": 0, "values": 1, "keys-values": 2}[self.trains]

    @property
    def frozen_positions(self) -> int:
        """First positions that are neither trained nor dropped."""
        return int(self.freeze_first)

    def count(self, shape: ModelShape, contexts: Sequence[int]) -> int:
        """Trainable parameters for contexts of these lengths in tokens, in closed form."""
        attention = attention_shape(shape)
        channels = attention.kv_heads * attention.head_dim
        rows = sum(max(0, length - self.frozen_positions) for length in contexts)
        if self.kind == "low-rank":
            numbers = self.rank * (rows + channels * len(contexts))
        else:
            numbers = rows * channels
        return attention.layers * self.halves * numbers

    def smaller(self) -> Iterator[CorrectionSettings]:
        """These settings, then settings with smaller and smaller ranks."""
        yield self
        if self.kind == "low-rank" and self.trains != "none":
            for rank in range(self.rank - 1, 0, -1):
                yield self.model_copy(update={"rank": rank})


class ContextMethodSettings(MethodSettings):
    """Sections of every method whose tasks have contexts."""

    context: ContextSettings = Field(default_factory=lambda: ContextSettings())
    """What each task's context holds."""
    correction: CorrectionSettings = Field(default_factory=lambda: CorrectionSettings())
    """What is trained on top of the contexts."""

    @model_validator(mode="after")
    def _the_same_positions(self) -> Self:
        if self.correction.trains != "none":
            self.context.refuse_correction(self.correction.dropout)
        return self


class LoraContextSettings(ContextMethodSettings):
    """LoRA and a context per task."""

    name: Literal["lora+context"] = "lora+context"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")


class TunedContextSettings(ContextSettings):
    """The context that training starts from."""

    leave_one_out: Literal["exact", "masked"] | None = "masked"
    """Train on the rows that are shown as well; of such a row, its own positions and those of one
    row of each other label are masked. null: rows that are shown aren't trained on."""


class TunedCorrectionSettings(CorrectionSettings):
    """What is trained: numbers added to the keys and values of each task's context."""

    trains: Literal["none", "values", "keys-values"] = "keys-values"
    """Trained part of a context: its values, or its keys and values."""
    kind: Literal["free", "low-rank"] = "low-rank"
    """low-rank: a product per layer, (positions x rank) at random times (rank x channels) from
    zero. free: a parameter per number, from zero; of twenty times the size in the study where
    low-rank scored as high."""
    learning_rate: float = Field(1e-2, gt=0)
    """Default rate of the group `correction`; 3e-3 learned too slowly on SmolLM2."""
    dropout: float = Field(0, ge=0, lt=1)
    """Probability that a position of a context is left out in a training step; above 0 only
    without leave_one_out."""


class ContextTuningSettings(ContextMethodSettings):
    """A trained context per task; the model's weights stay as they are."""

    name: Literal["context-tuning"] = "context-tuning"
    context: TunedContextSettings = Field(default_factory=lambda: TunedContextSettings())
    """What each task's context holds at the start."""
    correction: TunedCorrectionSettings = Field(default_factory=lambda: TunedCorrectionSettings())
    """What is trained on top of it."""

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.correction.trains == "none":
            raise ValueError(
                "context-tuning trains nothing but contexts: set correction.trains to values or "
                "keys-values, or choose method frozen and tasks.shots"
            )
        if self.context.of == "adapted":
            raise ValueError(
                "context-tuning leaves the model as it is, so there is no adapted one to compute "
                "contexts: set context.of: frozen"
            )
        return self
