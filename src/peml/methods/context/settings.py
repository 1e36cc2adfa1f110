"""What a config says of contexts; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from peml.data.chosen import ENDINGS, read_chosen, take_chosen
from peml.errors import ConfigError, nearest
from peml.methods.base import MethodSettings
from peml.methods.context.correction_settings import CorrectionSettings
from peml.methods.lora.settings import LoraSettings
from peml.settings import Settings
from peml.tasks import Shots, Task

_CHOICES = ("balanced", "first")


class ContextSettings(Settings):
    """A text per task that the model holds as keys and values in front of every row."""

    instruction: bool = Field(
        False,
        description="Begin with the task's header or, if it has none, its description.",
    )
    shots: int = Field(
        8,
        description="Number of solved rows of the task's train split. They are neither trained on "
        "nor scored.",
        ge=0,
    )
    choose: str = Field(
        "balanced",
        description="balanced: the first rows of each label in turn; first: the first rows; "
        "or a file of rows chosen by hand, NAME.jsonl or NAME.csv, each line a `task` and a "
        "`row`, its number in the split from 0. The first `shots` rows of each task are shown.",
    )
    draw: Literal["once", "epoch", "step"] = Field(
        "once",
        description="once: the same rows throughout. step: every training step shows others, drawn "
        "at random from the task's train rows without those of the batch. epoch: all steps of an "
        "epoch show the same ones; where one is in the batch, another stands in. Evaluation and "
        "the saved model show those of once.",
    )
    of: Literal["frozen", "adapted"] = Field(
        "frozen",
        description="Whose keys and values. frozen: those of the base model, computed once. "
        "adapted: those of the model as it is trained, computed in every step, with gradients; "
        "the merged model then answers as with the text in front of every row.",
    )

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
        return self

    def hold(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks with header and shots as their context.

        Raises:
            ConfigError: A task has shots of its own, or nothing to hold.
            DataError: The file of chosen rows can't be used.
        """
        if self.choose in _CHOICES:
            return tuple(self._held(task, self.choose) for task in tasks)
        path = Path(self.choose)
        chosen = read_chosen(path)
        return tuple(self._held(task, take_chosen(path, chosen, task.name)) for task in tasks)

    def _held(self, task: Task, choose: str | tuple[int, ...]) -> Task:
        if task.shots.count or task.shots.examples:
            raise ConfigError(
                f"task {task.name!r} shows solved rows in its prompts (shots), and "
                "method.context.shots holds them as keys and values",
                allowed="one of the two",
                action="set tasks.shots: 0, or choose a method without a context",
            )
        header = None
        if self.instruction:
            header = task.header or "{% raw %}" + task.description + "{% endraw %}"
            if not (task.header or task.description).strip():
                raise ConfigError(
                    f"task {task.name!r} has neither a header nor a description, so there is no "
                    "instruction to hold",
                    allowed="a task with a header or a description",
                    action="write one in the task's file, or set method.context.instruction: false",
                )
        shots = Shots.model_validate(
            {"count": self.shots, "choose": choose, "split": task.shots.split}
        )
        return task.model_copy(update={"context": True, "header": header, "shots": shots})


class LoraContextSettings(MethodSettings):
    """LoRA and a context per task."""

    name: Literal["lora+context"] = "lora+context"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    context: ContextSettings = Field(
        default_factory=lambda: ContextSettings(), description="What each task's context holds."
    )
    correction: CorrectionSettings = Field(
        default_factory=lambda: CorrectionSettings(),
        description="What is trained on top of the contexts.",
    )

    @model_validator(mode="after")
    def _the_same_positions(self) -> LoraContextSettings:
        if self.correction.trains != "none" and self.context.draw != "once":
            raise ValueError(
                f"correction.trains: {self.correction.trains} trains what stands at each position "
                f"of a context, and with context.draw: {self.context.draw} other rows stand there "
                "each time: set draw: once, or trains: none"
            )
        return self
