"""The ``training`` section of a config."""

from typing import Literal

from pydantic import Field

from peml.settings import Settings
from peml.training.balancing.settings import BalancingSettings

Tracker = Literal[
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
]


class TrackingSettings(Settings):
    """Experiment trackers that show a run's numbers while it trains."""

    log_with: tuple[Tracker, ...] = ("tensorboard",)
    """Trackers of Accelerate, several at once; [] for none. TensorBoard's files are in the run
    folder. Others need their package and, if they have a server, its key or address, as their
    documentation says. `metrics.jsonl` has the same numbers, always."""
    project: str = Field("peml", min_length=1)
    """Name of the project (W&B, Trackio) or experiment (MLflow) that the run belongs to."""


class TrainingSettings(Settings):
    """Length, learning rates, checkpoints and stopping of training."""

    epochs: float = Field(3.0, description="Passes over the training mixture.", gt=0)
    learning_rates: dict[str, float] = Field(default_factory=dict)
    """Parameter group (lora, prefix, architecture, heads, balancing): its peak learning rate. A
    group that is not named keeps its default."""
    learning_rate_factor: float = Field(1.0, gt=0)
    """Multiplies the learning rate of every group except `architecture`. A learning-rate grid
    varies it."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay of the learning rate after the warm-up; that of the architecture parameters is
    constant."""
    warmup: float = Field(0.06, ge=0, lt=1)
    """Fraction of the steps over which the learning rate warms up."""
    weight_decay: float = Field(0.0, description="AdamW's decoupled weight decay.", ge=0)
    clip: float = Field(1.0, description="Maximum norm of the gradient.", gt=0)
    clip_by: Literal["model", "group"] = "model"
    """Gradients that `clip` bounds. model: that of all trained parameters. group: each parameter
    group's by itself, so that a large gradient of one (a prefix, a context's correction) doesn't
    shorten the steps of the others."""
    accumulation: int = Field(1, ge=1)
    """Batches per optimiser step, over all processes that train together; at least one for each
    process."""
    balancing: BalancingSettings = Field(default_factory=lambda: BalancingSettings())
    """Weights of the tasks' losses."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the passes, in training and evaluation. `auto`: bf16 on a GPU that has it, and
    on a CPU with AVX512-BF16 if the model is at least 256 channels wide; else fp32. What trains is
    stored in float32."""
    compile: bool = False
    """Run the frozen model's blocks through `torch.compile` in training steps. The first steps then
    take a minute or more. Needs a C++ compiler; for GPUs Triton as well."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between evaluations on the development split; default: once per epoch."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; default: at every evaluation."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest checkpoints to keep."""
    keep: Literal["best", "last"] = "best"
    """Final weights: `best` has those with the best mean development metric, `last` those of the
    last step."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better mean development metric; default: never."""
    log_every: int = Field(10, description="Steps between log lines.", ge=1)
    explode_at: float = Field(1e4, gt=0)
    """A loss above this value stops the run as diverged."""
