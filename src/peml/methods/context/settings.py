"""What a config says of contexts; no torch, see `peml.methods.registry`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from peml.errors import ConfigError
from peml.methods.base import MethodSettings
from peml.methods.lora.settings import LoraSettings
from peml.settings import Settings
from peml.tasks import Shots, Task


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
    choose: Literal["balanced", "first"] = Field(
        "balanced",
        description="balanced: the first rows of each label in turn; first: the first rows.",
    )
    draw: Literal["once", "step"] = Field(
        "once",
        description="once: the same rows throughout. step: every training step shows others, drawn "
        "at random from the task's train rows without those of the batch; evaluation and the saved "
        "model show those of once.",
    )
    of: Literal["frozen", "adapted"] = Field(
        "frozen",
        description="Whose keys and values. frozen: those of the base model, computed once. "
        "adapted: those of the model as it is trained, computed in every step, with gradients; "
        "the merged model then answers as with the text in front of every row.",
    )

    @model_validator(mode="after")
    def _holds_something(self) -> ContextSettings:
        if not self.instruction and not self.shots:
            raise ValueError("a context needs shots of at least 1, or instruction: true")
        if self.draw == "step" and not self.shots:
            raise ValueError("draw: step needs shots of at least 1, since it draws solved rows")
        return self

    def hold(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """The tasks with header and shots as their context.

        Raises:
            ConfigError: A task has shots of its own, or nothing to hold.
        """
        return tuple(self._held(task) for task in tasks)

    def _held(self, task: Task) -> Task:
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
        shots = Shots(count=self.shots, choose=self.choose, split=task.shots.split)
        return task.model_copy(update={"context": True, "header": header, "shots": shots})


class LoraContextSettings(MethodSettings):
    """LoRA and a context per task."""

    name: Literal["lora+context"] = "lora+context"
    lora: LoraSettings = Field(default_factory=lambda: LoraSettings(), description="The LoRA.")
    context: ContextSettings = Field(
        default_factory=lambda: ContextSettings(), description="What each task's context holds."
    )
