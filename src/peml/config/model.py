"""The whole config of a run, made of the sections of its components."""

from typing import Any

from pydantic import Field, field_validator

from peml.data.settings import BatchSettings, TasksSettings
from peml.evaluation import EvaluationSettings
from peml.methods.lora.settings import LoraMethodSettings
from peml.methods.registry import MethodSection
from peml.models import ModelSettings
from peml.records.run import TuningCost
from peml.settings import ConfigFile
from peml.training.settings import TrackingSettings, TrainingSettings


class RunConfig(ConfigFile):
    """The settings of a run."""

    model: ModelSettings = Field(default_factory=lambda: ModelSettings())
    """The frozen base model."""
    tasks: TasksSettings = Field(description="The tasks to learn.")
    batches: BatchSettings = Field(default_factory=lambda: BatchSettings())
    """Batches, and the shares of the tasks."""
    method: MethodSection = Field(default_factory=lambda: LoraMethodSettings())
    """What is trained on the frozen model."""
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings())
    """How the model is trained."""
    evaluation: EvaluationSettings = Field(default_factory=lambda: EvaluationSettings())
    """How the model is evaluated."""
    tracking: TrackingSettings = Field(default_factory=lambda: TrackingSettings())
    """Where the run's numbers are shown while it trains; may change when a run is resumed."""
    seed: int = Field(0, description="Random seed of initial weights, data order and noise.", ge=0)
    init_from: str | None = None
    """Weights to start from: a finished run's folder, or a LoRA that PEFT saved; default: new
    ones."""
    export: bool = Field(True, description="Save the final model; false if only the scores matter.")
    output: str | None = None
    """Run folder; default: runs/ and the config file's name."""
    tuning_cost: TuningCost | None = None
    """Cost of finding these settings. `peml tune` writes it; results and reports repeat it."""

    @field_validator("method", mode="before")
    @classmethod
    def _lora_where_none_is_named(cls, section: Any) -> Any:
        if not isinstance(section, dict) or "name" in section:
            return section
        known = {*LoraMethodSettings.model_fields, LoraMethodSettings.nested}
        foreign = [repr(key) for key in section if key not in known]
        if foreign:
            raise ValueError(
                f"without a name the method is lora, which has no {', '.join(foreign)}: "
                "name the method, for instance peml"
            )
        return {"name": "lora", **section}
